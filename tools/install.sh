#!/usr/bin/env bash
# Builds the collection and installs it where ansible looks for it: the first folder of ANSIBLE_COLLECTIONS_PATH or of the user's
# ansible.cfg, else ~/.ansible/collections. What was installed there before is replaced. Usage: install.sh
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp --directory)
trap 'rm -rf "$scratch"' EXIT
[ -n "${ANSIBLE_COLLECTIONS_PATH:-}" ] || unset ANSIBLE_COLLECTIONS_PATH

tools/build.sh "$scratch" >/dev/null
galaxy=$PWD/.venv/bin/ansible-galaxy
[ -x "$galaxy" ] || galaxy=ansible-galaxy
# This checkout's ansible.cfg is not the user's, and a link to this checkout is no place to unpack into.
cd "$scratch"
"$galaxy" collection install --force "$scratch"/orbiter-fleet-*.tar.gz
