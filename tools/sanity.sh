#!/usr/bin/env bash
# Runs ansible-test sanity on what the collection ships, in a copy outside the checkout: ansible-test insists on a path of its
# own, and asks Git for its files.
set -euo pipefail
cd "$(dirname "$0")/.."
top=$(mktemp --directory)
trap 'rm -rf "$top"' EXIT
copy=$top/ansible_collections/orbiter/fleet
mkdir -p "$copy"
git ls-files -z --cached --others --exclude-standard -- . ':!worker' ':!molecule' ':!benchmarks' ':!.config' |
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
ansible-test sanity --venv --python "$python_version" --color no
