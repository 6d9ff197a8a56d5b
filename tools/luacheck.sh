#!/usr/bin/env bash
# Checks the queue's scripts as Redis gets them: each with the parts that it includes.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -rf .cache/lua
.venv/bin/python -m orbiter.distributed.broker.scripts --assemble .cache/lua
luacheck --quiet .cache/lua
