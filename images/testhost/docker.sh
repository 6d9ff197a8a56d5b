#!/usr/bin/env bash
# Makes the images of test hosts that run a Docker engine of their own, such as orbiter-testhost:trixie-docker, from those
# that build.sh has made. An image that was made from this very script and base is left as it is. Usage: docker.sh SUITE...
set -euo pipefail
cd "$(dirname "$0")"

# In a container the engine may not set what the kernel does with IPv6. What a host for compose stacks needs; python3-requests is what Ansible's Docker modules need on a host that builds images.
packages="docker.io docker-cli docker-compose iptables python3-requests"

build() {
  local base=orbiter-testhost:$1 tag=orbiter-testhost:$1-docker began=$SECONDS digest
  digest=$({ cat docker.sh; docker image inspect --format '{{ .Id }}' "$base"; } | sha256sum | cut -c1-16)
  if [ "$(docker image inspect --format '{{ index .Config.Labels "orbiter.source" }}' "$tag" 2>/dev/null)" = "$digest" ]; then
    echo "$tag is up to date"
    return
  fi
  echo "$tag: installing Docker (about half a minute)"
  docker build --quiet --tag "$tag" --label "orbiter.source=$digest" - >/dev/null <<DOCKERFILE
FROM $base
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages \
 && systemctl mask --quiet systemd-modules-load.service \
 && mkdir -p /etc/systemd/system/docker.service.d \
 && printf '[Service]\nEnvironment=DOCKER_ALLOW_IPV6_ON_IPV4_INTERFACE=1\n' >/etc/systemd/system/docker.service.d/testhost.conf \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
DOCKERFILE
  echo "$tag: made in $((SECONDS - began)) s"
}

for suite in "$@"; do build "$suite"; done
