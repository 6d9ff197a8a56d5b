#!/usr/bin/env bash
# Builds the worker's package for an index: its wheel and its source archive. The same commit makes the same bytes.
# Usage: package.sh [DIRECTORY]
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/build_begin.sh

copy "$scratch/tree" worker # as build backends leave files behind
env --unset=UV_INDEX --unset=UV_INDEX_URL --unset=UV_DEFAULT_INDEX --unset=UV_EXTRA_INDEX_URL \
  .venv/bin/uv build --quiet --no-config --no-cache --no-index --find-links "$scratch/build" --python .venv/bin/python \
  --no-create-gitignore --sdist --wheel --out-dir "$out" "$scratch/tree/worker"
