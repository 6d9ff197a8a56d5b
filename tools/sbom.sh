#!/usr/bin/env bash
# Writes the bill of materials of a worker's release for each Python that is locked: CycloneDX as JSON, in dist/sbom/. It is the
# one that the release itself carries. Usage: sbom.sh [EXTRA...]; without any, the extras that releases have by default.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p dist/sbom
[ $# -gt 0 ] || set -- temporal otel openai

words=()
for extra in "$@"; do words+=(--extra "$extra"); done
for lock in worker/locks/py3??.txt; do
  python=${lock##*/py3}
  words+=(--target "3.${python%.txt}-x86_64")
done
.venv/bin/python roles/release/files/build_release.py "${words[@]}" |
  .venv/bin/python -c 'import json, sys; print(*json.load(sys.stdin)["archives"].values(), sep="\n")' |
  while read -r archive; do
    version=$(basename "$(dirname "$archive")")
    bill=dist/sbom/orbiter-worker-$version-$(basename "$archive" .tar).cdx.json
    tar --extract --to-stdout --file="$archive" sbom.cdx.json >"$bill"
    .venv/bin/python tools/check_sbom.py "$bill"
    echo "$bill"
  done
