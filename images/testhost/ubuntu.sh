#!/usr/bin/env bash
# Makes the image of test hosts with Ubuntu 24.04, orbiter-testhost:ubuntu. Where this machine has Ubuntu's keys, as public CI
# has, it is Ubuntu; elsewhere it is Debian bookworm, which has the same Redis and says that it is Ubuntu, so that the roles
# choose as they do there. An image that was made from this very script and base is left as it is. Usage: ubuntu.sh
set -euo pipefail
cd "$(dirname "$0")"

tag=orbiter-testhost:ubuntu
if [ -e /usr/share/keyrings/ubuntu-archive-keyring.gpg ]; then
  base=orbiter-testhost:noble
  # Redis is in another part of the archive than what build.sh installs.
  change='RUN sed -i "s/ main$/ main universe/; s/^Components:.*/Components: main universe/" /etc/apt/sources.list /etc/apt/sources.list.d/* || :'
else
  base=orbiter-testhost:bookworm
  change='RUN rm /etc/os-release && printf "%s\n" NAME=Ubuntu ID=ubuntu ID_LIKE=debian VERSION_ID=24.04 VERSION_CODENAME=noble >/etc/os-release'
fi
./build.sh "${base#*:}"
digest=$({ cat ubuntu.sh && docker image inspect --format '{{ .Id }}' "$base"; } | sha256sum | cut -c1-16)
if [ "$(docker image inspect --format '{{ index .Config.Labels "orbiter.source" }}' "$tag" 2>/dev/null)" = "$digest" ]; then
  echo "$tag is up to date"
  exit
fi
printf 'FROM %s\n%s\n' "$base" "$change" | docker build --quiet --tag "$tag" --label "orbiter.source=$digest" - >/dev/null
echo "$tag: made in $SECONDS s"
