#!/usr/bin/env bash
# Builds the collection with the worker inside, so that it deploys without this checkout: dist/orbiter-fleet-VERSION.tar.gz
set -euo pipefail
cd "$(dirname "$0")/.."

inside=roles/release/files/dist
rm -rf "$inside"
.venv/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$inside" ./worker
cp -R worker/locks "$inside/"
.venv/bin/ansible-galaxy collection build --force --output-path dist
