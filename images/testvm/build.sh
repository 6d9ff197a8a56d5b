#!/usr/bin/env bash
# Makes the disk of a virtual host from Debian's packages: a kernel of its own and cgroup v2, which containers on a machine with
# cgroup v1 cannot have. Beside the disk lie the kernel, its initial file system, and the key that SSH wants.
# A disk that was made from this very script is left as it is. Usage: build.sh DIRECTORY [SUITE]
set -euo pipefail

directory=${1:?usage: build.sh DIRECTORY [SUITE]} suite=${2:-trixie} began=$SECONDS
# What every Debian server has, and the queue that workers of the tests connect to.
packages=linux-image-cloud-amd64,initramfs-tools,systemd,systemd-sysv,dbus,openssh-server,sudo,python3,python3-apt
packages+=,ca-certificates,iproute2,procps,redis-server
digest=$({ echo "$suite"; cat "$0"; } | sha256sum | cut -c1-16)
if [ "$(cat "$directory/made-from" 2>/dev/null)" = "$digest" ]; then
  echo "testvm: the disk is up to date"
  exit
fi
# Files of the disk belong to users that only root may give files to.
sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo)

echo "testvm: installing Debian $suite (about half a minute)"
mkdir -p "$directory"
rm -f "$directory/made-from" "$directory/disk.img"
[ -f "$directory/id_ed25519" ] || ssh-keygen -q -t ed25519 -N '' -C orbiter-testvm -f "$directory/id_ed25519"
root=$("${sudo[@]}" mktemp --directory)
trap '"${sudo[@]}" rm -rf "$root"' EXIT

# shellcheck disable=SC2016  # the hooks' "$1" is mmdebstrap's
"${sudo[@]}" mmdebstrap --quiet --variant=minbase --include="$packages" \
  --aptopt='APT::Install-Recommends "false"' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --customize-hook='chroot "$1" systemctl --quiet enable ssh redis-server systemd-networkd' \
  --customize-hook='chroot "$1" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer' \
  "$suite" "$root"

# QEMU's network for one guest has these addresses always.
"${sudo[@]}" tee "$root/etc/systemd/network/wired.network" >/dev/null <<'END'
[Match]
Name=en*

[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
END
# The tests ask this Redis from outside the guest.
"${sudo[@]}" tee -a "$root/etc/redis/redis.conf" >/dev/null <<'END'
bind 0.0.0.0
protected-mode no
END
"${sudo[@]}" install -D --mode=600 "$directory/id_ed25519.pub" "$root/root/.ssh/authorized_keys"
echo testvm | "${sudo[@]}" tee "$root/etc/hostname" >/dev/null
echo '127.0.0.1 localhost testvm' | "${sudo[@]}" tee "$root/etc/hosts" >/dev/null

"${sudo[@]}" cat "$root"/boot/vmlinuz-* >"$directory/vmlinuz"
"${sudo[@]}" cat "$root"/boot/initrd.img-* >"$directory/initrd.img"
truncate --size=4G "$directory/disk.img"
"${sudo[@]}" env PATH="$PATH:/usr/sbin:/sbin" mke2fs -q -F -t ext4 -d "$root" "$directory/disk.img"
echo "$digest" >"$directory/made-from"
echo "testvm: made in $((SECONDS - began)) s"
