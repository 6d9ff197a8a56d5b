# shellcheck shell=bash
# What build.sh and package.sh begin with: `out`, the folder that gets what is built, and `scratch` for all else, with what
# builds in $scratch/build; `python` and `galaxy`, of .venv where there is one. Source this from the top of the checkout.
python=.venv/bin/python galaxy=.venv/bin/ansible-galaxy
# Who only installs the collection has Ansible, and not all that developing needs.
if [ ! -x $python ]; then
  python=$(type -P python3 || true) galaxy=$(type -P ansible-galaxy || true)
  if [ -z "$galaxy" ] || ! "$python" -m pip --version >/dev/null 2>&1; then
    echo "build: ansible-galaxy or pip is not on PATH; install them into a virtual environment and activate it:" \
      "python3 -m venv venv && . venv/bin/activate && pip install ansible" >&2
    exit 1
  fi
fi
mkdir -p "${1:-dist}"
# shellcheck disable=SC2034  # for who reads this
out=$(cd "${1:-dist}" && pwd)
scratch=$(mktemp --directory)
trap 'rm -rf "$scratch"' EXIT
umask 022

# All files have the time of the commit.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

# What Git knows, of the whole checkout or of a part, as it stands here: no inventory of yours with its keys, no environment
# that you have made there, nothing else that lies about. A new file of ours is told of.
copy() {
  local new
  mkdir -p "$1"
  git ls-files -z --cached -- "${@:2}" | tar --create --null --files-from=- | tar --extract --directory="$1"
  new=$(git ls-files --others --exclude-standard -- "${@:2}" | grep -E '^(meta|playbooks|plugins|roles|worker)/' || true)
  [ -z "$new" ] || printf 'Left out, as Git does not know it (git add it): %s\n' "${new//$'\n'/, }" >&2
}

# Built, as releases are, with nothing but what roles/release/files/build.txt pins.
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
  --dest "$scratch/build" --requirement roles/release/files/build.txt
