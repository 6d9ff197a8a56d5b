#!/usr/bin/env bash
# Builds the collection with the worker inside, so that it deploys without this checkout: dist/orbiter-fleet-VERSION.tar.gz
# The same files make the same archive, byte for byte, wherever and whenever. Usage: build.sh [DIRECTORY]
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "${1:-dist}"
out=$(cd "${1:-dist}" && pwd)
scratch=$(mktemp --directory)
trap 'rm -rf "$scratch"' EXIT
umask 022

# What Git knows or would take: no caches, and nothing that lies about.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
mkdir "$scratch/tree"
git ls-files -z --cached --others --exclude-standard |
  tar --create --null --files-from=- | tar --extract --directory="$scratch/tree"

# A release's version tells what it is made of; the role builds from this wheel.
inside=$scratch/tree/roles/release/files/dist
# Built, as releases are, with nothing but what roles/release/files/build.txt pins.
.venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
  --dest "$scratch/build" --requirement roles/release/files/build.txt
PIP_CONFIG_FILE=/dev/null .venv/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-index \
  --find-links "$scratch/build" --wheel-dir "$inside" "$scratch/tree/worker"
cp -R "$scratch/tree/worker/locks" "$inside/"

.venv/bin/ansible-galaxy collection build --force --output-path "$scratch" "$scratch/tree" >/dev/null
for archive in "$scratch"/*.tar.gz; do
  .venv/bin/python tools/normalize_archive.py "$archive" "$out/${archive##*/}"
  echo "Created collection for orbiter.fleet at $out/${archive##*/}"
done
