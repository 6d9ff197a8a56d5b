# shellcheck shell=bash
# What build.sh and package.sh begin with: `out`, the folder that gets what is built, and `scratch` for all else, with what
# builds in $scratch/build. Source this from the top of the checkout.
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
.venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
  --dest "$scratch/build" --requirement roles/release/files/build.txt
