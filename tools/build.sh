#!/usr/bin/env bash
# Builds the collection with the worker inside, so that it deploys without this checkout: dist/orbiter-fleet-VERSION.tar.gz
# The same files make the same archive, byte for byte, wherever and whenever. Usage: build.sh [DIRECTORY]
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/build_begin.sh

copy "$scratch/tree"
# A release's version tells what it is made of; the role builds from this wheel.
inside=$scratch/tree/roles/release/files/dist
PIP_CONFIG_FILE=/dev/null "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-index \
  --find-links "$scratch/build" --wheel-dir "$inside" "$scratch/tree/worker"
cp -R "$scratch/tree/worker/locks" "$inside/"

"$galaxy" collection build --force --output-path "$scratch" "$scratch/tree" >/dev/null
for archive in "$scratch"/*.tar.gz; do
  "$python" tools/normalize_archive.py "$archive" "$out/${archive##*/}"
  echo "Created collection for orbiter.fleet at $out/${archive##*/}"
done
