#!/usr/bin/env bash
# Builds the worker's package for an index: its wheel and its source archive. The same commit makes the same bytes.
# Usage: package.sh [DIRECTORY]
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "${1:-dist}"
out=$(cd "${1:-dist}" && pwd)
scratch=$(mktemp --directory)
trap 'rm -rf "$scratch"' EXIT
umask 022

SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
# In a copy, as build backends leave files behind; and with nothing but what roles/release/files/build.txt pins.
git ls-files -z --cached --others --exclude-standard worker | tar --create --null --files-from=- | tar --extract --directory="$scratch"
.venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
  --dest "$scratch/build" --requirement roles/release/files/build.txt
env --unset=UV_INDEX --unset=UV_INDEX_URL --unset=UV_DEFAULT_INDEX --unset=UV_EXTRA_INDEX_URL \
  .venv/bin/uv build --quiet --no-config --no-cache --no-index --find-links "$scratch/build" --python .venv/bin/python \
  --no-create-gitignore --sdist --wheel --out-dir "$out" "$scratch/worker"
