#!/usr/bin/env bash
# Makes orbiter-testbase:trixie from Debian's packages: what tests build worker images on where no registry has
# python:3.12-slim. It has a Redis too, to stand in for redis:7-alpine in the stack of images/compose.
# An image that was made from this very script is left as it is. Usage: build.sh
set -euo pipefail
cd "$(dirname "$0")"

tag=orbiter-testbase:trixie
digest=$(sha256sum <build.sh | cut -c1-16)
if [ "$(docker image inspect --format '{{ index .Config.Labels "orbiter.source" }}' "$tag" 2>/dev/null)" = "$digest" ]; then
  echo "$tag is up to date"
  exit
fi
echo "$tag: installing Debian trixie (about half a minute)"
tarball=$(mktemp --suffix=.tar)
trap 'rm -f "$tarball"' EXIT
# shellcheck disable=SC2016  # the hook's "$1" is mmdebstrap's
mmdebstrap --quiet --variant=minbase --include=python3,ca-certificates,redis-server,redis-tools \
  --aptopt='APT::Install-Recommends "false"' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin' \
  trixie "$tarball"
docker import --change "LABEL orbiter.source=$digest" "$tarball" "$tag" >/dev/null
echo "$tag: made in $SECONDS s"
