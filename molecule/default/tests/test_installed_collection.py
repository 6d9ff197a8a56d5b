"""The collection as `ansible-galaxy` installs it deploys a fleet without this checkout."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
# Nothing of this checkout's configuration: it would find the checkout itself.
ELSEWHERE = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Build the collection; return its archive."""
    return build(tmp_path_factory.mktemp("dist"))


def build(folder):
    """Build the collection into a folder; return its archive."""
    subprocess.run([str(CHECKOUT / "tools/build.sh"), str(folder)], check=True)
    (path,) = folder.glob("orbiter-fleet-*.tar.gz")
    return path


@pytest.fixture(scope="module")
def installed(archive, tmp_path_factory):
    """Install the collection into an empty path."""
    path = tmp_path_factory.mktemp("collections")
    install = ["ansible-galaxy", "collection", "install", "--no-deps", "--collections-path", str(path), str(archive)]
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


def test_same_files_make_the_same_archive(archive, tmp_path):
    (CHECKOUT / "README.md").touch()  # time alone makes no difference
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (archive, build(tmp_path))}
    assert len(digests) == 1


def test_archive_is_small_and_names_nobody(archive):
    assert archive.stat().st_size <= 2_000_000
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {(0, 0, "", "")}
    assert {member.mode for member in members} <= {0o644, 0o755}


def test_archive_holds_what_the_roles_need_and_nothing_of_development(archive):
    with tarfile.open(archive) as tar:
        held = {member.name for member in tar if member.isfile()}
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    ours = set(subprocess.run(listing, cwd=CHECKOUT, check=True, text=True, capture_output=True).stdout.splitlines())
    built = "roles/release/files/dist/"
    (wheel,) = (name for name in held if name.startswith(built) and name.endswith(".whl"))
    locks = {name.replace("worker/", built) for name in ours if name.startswith("worker/locks/")}

    # Beside those, only what Git knows; of roles and plugins all of it.
    assert held - ours == {"MANIFEST.json", "FILES.json", wheel} | locks
    assert {name for name in ours - held if name.startswith(("roles/", "plugins/", "meta/"))} == set()
    top = {name.partition("/")[0] for name in held - {"MANIFEST.json", "FILES.json"}}
    assert top >= {"README.md", "LICENSE", "roles", "playbooks", "plugins", "meta", "docs", "inventories", "changelogs"}
    assert not top & {"worker", "molecule", "tests", "tools", ".venv", ".cache", "examples", "requirements", "Makefile"}
    assert not [
        name for name in held if name.startswith(("inventories/demo", "playbooks/demo", "changelogs/fragments"))
    ]
