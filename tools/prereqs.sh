#!/usr/bin/env bash
# Installs what the project needs on this machine, only what is missing, and says what it does.
# Usage: prereqs.sh PART...   with PART one of: python redis promtool lint engine vm browser tmux servers
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf -- '--> %s\n' "$*"; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    echo "prereqs: neither root nor sudo; run this as root: $*" >&2
    exit 1
  fi
}

# apt COMMAND=PACKAGE...: installs the packages whose command is missing. (A function of that name, such as promtool, is no command.)
apt() {
  local missing=() pair
  for pair in "$@"; do
    PATH="$PATH:/usr/sbin:/sbin" type -P "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null; then
    echo "prereqs: no apt-get here; install these yourself, then run this again: ${missing[*]}" >&2
    exit 1
  fi
  say "installing with apt: ${missing[*]}"
  as_root apt-get update -qq
  # Services are for hosts; here only the programs are wanted.
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

pip_install() {
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: "$@"
}

python() {
  local digest
  apt python3=python3 git=git
  if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    say "installing with apt: python3-venv"
    as_root apt-get update -qq
    as_root apt-get -o DPkg::Lock::Timeout=300 install -y -qq python3-venv >/dev/null
  fi
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "prereqs: Python 3.11 or newer is needed, this is $(python3 --version)" >&2
    exit 1
  }
  # Roles and playbooks name each other orbiter.fleet.X: this checkout is that collection.
  mkdir -p .cache/collections/ansible_collections/orbiter
  ln -sfn ../../../.. .cache/collections/ansible_collections/orbiter/fleet
  digest=$(cat requirements/controller.txt roles/release/files/build.txt worker/pyproject.toml | sha256sum | cut -c1-16)
  [ "$(cat .venv/.digest 2>/dev/null)" = "$digest" ] && return 0
  say "making .venv (Python packages pinned in requirements/controller.txt)"
  [ -x .venv/bin/python ] || python3 -m venv .venv
  # uv needs seconds where pip needs two minutes; where only pip's own settings name an index, pip does it.
  pip_install -r <(awk '/^[a-z]/ { keep = /^uv==/ } keep' requirements/controller.txt)
  .venv/bin/uv pip install --python .venv --quiet --require-hashes --only-binary :all: -r requirements/controller.txt ||
    pip_install -r requirements/controller.txt
  # Built, as releases are, with nothing but what that file pins.
  rm -rf .cache/build
  .venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
    --dest .cache/build --requirement roles/release/files/build.txt
  PIP_CONFIG_FILE=/dev/null .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index \
    --find-links .cache/build --editable worker
  echo "$digest" >.venv/.digest
}

redis() { apt redis-server=redis-server redis-cli=redis-tools; }

promtool() { apt promtool=prometheus amtool=prometheus-alertmanager; }

vm() { apt qemu-system-x86_64=qemu-system-x86 mmdebstrap=mmdebstrap mke2fs=e2fsprogs ssh-keygen=openssh-client; }

browser() { apt chromium=chromium fc-list=fontconfig; }

tmux() { apt tmux=tmux; }

servers() { apt mmdebstrap=mmdebstrap; }

lint() { apt shellcheck=shellcheck luacheck=lua-check; }

engine() {
  apt dockerd=docker.io mmdebstrap=mmdebstrap iptables=iptables ssh-keygen=openssh-client
  docker info >/dev/null 2>&1 && return 0
  if [ -d /run/systemd/system ]; then
    as_root systemctl start docker
  else
    say "no systemd here: starting dockerd in the background (log: .cache/dockerd.log)"
    mkdir -p .cache
    as_root setsid --fork dockerd >.cache/dockerd.log 2>&1 </dev/null
  fi
  for _ in $(seq 150); do
    docker info >/dev/null 2>&1 && return 0
    sleep 0.2
  done
  echo "prereqs: the Docker engine did not answer within 30 s; see .cache/dockerd.log or 'journalctl -u docker'" >&2
  exit 1
}

for part in "$@"; do
  case $part in
    python | redis | promtool | lint | engine | vm | browser | tmux | servers) "$part" ;;
    *) echo "prereqs: unknown part '$part'; known: python redis promtool lint engine vm browser tmux servers" >&2; exit 2 ;;
  esac
done
