#!/usr/bin/env bash
# Makes the images of test hosts, orbiter-testhost:bookworm and :trixie, from Debian's packages, without an image registry.
# An image that was made from this very script is left as it is. Usage: build.sh [SUITE...]
set -euo pipefail
cd "$(dirname "$0")"

# What every Debian server has, and no more: the roles install the rest.
packages=systemd,systemd-sysv,dbus,openssh-server,sudo,python3,python3-apt,ca-certificates,iproute2,procps,nftables
# What a container has no use for, or may not do.
masked="dev-hugepages.mount sys-fs-fuse-connections.mount systemd-udevd.service systemd-logind.service getty.target
  console-getty.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service systemd-binfmt.service"
masked=${masked//$'\n'/}
digest=$(cat build.sh host-keys.conf | sha256sum | cut -c1-16)

# shellcheck disable=SC2016  # the hooks' "$1" is mmdebstrap's

build() {
  local suite=$1 tag=orbiter-testhost:$1 began=$SECONDS tarball
  if [ "$(docker image inspect --format '{{ index .Config.Labels "orbiter.source" }}' "$tag" 2>/dev/null)" = "$digest" ]; then
    echo "$tag is up to date"
    return
  fi
  echo "$tag: installing Debian $suite (about half a minute)"
  tarball=$(mktemp --suffix=.tar)
  # shellcheck disable=SC2064  # the name is meant to be expanded now
  trap "rm -f '$tarball'" RETURN
  mmdebstrap --quiet --variant=minbase --include="$packages" \
    --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='chroot "$1" systemctl mask --quiet '"$masked" \
    --customize-hook='chroot "$1" systemctl enable --quiet ssh' \
    --customize-hook='rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/machine-id; : >"$1/etc/machine-id"' \
    --customize-hook='mkdir -p "$1/etc/systemd/system/ssh.service.d"' \
    --customize-hook='upload host-keys.conf /etc/systemd/system/ssh.service.d/host-keys.conf' \
    "$suite" "$tarball"
  docker import --change 'CMD ["/sbin/init"]' --change 'ENV container=docker' \
    --change "LABEL orbiter.source=$digest" "$tarball" "$tag" >/dev/null
  echo "$tag: made in $((SECONDS - began)) s"
}

for suite in "${@:-bookworm trixie}"; do
  for one in $suite; do build "$one"; done
done
