#!/usr/bin/env bash
# Pins every dependency, with hashes: the worker's for each Python version that hosts may have, and the controller's.
set -euo pipefail
cd "$(dirname "$0")/.."

pin() {
  uv pip compile --quiet --no-header --no-annotate --no-emit-index-url --no-emit-find-links --generate-hashes \
    --python-platform x86_64-manylinux_2_28 "$@"
}

for version in 3.11 3.12 3.13; do
  echo "worker/locks/py${version/./}.txt"
  pin --python-version "$version" worker/pyproject.toml --output-file "worker/locks/py${version/./}.txt"
done
echo requirements/controller.txt
# Tests run with every extra whose library they call.
pin --python-version 3.11 requirements/controller.in worker/pyproject.toml \
  --extra openai --extra anthropic --extra temporal --extra otel --extra dev --output-file requirements/controller.txt
