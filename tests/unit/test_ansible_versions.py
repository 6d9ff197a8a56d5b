"""The playbooks' checks say the same with each ansible-core that the collection takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import ansible_collections
import pytest
import yaml

CHECKOUT = Path(__file__).parents[2]
# The newest one is what all other tests run with.
OLDER = ("2.17", "2.18")
TESTS = ["tests/unit/plugins/action", "tests/unit/plugins/callback", "tests/unit/playbooks/test_reach.py"]


def test_the_oldest_is_the_one_that_the_collection_asks_for():
    asked = yaml.safe_load((CHECKOUT / "meta/runtime.yml").read_text())["requires_ansible"]
    assert asked == f">={OLDER[0]}.0"


@pytest.mark.nightly
@pytest.mark.parametrize("core", OLDER)
def test_checks_say_the_same_with_an_older_ansible(core, tmp_path):
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    packages = [f"ansible-core=={core}.*", "pytest", "redis", "hypothesis"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    # With the collections of others that the checkout's Ansible brings.
    others = [str(Path(path).parent) for path in ansible_collections.__path__]
    environment = os.environ | {
        "ANSIBLE_COLLECTIONS_PATH": ":".join([str(CHECKOUT / ".cache/collections"), *others]),
        "ANSIBLE_HOME": str(tmp_path / "home"),
        "PATH": f"{python.parent}:{os.environ['PATH']}",
    }
    words = [python, "-m", "pytest", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(words, cwd=CHECKOUT, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 40
