"""Where a release comes from: what it may be made of, who signed it, and that installing it runs nothing of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).parents[3]
BUILD = CHECKOUT / "roles/release/files/build_release.py"
VERIFY = CHECKOUT / "roles/release/files/verify_release.py"
TARGET = f"{sys.version_info.major}.{sys.version_info.minor}-{os.uname().machine}"


def make_wheel(folder, name="tools", version="1.0", files=None, metadata=""):
    """Make a wheel; return its path."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "answer = 42\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    } | (files or {})
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD")))
    return wheel


@pytest.fixture(scope="session")
def worker(tmp_path_factory):
    """Return the folder of a worker with a command, which needs nothing and builds without a network.

    Always the same, so that its release without an application is built once.
    """
    folder = tmp_path_factory.mktemp("worker") / "worker"
    (folder / "locks").mkdir(parents=True)
    (folder / "locks" / f"py{TARGET.partition('-')[0].replace('.', '')}.txt").write_text("")
    scripts = "[console_scripts]\norbiter = orbiter_distributed:main\n"
    files = {
        "orbiter_distributed.py": "def main():\n    print('orbiter 7.0')\n",
        "orbiter_distributed-7.0.dist-info/entry_points.txt": scripts,
    }
    project(folder, make_wheel(folder / "dist", "orbiter_distributed", "7.0", files))
    return folder


def project(folder, wheel, requires=()):
    """Make a project that builds a wheel which is there already."""
    folder.mkdir(exist_ok=True)
    name, version = wheel.name.split("-")[:2]
    (folder / "pyproject.toml").write_text(
        f'[build-system]\nrequires = {json.dumps(list(requires))}\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n'
    )
    (folder / "backend.py").write_text(
        "import shutil\n"
        "def build_wheel(folder, *_):\n"
        f"    shutil.copy({str(wheel)!r}, folder)\n"
        f"    return {wheel.name!r}\n"
    )
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Return a cache for all tests, so that what they share is downloaded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def build(worker, cache, tmp_path):
    """Return a function that builds a release of the small worker."""

    def run(*options):
        words = [sys.executable, str(BUILD), "--cache", str(cache), "--target", TARGET, "--source", str(worker)]
        return subprocess.run([*words, *map(str, options)], cwd=tmp_path, text=True, capture_output=True, check=False)

    return run


@pytest.fixture
def own(build, cache, tmp_path):
    """Return the options for a cache of the test's own, with what every release needs."""
    built(build())
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/.downloads").symlink_to(cache / ".downloads")
    return "--cache", tmp_path / "cache"


def built(done):
    """Return a release's version and archive, which must have been built."""
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    return answer["version"], Path(answer["archives"][TARGET])


@pytest.fixture
def host(tmp_path, module):
    """Return a function that installs a release in a folder of a host, as the role does."""

    def install(release, digest="", **how):
        version, archive = release
        releases = tmp_path / "host/opt/orbiter/releases"
        releases.mkdir(parents=True, exist_ok=True)
        (releases / f".{version}.tar").write_bytes(archive.read_bytes())
        done = module("release_install", version=version, path=str(releases), checksum=digest, keep=3, **how)
        return done, releases / version

    return install


def test_nothing_of_a_wheel_runs_when_a_release_is_built_and_installed(build, host, tmp_path):
    ran = tmp_path / "ran"
    trap = f"import pathlib; pathlib.Path({str(ran)!r}).mkdir(exist_ok=True); pathlib.Path({str(ran)!r}, %r).touch()\n"
    # A Python that starts where they are imports them, or a tool that runs with it does.
    names = ("trap.pth", "sitecustomize.py", "usercustomize.py", "_manylinux.py", "pip.py", "installer.py", "tools.py")
    wheel = make_wheel(tmp_path / "given", files={name: trap % name for name in names})
    done, release = host(built(build("--app", wheel)))
    assert not done.get("failed"), done
    assert (release / ".complete").exists()
    assert not ran.exists()
    # The trap is one: the environment's Python springs it.
    said = subprocess.run([release / "bin/orbiter"], text=True, capture_output=True, check=True).stdout
    assert said == "orbiter 7.0\n"
    assert {"trap.pth", "sitecustomize.py"} <= {path.name for path in ran.iterdir()}


