"""What goes into a release, and what is refused before any host is touched: the controller's part, without a host."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
BUILD = CHECKOUT / "roles/release/files/build_release.py"
HASH = "sha256:" + "0" * 64


def make_wheel(folder, name="tools", *, tag="py3-none-any", version="1.0", metadata=""):
    """Make a wheel with one module; return its path."""
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", "answer = 42\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def make_project(folder, name, *, version):
    """Make a project without dependencies, which builds without a network; return its folder."""
    folder.mkdir()
    wheel = make_wheel(folder / "dist", name, version=version)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n'
    )
    (folder / "backend.py").write_text(
        "import shutil\n"
        "def build_wheel(folder, *_):\n"
        f"    shutil.copy({str(wheel)!r}, folder)\n"
        f"    return {wheel.name!r}\n"
    )
    return folder


@pytest.fixture
def worker(tmp_path):
    """Return the folder of a worker with one extra, neither of which needs anything."""
    folder = make_project(tmp_path / "worker", "orbiter_distributed", version="7.0")
    (folder / "locks").mkdir()
    for lock in ("py311", "py311-temporal", "py313", "py313-temporal"):
        (folder / f"locks/{lock}.txt").write_text("")
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Return a cache for all tests, so that what they share is downloaded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def build(worker, cache):
    """Return a function that builds a release for hosts with Python 3.11, of a small worker unless told otherwise."""

    def run(*options, source=worker, target="3.11-x86_64"):
        words = [sys.executable, str(BUILD), "--cache", str(cache), "--target", target, *map(str, options)]
        words += ["--source", str(source)] if source else []
        return subprocess.run(words, text=True, capture_output=True, check=False)

    return run


def built(done):
    """Return what the build says, which must have succeeded."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wheels(done, target="3.11-x86_64"):
    """Return the names and versions of a release's wheels."""
    with tarfile.open(built(done)["archives"][target]) as tar:
        return {tuple(Path(name).name.split("-")[:2]) for name in tar.getnames() if name.startswith("wheels/")}


def refused(done):
    """Return why nothing was built."""
    assert done.returncode == 1
    assert done.stdout == ""
    return done.stderr


def test_release_holds_what_its_extras_need_and_nothing_more(build):
    # The real worker and its real locks.
    bare, durable = (wheels(build(*options, source=None)) for options in ((), ("--extra", "temporal")))
    assert {name for name, _ in durable - bare} == {"temporalio", "nexus_rpc", "protobuf", "types_protobuf"}
    assert bare < durable


def test_every_extra_is_pinned_for_every_python():
    locks = {path.stem.partition("-")[::2] for path in (CHECKOUT / "worker/locks").glob("py*-*.txt")}
    pythons = {path.stem for path in (CHECKOUT / "worker/locks").glob("py???.txt")}
    project = tomllib.loads((CHECKOUT / "worker/pyproject.toml").read_text())["project"]
    # Those that no release may have, as in tools/lock.sh.
    extras = set(project["optional-dependencies"]) - {"all", "reload", "redis-server"}
    assert locks == {(python, extra) for python in pythons for extra in extras}


def test_extras_are_part_of_the_releases_name(build):
    bare, durable = built(build("--dry-run")), built(build("--dry-run", "--extra", "temporal"))
    assert bare["version"] != durable["version"]
    assert built(build("--dry-run", "--extra", "temporal"))["version"] == durable["version"]


def test_unknown_extra_is_refused_naming_the_known(build):
    said = refused(build("--extra", "temporal", "--extra", "banana"))
    assert "worker_extras: the worker has no extra banana that can go into a release; it has temporal" in said


@pytest.mark.guide("Dockerfile", "application code, for tools by importable path")
def test_project_wheel_and_requirements_go_into_one_release(build, tmp_path):
    wheel = make_wheel(tmp_path / "given", "tools")
    requirements = tmp_path / "needs.txt"
    pin = "six==1.17.0 --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"
    requirements.write_text(f"# universal\n{pin}\nnever==1 ; python_version < '3.11' \\\n    --hash={HASH}\n")
    project = make_project(tmp_path / "project", "agents", version="2.0")
    options = [word for app in (wheel, requirements, project) for word in ("--app", app)]
    found = wheels(build(*options))
    assert found == {("tools", "1.0"), ("six", "1.17.0"), ("agents", "2.0"), ("orbiter_distributed", "7.0")}


def make_project_that_is_written_to(folder):
    """Make a project whose build writes into its folder, as setuptools does; return the folder."""
    project = make_project(folder, "agents", version="2.0")
    backend = (project / "backend.py").read_text()
    (project / "backend.py").write_text(
        "import os, pathlib\n"
        "for path in ('.', 'backend.py', 'agents/build/inner.py'):\n"
        "    assert os.stat(path).st_mode & 0o200, path\n"
        "assert not pathlib.Path('build/stale.py').exists(), 'what an earlier build left is source'\n"
        "pathlib.Path('build').mkdir(exist_ok=True)\n"
        "pathlib.Path('agents.egg-info').mkdir(exist_ok=True)\n" + backend
    )
    (project / "agents/build").mkdir(parents=True)
    (project / "agents/build/inner.py").write_text("")
    return project


