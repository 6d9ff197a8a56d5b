#!/usr/bin/env bash
# Pins every dependency, with hashes: the worker's for each Python version that hosts may have, the controller's, what the
# worker's unit tests need, what `make bench-peers` measures beside, and what projects are built with. Of the worker's, py311.txt is what every release has, and
# py311-EXTRA.txt what an extra adds to it.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp --directory)
trap 'rm -rf "$scratch"' EXIT

pin() {
  uv pip compile --quiet --no-header --no-annotate --no-emit-index-url --no-emit-find-links --generate-hashes "$@"
}

pin_for_linux() { pin --python-platform x86_64-manylinux_2_28 "$@"; }

# without BASE < LOCK: what a lock has beyond another, each entry with the lines of its hashes.
without() { awk 'NR == FNR { if (/^[a-z]/) base[$1]; next } /^[a-z]/ { keep = !($1 in base) } keep' "$1" -; }

extras=$(python -c 'import tomllib; print(*tomllib.load(open("worker/pyproject.toml", "rb"))["project"]["optional-dependencies"])')
for version in 3.11 3.12 3.13; do
  lock=worker/locks/py${version/./}
  # All extras at once first: a release may have any of them, and one version of each package. What is pinned stays.
  cat "$lock".txt "$lock"-*.txt >"$scratch/all.txt" 2>/dev/null || true
  pin_for_linux --python-version "$version" --only-binary :all: worker/pyproject.toml --extra all --output-file "$scratch/all.txt"
  pins=(--python-version "$version" --constraints "$scratch/all.txt" worker/pyproject.toml)
  echo "$lock.txt"
  pin_for_linux "${pins[@]}" --output-file "$lock.txt"
  for extra in $extras; do
    # `all` is a list of others, and these two are for developing.
    case $extra in all | reload | redis-server) continue ;; esac
    echo "$lock-$extra.txt"
    pin_for_linux "${pins[@]}" --extra "$extra" --output-file "$scratch/extra.txt"
    without "$lock.txt" <"$scratch/extra.txt" >"$lock-$extra.txt"
    rm "$scratch/extra.txt"
  done
done
# Tests run with every extra whose library they call.
tested=(--extra openai --extra anthropic --extra temporal --extra otel --extra reload --extra dashboard --extra top)
echo requirements/controller.txt
pin_for_linux --python-version 3.11 requirements/controller.in worker/pyproject.toml "${tested[@]}" \
  --group worker/pyproject.toml:test --group worker/pyproject.toml:lint --group worker/pyproject.toml:docs \
  --output-file requirements/controller.txt
echo requirements/unit.txt
pin_for_linux --python-version 3.11 worker/pyproject.toml "${tested[@]}" --group worker/pyproject.toml:unit \
  --constraints requirements/controller.txt --output-file requirements/unit.txt
echo requirements/peers.txt
pin_for_linux --python-version 3.11 requirements/peers.in --output-file requirements/peers.txt
npm install --prefix worker/benchmarks/peer_programs --package-lock-only --ignore-scripts --no-audit --no-fund --silent
echo roles/release/files/build.txt
pin --universal --python-version 3.11 --only-binary :all: requirements/build.in --output-file roles/release/files/build.txt
