"""The collection as `ansible-galaxy` installs it deploys a fleet without this checkout."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
# Nothing of this checkout's configuration: it would find the checkout itself.
ELSEWHERE = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build the collection and install it into an empty path."""
    subprocess.run(["make", "--no-print-directory", "build"], cwd=CHECKOUT, check=True)
    (tarball,) = (CHECKOUT / "dist").glob("orbiter-fleet-*.tar.gz")
    path = tmp_path_factory.mktemp("collections")
    install = ["ansible-galaxy", "collection", "install", "--no-deps", "--collections-path", str(path), str(tarball)]
    subprocess.run(install, check=True, cwd=path, env=ELSEWHERE)
    return path


@pytest.fixture
def site(installed, inventory, tmp_path):
    """Return a function that runs orbiter.fleet.site from an empty directory and an empty home."""
    environment = ELSEWHERE | {
        "ANSIBLE_COLLECTIONS_PATH": str(installed),
        "HOME": str(tmp_path),
        "ANSIBLE_NOCOLOR": "1",
    }
    command = ["ansible-playbook", "orbiter.fleet.site", "--inventory", inventory]
    return lambda: subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)


def test_installed_collection_deploys_and_converges(site, fleet, workers):
    first = site()
    assert first.returncode == 0, first.stdout + first.stderr
    assert fleet.instances() == {(name, number) for name in workers for number in ("1", "2")}
    second = site()
    assert second.returncode == 0, second.stdout + second.stderr
    assert not [line for line in second.stdout.splitlines() if line.startswith("changed:")]


def test_it_holds_what_users_need_and_nothing_of_development(installed):
    root = installed / "ansible_collections/orbiter/fleet"
    top = {path.name for path in root.iterdir()}
    assert {"README.md", "LICENSE", "roles", "playbooks", "plugins", "meta", "docs", "inventories"} <= top
    assert not top & {"worker", "molecule", "tests", "tools", ".venv", ".cache", "examples", "images", "Makefile"}
    assert not (root / "inventories/demo").exists()