@pytest.mark.parametrize("path", ["bin/python", "bin/python3", "bin/activate", "pyvenv.cfg"])
def test_wheel_that_brings_a_file_of_the_environment_itself_is_refused(build, host, tmp_path, path):
    # bin/python is a link: what is written to it would be written to the host's own Python.
    wheel = make_wheel(tmp_path / "given", files={f"tools-1.0.data/data/{path}": "#!/bin/sh\n"})
    before = hashlib.sha256(Path(sys.executable).resolve().read_bytes()).hexdigest()
    done, release = host(built(build("--app", wheel)))
    assert done["failed"]
    assert wheel.name in done["msg"]
    assert path in done["msg"]
    assert not (release / ".complete").exists()
    assert hashlib.sha256(Path(sys.executable).resolve().read_bytes()).hexdigest() == before


@pytest.mark.parametrize("path", ["../outside.py", "tools-1.0.data/scripts/../../../outside", "/tmp/outside-of-all"])
def test_wheel_that_writes_outside_of_the_release_is_refused(build, host, tmp_path, path):
    wheel = make_wheel(tmp_path / "given", files={path: "x = 1\n"})
    done, release = host(built(build("--app", wheel)))
    assert done["failed"]
    assert wheel.name in done["msg"]
    assert not (release / ".complete").exists()
    assert not list(release.parent.parent.glob("**/outside*"))
    assert not Path("/tmp/outside-of-all").exists()


def test_archive_whose_wheel_has_changed_is_not_installed(build, host, tmp_path):
    version, archive = built(build())
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "tree", filter="data")
    (wheel,) = (tmp_path / "tree/wheels").glob("*.whl")
    with zipfile.ZipFile(wheel, "a") as other:
        other.writestr("evil.pth", "")
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        for part in (tmp_path / "tree").iterdir():
            tar.add(part, arcname=part.name)
    done, release = host((version, tmp_path / "other.tar"))
    assert done["failed"]
    assert wheel.name in done["msg"]
    assert not (release / ".complete").exists()


BROKEN = {"tools.py": "def search(:\n    pass\n", "tools/{name}/model.py": "class {name}: pass\n"}


def test_own_code_that_no_python_can_read_is_refused_before_a_host_is_touched(build, tmp_path):
    done = build("--app", make_wheel(tmp_path / "given", files=BROKEN))
    assert done.returncode == 1
    assert "tools.py, line 1" in done.stderr
    assert built(build("--app", make_wheel(tmp_path / "given", files=BROKEN | {"tools.py": ""})))


def test_own_code_for_a_newer_python_than_the_controller_s_is_read_by_the_host_s(build, host, tmp_path, worker, cache):
    (worker / "locks/py399.txt").write_text("")
    newer = TARGET.replace(TARGET.partition("-")[0], "3.99")
    words = [sys.executable, BUILD, "--cache", cache, "--source", worker, "--target", newer]
    app = make_wheel(tmp_path / "given", files=BROKEN)
    done = subprocess.run([*words, "--app", app], text=True, capture_output=True, check=True)
    answer = json.loads(done.stdout)
    installed, release = host((answer["version"], Path(answer["archives"][newer])))
    assert installed["failed"]
    assert "tools.py, line 1" in installed["msg"]
    assert not (release / ".complete").exists()


def test_needs_of_every_package_are_checked_before_a_host_is_touched(build, tmp_path):
    # jinja2 needs markupsafe, which this lock has left out.
    (tmp_path / "needs.txt").write_text(
        "jinja2==3.1.6 --hash=sha256:85ece4451f492d0c13c5dd7c13a64681a86afae63a5f347908daf103ce6d2f67\n"
    )
    done = build("--app", "needs.txt")
    assert done.returncode == 1
    assert "markupsafe" in done.stderr.lower()
    assert "jinja2-3.1.6" in done.stderr


def test_a_python_that_starts_in_an_environment_runs_what_wheels_tell_it_to(tmp_path):
    """What all of this is about, and what `python -I` does not prevent."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    (folder,) = tmp_path.glob("venv/lib/python*/site-packages")
    (folder / "trap.pth").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    subprocess.run([tmp_path / "venv/bin/python", "-I", "-c", ""], check=True)
    assert (tmp_path / "ran").exists()


@pytest.fixture
def index(build, tmp_path, monkeypatch):
    """Return a folder that takes the place of pip's index, for packages of strangers."""
    built(build())  # what every release needs is in the cache
    folder = tmp_path / "index"
    folder.mkdir()
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return folder


def wheels(release):
    """Return the names, versions and bytes of a release's wheels."""
    with tarfile.open(release[1]) as tar:
        members = [member for member in tar.getmembers() if member.name.startswith("wheels/") and member.isfile()]
        return {tuple(Path(one.name).name.split("-")[:2]): tar.extractfile(one).read() for one in members}


