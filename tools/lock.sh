#!/usr/bin/env bash
# Pins every dependency, with hashes: the worker's for each Python version that hosts may have, and the controller's.
# Of the worker's, py311.txt is what every release has, and py311-EXTRA.txt what an extra adds to it.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp --directory)
trap 'rm -rf "$scratch"' EXIT

pin() {
  uv pip compile --quiet --no-header --no-annotate --no-emit-index-url --no-emit-find-links --generate-hashes \
    --python-platform x86_64-manylinux_2_28 "$@"
}

# without BASE < LOCK: what a lock has beyond another, each entry with the lines of its hashes.
without() { awk 'NR == FNR { if (/^[a-z]/) base[$1]; next } /^[a-z]/ { keep = !($1 in base) } keep' "$1" -; }

extras=$(python -c 'import tomllib; print(*tomllib.load(open("worker/pyproject.toml", "rb"))["project"]["optional-dependencies"])')
for version in 3.11 3.12 3.13; do
  lock=worker/locks/py${version/./}
  # All extras at once first: a release may have any of them, and one version of each package. What is pinned stays.
  cat "$lock".txt "$lock"-*.txt >"$scratch/all.txt" 2>/dev/null || true
  pin --python-version "$version" --only-binary :all: worker/pyproject.toml --extra all --output-file "$scratch/all.txt"
  pins=(--python-version "$version" --constraints "$scratch/all.txt" worker/pyproject.toml)
  echo "$lock.txt"
  pin "${pins[@]}" --output-file "$lock.txt"
  for extra in $extras; do
    # `all` is a list of others, and these two are for developing.
    case $extra in all | dev | redis-server) continue ;; esac
    echo "$lock-$extra.txt"
    pin "${pins[@]}" --extra "$extra" --output-file "$scratch/extra.txt"
    without "$lock.txt" <"$scratch/extra.txt" >"$lock-$extra.txt"
    rm "$scratch/extra.txt"
  done
done
echo requirements/controller.txt
# Tests run with every extra whose library they call.
pin --python-version 3.11 requirements/controller.in worker/pyproject.toml \
  --extra openai --extra anthropic --extra temporal --extra otel --extra dev --output-file requirements/controller.txt
