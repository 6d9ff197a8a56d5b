"""The worker's package: one version for it and the collection; its wheel holds what programs and mypy read."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).parents[2]
SOURCE = CHECKOUT / "worker/src"
PROJECT = tomllib.loads((CHECKOUT / "worker/pyproject.toml").read_text())["project"]
COLLECTION = yaml.safe_load((CHECKOUT / "galaxy.yml").read_text())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return the names of the files in the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        f"--wheel-dir={folder}",
        CHECKOUT / "worker",
    ]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_collection_and_worker_have_one_version():
    assert COLLECTION["version"] == PROJECT["version"] == version("orbiter-distributed")


def test_collection_and_worker_name_the_same_urls():
    urls = PROJECT["urls"]
    assert urls["Repository"] == COLLECTION["repository"]
    assert urls["Documentation"] == COLLECTION["documentation"]
    assert urls["Issues"] == COLLECTION["issues"]


def test_wheel_holds_every_source_file_and_script(files):
    sources = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and ".egg-info" not in str(path)
    }
    assert [name for name in sources if name.endswith(".lua")]
    assert sources - files == set()


def test_every_package_of_the_namespace_carries_its_types(files):
    packages = {"/".join(name.split("/")[:2]) for name in files if name.startswith("orbiter/")}
    assert packages
    assert {f"{package}/py.typed" for package in packages} - files == set()