def test_folder_by_its_bare_name_is_built_and_no_index_asked_for_a_package_of_that_name(build, index, tmp_path):
    stranger = make_wheel(tmp_path / "theirs", "my_private_agents", "99.0")
    (index / stranger.name).write_bytes(stranger.read_bytes())
    ours = project(tmp_path / "my_private_agents", make_wheel(tmp_path / "ours", "my_private_agents", "1.0"))
    assert ("my_private_agents", "1.0") in wheels(built(build("--app", ours.name)))


def test_application_that_a_lock_names_too_is_the_one_that_is_given(build, tmp_path):
    ours = project(tmp_path / "agents", make_wheel(tmp_path / "ours", "my_private_agents", "1.0"))
    (tmp_path / "needs.txt").write_text(f"my-private-agents==9.0 --hash=sha256:{'0' * 64}\n")
    found = wheels(built(build("--app", ours, "--app", "./needs.txt")))
    assert {version for name, version in found if name == "my_private_agents"} == {"1.0"}


@pytest.mark.parametrize(
    ("app", "remedies"),
    [
        ("my_private_agents", ["./my_private_agents", "my_private_agents==1.2 --hash="]),
        ("my_private_agents==1.2", ["my_private_agents==1.2", "--hash=sha256:"]),
        ("my_private_agents>=1.2", ["my_private_agents>=1.2", "--hash=sha256:"]),
        ("my_private_agents @ https://packages.example.com/x.whl", ["--hash=sha256:"]),
        ("./my_private_agents", ["./my_private_agents does not exist"]),
    ],
)
def test_what_is_neither_a_path_nor_pinned_is_refused_with_the_remedy(build, app, remedies):
    for options in ([], ["--dry-run"]):
        done = build("--app", app, *options)
        assert done.returncode == 1
        assert done.stdout == ""
        assert all(remedy in done.stderr for remedy in ("release_app", *remedies)), done.stderr


def test_package_with_its_hash_is_installed_and_another_of_its_name_and_version_is_not(build, index, tmp_path, cache):
    ours, theirs = (make_wheel(tmp_path / name, "my_private_agents", "1.2", {f"{name}.py": ""}) for name in "ab")
    app = f"my_private_agents==1.2 --hash=sha256:{hashlib.sha256(ours.read_bytes()).hexdigest()}"
    (index / theirs.name).write_bytes(theirs.read_bytes())
    for wheel in (cache / ".downloads").glob("*/installer/*.whl"):
        (index / wheel.name).write_bytes(wheel.read_bytes())
    done = build("--app", app)
    assert done.returncode == 1
    assert "HASHES" in done.stderr
    (index / ours.name).write_bytes(ours.read_bytes())
    assert wheels(built(build("--app", app)))["my_private_agents", "1.2"] == ours.read_bytes()


def test_project_is_built_with_what_is_pinned_only(build, index, tmp_path):
    # What pip's settings offer is newer, and a stranger's.
    stranger = make_wheel(tmp_path / "theirs", "flit_core", "99.0")
    (index / stranger.name).write_bytes(stranger.read_bytes())
    ours = project(tmp_path / "agents", make_wheel(tmp_path / "ours", "agents", "1.0"), requires=["flit-core>=3"])
    backend = ours / "backend.py"
    backend.write_text(f"import flit_core\nassert flit_core.__version__ < '90', flit_core\n{backend.read_text()}")
    assert ("agents", "1.0") in wheels(built(build("--app", ours)))


def test_project_that_is_built_with_what_is_not_pinned_is_refused_until_it_has_a_lock(build, tmp_path):
    ours = project(tmp_path / "agents", make_wheel(tmp_path / "ours", "agents", "1.0"), requires=["six==1.17.0"])
    for options in ([], ["--dry-run"]):
        done = build("--app", ours, *options)
        assert done.returncode == 1
        assert "six==1.17.0" in done.stderr
        assert f"{ours}/locks/build.txt" in done.stderr
    (ours / "locks").mkdir()
    pin = "six==1.17.0 --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274\n"
    (ours / "locks/build.txt").write_text(pin)
    (ours / "locks" / f"py{TARGET.partition('-')[0].replace('.', '')}.txt").write_text("")
    assert ("agents", "1.0") in wheels(built(build("--app", ours)))