def names_in(folder):
    """Return all that is in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_build_leaves_nothing_in_the_projects_folder(build, tmp_path):
    project = make_project_that_is_written_to(tmp_path / "project")
    before = names_in(project)
    assert ("agents", "2.0") in wheels(build("--app", project))
    assert names_in(project) == before


def test_project_that_cannot_be_written_to_is_built(build, tmp_path):
    project = make_project_that_is_written_to(tmp_path / "project")
    for path in (*project.rglob("*"), project):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert ("agents", "2.0") in wheels(build("--app", project))


def test_what_an_earlier_build_left_is_not_built_again(build, tmp_path):
    project = make_project_that_is_written_to(tmp_path / "project")
    (project / "build").mkdir()
    (project / "build/stale.py").write_text("")
    assert ("agents", "2.0") in wheels(build("--app", project))


def test_change_of_any_file_that_is_built_makes_another_release(build, tmp_path):
    project = make_project_that_is_written_to(tmp_path / "project")
    before = built(build("--dry-run", "--app", project))["version"]
    (project / "agents/build/inner.py").write_text("answer = 42\n")
    assert built(build("--dry-run", "--app", project))["version"] != before


def test_link_that_leads_back_up_is_not_followed(build, tmp_path):
    project = make_project_that_is_written_to(tmp_path / "project")
    (project / "agents/again").symlink_to("..")
    (project / "agents/nowhere").symlink_to("missing")
    assert ("agents", "2.0") in wheels(build("--app", project))


def test_wheel_for_another_python_is_refused(build, tmp_path):
    wheel = make_wheel(tmp_path, tag="cp313-cp313-manylinux_2_28_x86_64")
    said = refused(build("--app", wheel))
    assert "a host has Python 3.11 on x86_64, and of tools there is no wheel for it: " + wheel.name in said
    assert wheels(build("--app", wheel, target="3.13-x86_64"), "3.13-x86_64") >= {("tools", "1.0")}


def test_one_wheel_is_chosen_for_each_kind_of_host(build, tmp_path):
    both = [make_wheel(tmp_path, tag=f"cp{version}-cp{version}-linux_x86_64") for version in ("311", "313")]
    options = [word for wheel in both for word in ("--app", wheel)]
    done = build(*options, "--target", "3.13-x86_64")
    for target, wheel in zip(("3.11-x86_64", "3.13-x86_64"), both, strict=True):
        with tarfile.open(built(done)["archives"][target]) as tar:
            assert [name for name in tar.getnames() if "tools" in name] == [f"wheels/{wheel.name}"]


def test_wheel_that_asks_for_a_newer_python_is_refused(build, tmp_path):
    wheel = make_wheel(tmp_path, metadata="Requires-Python: >=3.12")
    assert f"{wheel.name} needs Python >=3.12, and a host has Python 3.11" in refused(build("--app", wheel))


def test_wheel_whose_needs_are_not_pinned_is_refused(build, tmp_path):
    wheel = make_wheel(tmp_path, metadata="Requires-Dist: six>=1\nRequires-Dist: old; python_version < '3'")
    said = refused(build("--app", wheel))
    assert f"{wheel.name} needs six>=1 (the release does not have it). Pin what it needs, with hashes" in said


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("six\n", "six is not pinned: each line must say name==version --hash=sha256:"),
        ("six==1.17.0\n", "six==1.17.0 is not pinned"),
        (f"six>=1.17.0 --hash={HASH}\n", "six>=1.17.0 is not pinned"),
        ("--index-url https://packages.example.com/simple\n", "is not name==version with a hash"),
        (f"six==1.17.0 --hash={HASH}\n", "THESE PACKAGES DO NOT MATCH THE HASHES"),
    ],
    ids=["bare", "no hash", "range", "option", "wrong hash"],
)
def test_requirements_that_are_not_pinned_are_refused(build, tmp_path, line, message):
    requirements = tmp_path / "needs.txt"
    requirements.write_text(line)
    assert message in refused(build("--app", requirements))


def test_two_versions_of_a_package_are_refused(build, tmp_path):
    for name, version in (("one", "1.0"), ("two", "2.0")):
        (tmp_path / f"{name}.txt").write_text(f"six=={version} --hash={HASH}\n")
    said = refused(build("--app", tmp_path / "one.txt", "--app", tmp_path / "two.txt"))
    assert "two.txt pins six==2.0, and " in said
    assert "one.txt pins 1.0: a release has one version of each package" in said


@pytest.mark.parametrize("name", ["nothing", "folder", "tools-1.0.tar.gz"])
def test_what_is_no_application_is_refused(build, tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "tools-1.0.tar.gz").touch()
    said = refused(build("--app", tmp_path / name))
    assert (
        f"release_app: {tmp_path / name} {'does not exist' if name == 'nothing' else 'is neither the folder of'}"
        in said
    )


def test_same_pins_are_downloaded_once(build, worker, tmp_path, monkeypatch):
    own = tmp_path / "cache"
    first = built(build("--cache", own))
    for name, value in {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}.items():
        monkeypatch.setenv(name, value)  # pip could download nothing
    (worker / "news.txt").write_text("a change of the source")
    second = built(build("--cache", own))
    assert first["version"] != second["version"]


def test_cache_keeps_what_is_in_use_and_the_newest_five(build, worker, tmp_path):
    own = tmp_path / "cache"

    def release(number):
        (worker / "news.txt").write_text(f"change {number}")
        return built(build("--cache", own))["version"]

    made = [release(number) for number in range(7)]
    assert all((own / version).is_dir() for version in made)
    for version in made:
        os.utime(own / version, (0, 0))
    assert release(0) == made[0]  # which is a use of it
    made.append(release(7))
    left = [version for version in made if (own / version).is_dir()]
    assert len(left) == 5
    assert {made[0], made[7]} <= set(left)


def test_every_wheel_is_listed_with_its_hash(build, tmp_path):
    wheel = make_wheel(tmp_path / "given")
    with tarfile.open(built(build("--app", wheel))["archives"]["3.11-x86_64"]) as tar:
        listed = tar.extractfile("requirements.txt").read().decode()
    assert f"tools==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n" in listed
