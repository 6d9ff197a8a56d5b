#!/usr/bin/env bash
# Runs ansible-test on what the collection ships, in a copy outside the checkout: ansible-test insists on a path of its own, and
# asks Git for its files.
# Usage: ansible_test.sh sanity, or units: the tests of plugins, by this environment, in the way that Galaxy's other users run them.
set -euo pipefail
cd "$(dirname "$0")/.."
part=${1:?sanity or units}
top=$(mktemp --directory)
trap 'rm -rf "$top"' EXIT
copy=$top/ansible_collections/orbiter/fleet
mkdir -p "$copy"
[ "$part" = units ] || not_shipped=':!worker'
git ls-files -z --cached --others --exclude-standard -- . ${not_shipped:+"$not_shipped"} ':!molecule' ':!benchmarks' ':!.config' |
  tar --create --null --files-from=- | tar --extract --directory="$copy"

# ansible-test makes its virtual environments with a script that it downloads. Where that cannot be, this one does the same
# with what Python brings; ansible-test takes a file that is there.
python - <<'END'
import pathlib
import re

import ansible_test

script = """import subprocess
import sys

wanted = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
subprocess.check_call([sys.executable, "-m", "ensurepip", "--default-pip"])
subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", *wanted])
"""
source = pathlib.Path(ansible_test.__file__).parent / "_internal" / "python_requirements.py"
cache = pathlib.Path.home() / ".ansible" / "test" / "cache"
cache.mkdir(parents=True, exist_ok=True)
for version in re.findall(r"'(\d+\.\d+(?:\.\d+)?)'", source.read_text()):
    file = cache / f"get_pip_{version.replace('.', '_')}.py"
    if not file.exists():
        file.write_text(script)
END

python_version=$(python -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")')
cd "$copy"
case $part in
  sanity) ansible-test sanity --venv --python "$python_version" --color no ;;
  units) ansible-test units --python "$python_version" --color no --num-workers 2 tests/unit/plugins/ ;;
esac