def test_what_the_worker_is_built_with_is_pinned():
    requires = tomllib.loads((CHECKOUT / "worker/pyproject.toml").read_text())["build-system"]["requires"]
    pinned = (CHECKOUT / "roles/release/files/build.txt").read_text()
    assert all(f"{need} \\\n" in pinned for need in requires)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Return two private keys; their public halves are beside them."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{name} at the office", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    return folder / "ours", folder / "theirs"


def public(key):
    """Return a key's public half, as an inventory has it."""
    return key.with_name(f"{key.name}.pub").read_text().strip()


def verify(release, *keys, version=None, target=TARGET):
    """Check an archive as the roles do before they change anything; return what the check says."""
    words = [sys.executable, str(VERIFY), version or release[0], target, str(release[1])]
    given = json.dumps([public(key) for key in keys])
    return subprocess.run(words, input=given, text=True, capture_output=True, check=False)


def test_signed_release_is_told_by_its_hash(build, keys):
    ours, theirs = keys
    release = built(build("--sign", ours))
    digest = hashlib.sha256(release[1].read_bytes()).hexdigest()
    for signers in ([ours], [theirs, ours]):
        done = verify(release, *signers)
        assert (done.returncode, done.stdout.strip()) == (0, digest), done.stderr


def test_release_of_which_a_byte_differs_is_refused(build, keys, own):
    ours = keys[0]
    own = (*own, "--sign", ours)
    release = built(build(*own))
    right = release[1].read_bytes()
    for place in (0, len(right) // 2, -1):
        content = bytearray(right)
        content[place] ^= 1
        release[1].write_bytes(content)
        # Nor is it signed again, or quietly replaced.
        assert built(build(*own)) == release
        done = verify(release, ours)
        assert done.returncode == 1
        assert done.stdout == ""
        assert str(release[1]) in done.stderr
        assert release[1].read_bytes() == content


def test_release_that_somebody_else_signed_is_refused_and_built_anew_by_who_may(build, keys, own):
    ours, theirs = keys
    release = built(build(*own))
    assert verify(release, ours).returncode == 1  # not signed at all
    assert built(build(*own, "--sign", theirs)) == release
    assert verify(release, ours).returncode == 1
    assert built(build(*own, "--sign", ours)) == release
    assert verify(release, ours).returncode == 0
    # A signature of the same key that was made for something else.
    words = ["ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", str(ours), str(release[1])]
    Path(f"{release[1]}.sig").unlink()
    subprocess.run(words, check=True, capture_output=True)
    assert verify(release, ours).returncode == 1


def test_signed_release_is_not_passed_off_as_another_one(build, keys):
    ours = keys[0]
    release = built(build("--sign", ours))
    for other in ({"version": "9.9.9-00000000"}, {"target": "3.99-x86_64"}):
        done = verify(release, ours, **other)
        assert done.returncode == 1
        assert release[0] in done.stderr


def test_signer_that_is_no_key_is_refused(build, keys, tmp_path):
    ours = keys[0]
    release = built(build("--sign", ours))
    bad = tmp_path / "bad"
    # An entry of an allowed_signers file could let in a certificate authority, or more than one line.
    for text in ("SHA256:abc", f"* cert-authority {public(ours)}", "ssh-ed25519 AAAA"):
        bad.with_name("bad.pub").write_text(text)
        done = verify(release, bad)
        assert done.returncode == 1
        assert "worker_release_signers" in done.stderr


def test_archive_that_changed_on_its_way_is_not_installed(build, host):
    release = built(build())
    done, place = host(release, "0" * 64)
    assert done["failed"]
    assert not place.exists()
    assert list(place.parent.iterdir()) == []


def test_key_that_is_none_is_refused_by_name(build, own, tmp_path):
    (tmp_path / "key").write_text("nothing")
    done = build("--sign", tmp_path / "key", *own)
    assert done.returncode == 1
    assert f"release_signing_key: {tmp_path / 'key'}" in done.stderr


def test_release_carries_its_bill_of_materials(build, host, tmp_path):
    wheel = make_wheel(tmp_path / "given", metadata="Requires-Dist: six\nLicense-Expression: Apache-2.0")
    pin = "six==1.17.0 --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"
    done, release = host(built(build("--app", wheel, "--app", pin)))
    assert not done.get("failed"), done
    text = (release / "sbom.cdx.json").read_text()
    assert check(release / "sbom.cdx.json") == (0, "")
    bill = json.loads(text)
    assert {part["name"] for part in bill["components"]} == {"orbiter-distributed", "tools", "six"}
    parts = {part["name"]: part for part in bill["components"]}
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert parts["tools"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert parts["tools"]["licenses"] == [{"expression": "Apache-2.0"}]
    # Only what comes from an index is named as a package of it.
    assert "purl" not in parts["tools"]
    assert parts["six"]["purl"].startswith("pkg:pypi/six@1.17.0")
    needs = {row["ref"]: row["dependsOn"] for row in bill["dependencies"]}
    assert needs[parts["tools"]["bom-ref"]] == [parts["six"]["bom-ref"]]
    assert set(needs[bill["metadata"]["component"]["bom-ref"]]) == {part["bom-ref"] for part in bill["components"]}


def check(*bills):
    """Return the exit code and the words of what `make sbom` checks its bills with."""
    words = [sys.executable, str(CHECKOUT / "tools/check_sbom.py"), *map(str, bills)]
    done = subprocess.run(words, text=True, capture_output=True, check=False)
    return done.returncode, done.stderr


def test_bill_that_is_not_cyclonedx_is_refused_by_name(tmp_path):
    good = {"bomFormat": "CycloneDX", "specVersion": "1.6"}
    odd = {"type": "library", "name": "x", "hashes": [{"alg": "SHA256", "content": "0"}]}
    texts = [json.dumps(good | more) for more in ({"components": [odd]}, {"bomFormat": "SPDX"}, {"made_up": 1})]
    (tmp_path / "good").write_text(json.dumps(good))
    for text in (*texts, "{", ""):
        (tmp_path / "bad").write_text(text)
        code, said = check(tmp_path / "good", tmp_path / "bad")
        assert code == 1
        assert said.startswith(f"{tmp_path / 'bad'} is not valid CycloneDX 1.6: ")
    assert check(tmp_path / "good") == (0, "")


def test_steps_of_the_page_do_what_it_says(build, tmp_path):
    page = (CHECKOUT / "docs/supply-chain.md").read_text()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for block in re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        if "$archive" in block and "archive" not in environment:
            environment["archive"] = str(built(build("--sign", tmp_path / "fleet-releases"))[1])
        words = ["bash", "-euxo", "pipefail", "-c", block]
        done = subprocess.run(words, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "--hash=sha256:" in (tmp_path / "my-agents/locks/build.txt").read_text()
    assert json.loads((tmp_path / "sbom.cdx.json").read_text())["bomFormat"] == "CycloneDX"


def test_variables_of_the_page_are_those_of_the_roles():
    options = {}
    for role in ("release", "worker", "image"):
        specs = yaml.safe_load((CHECKOUT / f"roles/{role}/meta/argument_specs.yml").read_text())["argument_specs"]
        options |= specs["main"]["options"]
    page = (CHECKOUT / "docs/supply-chain.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)]
    assert {"worker_release_signers", "release_signing_key"} <= {name for block in blocks for name in block}
    for block in blocks:
        assert block.keys() <= options.keys()
        for signer in block.get("worker_release_signers", []):
            done = subprocess.run(
                ["ssh-keygen", "-l", "-f", "-"], input=signer, text=True, capture_output=True, check=False
            )
            assert done.returncode == 0, done.stderr


def test_role_refuses_in_preflight_what_nobody_signed_and_tells_the_hash_of_what_somebody_did(build, keys, ansible):
    ours = keys[0]
    release = built(build("--sign", ours))
    variables = {
        "worker_version": release[0],
        "worker_archives": {TARGET: str(release[1])},
        "worker_release_signers": [public(ours)],
        "__worker_host": {"releases": [], "disks": {"/opt/orbiter/releases": {"free": 10**11}}},
    }
    play = (
        "  - ansible.builtin.setup: {gather_subset: [min]}\n"
        "  - ansible.builtin.include_role: {name: orbiter.fleet.worker, tasks_from: preflight_release}\n"
        "  - ansible.builtin.debug: {msg: 'verified={{ release_verified.stdout }}'}\n"
    )
    inventory = [f"localhost ansible_connection=local ansible_python_interpreter={sys.executable}"]

    def preflight():
        return ansible(inventory, play, "--extra-vars", json.dumps(variables))

    done = preflight()
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"verified={hashlib.sha256(release[1].read_bytes()).hexdigest()}" in done.stdout
    Path(f"{release[1]}.sig").unlink()
    done = preflight()
    assert done.returncode == 2, done.stdout
    assert "worker_release_signers" in done.stdout
    assert "verified=" not in done.stdout
