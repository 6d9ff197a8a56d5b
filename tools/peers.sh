#!/usr/bin/env bash
# Usage: peers.sh DIRECTORY: installs there the task queues that `make bench-peers` measures ours beside, as they are
# pinned. Nothing of them is ever part of what is released.
set -euo pipefail
cd "$(dirname "$0")/.."
directory=$1
[ -n "$(command -v npm)" ] || { echo "npm is not installed: BullMQ needs Node.js (apt-get install npm)" >&2; exit 1; }
python -m venv "$directory"
"$directory/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
  -r requirements/peers.txt
cp worker/benchmarks/peer_programs/package.json worker/benchmarks/peer_programs/package-lock.json "$directory"
npm ci --prefix "$directory" --ignore-scripts --no-audit --no-fund --silent
