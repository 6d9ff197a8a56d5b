"""`make release`: what it refuses, that it changes nothing then, and what a release consists of."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest
import yaml
from terminal import CHECKOUT, new_clone

VERSION = tomllib.loads((CHECKOUT / "worker/pyproject.toml").read_text())["project"]["version"]
MAJOR, MINOR, PATCH = map(int, VERSION.split("."))
NEXT = f"{MAJOR}.{MINOR + 1}.0"
ENVIRONMENT = os.environ | {f"GIT_{who}_NAME": "Somebody" for who in ("AUTHOR", "COMMITTER")}
ENVIRONMENT |= {f"GIT_{who}_EMAIL": "somebody@example.com" for who in ("AUTHOR", "COMMITTER")}
PACKAGES = f"orbiter_distributed-{NEXT}-py3-none-any.whl", f"orbiter_distributed-{NEXT}.tar.gz"
COLLECTION = f"orbiter-fleet-{NEXT}.tar.gz"
TEXT = {"text": True, "capture_output": True}


class Clone:
    """A clone of this checkout, with a branch `main` and a remote of its own."""

    def __init__(self, folder, origin):
        self.folder = folder
        subprocess.run(["git", "clone", "--quiet", "--branch", "main", origin, folder], check=True)

    def sh(self, line):
        """Type a line that must succeed; return its output."""
        done = subprocess.run(["bash", "-euc", line], cwd=self.folder, env=ENVIRONMENT, check=False, **TEXT)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def make(self, *words):
        """Make a release as Make does; return how that ended."""
        command = [sys.executable, "tools/release.py", *words]
        return subprocess.run(command, cwd=self.folder, env=ENVIRONMENT, check=False, **TEXT)

    def state(self):
        """Return all that a release could change."""
        return self.sh(
            "git rev-parse HEAD; git tag; git status --porcelain --ignored; git worktree list; ls -A .cache 2>&1 || :"
        )

    def versions(self):
        """Return the version in each of its places."""
        worker = tomllib.loads((self.folder / "worker/pyproject.toml").read_text())["project"]["version"]
        return {worker, yaml.safe_load((self.folder / "galaxy.yml").read_text())["version"]}


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """Return a repository with this checkout, and what is not committed yet, as its branch `main`."""
    top = tmp_path_factory.mktemp("release")
    clone = new_clone(top).clone
    # Without what is not committed here there is nothing to commit.
    commit = "git add --all && (git diff --cached --quiet || git commit --quiet --no-verify -m all)"
    line = f"git checkout --quiet -B main && {commit} && git clone --quiet --bare . ../origin"
    subprocess.run(["bash", "-euc", line], cwd=clone, env=ENVIRONMENT, check=True)
    return top / "origin"


@pytest.fixture
def clone(origin, tmp_path):
    """Return a clone that may be changed."""
    return Clone(tmp_path / "clone", origin)


@pytest.fixture(scope="module")
def unchanged(origin, tmp_path_factory):
    """Return a clone for tests that change nothing."""
    return Clone(tmp_path_factory.mktemp("unchanged") / "clone", origin)


def refuse(clone, version, *named):
    """Ask for a release that must be refused with these words, and change nothing."""
    state = clone.state()
    done = clone.make("release", version)
    assert done.returncode == 1
    assert [word for word in named if word not in done.stderr] == [], done.stderr
    assert clone.state() == state
    assert not (clone.folder / "dist").exists()


@pytest.mark.parametrize(
    ("version", "named"),
    [
        ("", "VERSION=1.0.0"),
        ("v9.0.0", "three numbers"),
        ("9.0", "three numbers"),
        ("9.0.0-rc.1", "three numbers"),
        ("09.0.0", "three numbers"),
        (VERSION, f"newer than {VERSION}"),
        ("0.0.99", f"newer than {VERSION}"),
    ],
)
def test_version_that_is_none_or_not_newer_is_refused(unchanged, version, named):
    refuse(unchanged, version, f"VERSION is '{version}'" if named == "three numbers" else version, named)


@pytest.mark.parametrize(
    ("before", "named"),
    [
        ("git tag 9.0.0", ["the tag 9.0.0 exists"]),
        ("echo >>README.md", ["README.md", "in no commit"]),
        ("echo >new_file", ["new_file", "in no commit"]),
        ("git rm --quiet changelogs/fragments/* && git commit --quiet -m none", ["changelogs/fragments"]),
        ("git checkout --quiet --detach", ["git switch main"]),
    ],
)
def test_checkout_of_which_no_release_can_be_made_is_refused(clone, before, named):
    clone.sh(before)
    refuse(clone, "9.0.0", *named)


def test_key_that_is_none_is_refused_before_any_work(unchanged, tmp_path):
    state = unchanged.state()
    done = unchanged.make("release", NEXT, "--key", str(tmp_path / "no_such_key"))
    assert (done.returncode, unchanged.state()) == (1, state)
    assert f"KEY: {tmp_path}/no_such_key cannot sign" in done.stderr


def test_release_that_fails_midway_leaves_the_checkout_as_it_was(clone):
    clone.sh("echo 'version: 7.7.7' >>galaxy.yml && git commit --quiet --all -m 'a place too many'")
    (clone.folder / ".cache/release/.downloads").mkdir(parents=True)
    state = clone.state()
    done = clone.make("release", NEXT)
    assert (done.returncode, clone.state()) == (1, state)
    assert "galaxy.yml has 2" in done.stderr


@pytest.mark.parametrize(("version", "before"), [("9.0.0", ":"), ("", "echo >new_file")])
def test_dist_of_another_version_or_of_changes_is_refused(clone, version, before):
    clone.sh(before)
    done = clone.make("dist", version)
    assert done.returncode == 1
    assert ("9.0.0" if version else "new_file") in done.stderr


@pytest.mark.parametrize("target", ["release", "dist"])
def test_make_hands_version_and_key_on(target):
    words = ["make", "--dry-run", target, "VERSION=9.8.7", "KEY=/a key"]
    said = subprocess.run(words, cwd=CHECKOUT, text=True, capture_output=True, check=True).stdout
    assert f'tools/release.py {target} "9.8.7" --key "/a key"' in said


# What follows downloads what releases for three Pythons need: some minutes.


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    """Return a private key; its public half is beside it."""
    made = tmp_path_factory.mktemp("key") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", made], check=True)
    return made


@pytest.fixture(scope="module")
def released(origin, key, tmp_path_factory):
    """Return a clone in which a release was made, and what it said."""
    made = Clone(tmp_path_factory.mktemp("released") / "clone", origin)
    done = made.make("release", NEXT, "--key", str(key))
    assert done.returncode == 0, done.stderr
    return made, done.stdout


def files_of(clone):
    """Return the files that are published, by name."""
    return {path.name: path.read_bytes() for path in (clone.folder / "dist" / NEXT).iterdir()}


def sums_of(files):
    """Return what SHA256SUMS says, by name."""
    return dict(line.split("  ")[::-1] for line in files["SHA256SUMS"].decode().splitlines())


@pytest.mark.nightly
def test_release_is_one_commit_with_its_tag(released, origin):
    clone, _origin = released
    before = clone.sh("git rev-parse HEAD~1")
    assert before == clone.sh("git rev-parse origin/main")
    assert clone.sh("git log -1 --format=%s") == f"Release {NEXT}"
    # Whoever repeats it makes the same commit.
    last_change = clone.sh("git log -1 --format=%ct HEAD~1")
    assert clone.sh("git log -1 --format='%at %ct'") == f"{last_change} {last_change}"
    assert clone.sh(f"git rev-parse {NEXT}^{{commit}}") == clone.sh("git rev-parse main")
    assert clone.sh("git status --porcelain; git worktree list | sed 1d") == ""
    assert clone.versions() == {NEXT}
    changes = [line.split("\t") for line in clone.sh(f"git diff --no-renames --name-status {before}").splitlines()]
    fragments = clone.sh(f"git ls-tree --name-only {before} changelogs/fragments/").splitlines()
    assert [path for status, path in changes if status == "D"] == fragments
    changed = {path for status, path in changes if status != "D"}
    assert changed == {"CHANGELOG.md", "changelogs/changelog.yaml", "galaxy.yml", "worker/pyproject.toml"}
    clone.sh(f"{sys.executable} -m yamllint --strict .")


@pytest.mark.nightly
def test_all_that_is_published_has_its_sum_and_its_signature(released, key, tmp_path):
    clone, _origin = released
    files = files_of(clone)
    bills = {name for name in files if name.endswith(".cdx.json")}
    assert len(bills) == len(list((clone.folder / "worker/locks").glob("py3??.txt")))
    published = {*PACKAGES, COLLECTION, "NOTES.md", *bills}
    assert set(files) == {one for name in (*published, "SHA256SUMS") for one in (name, f"{name}.sig")}
    assert sums_of(files) == {name: hashlib.sha256(files[name]).hexdigest() for name in published}
    signers = tmp_path / "allowed_signers"
    signers.write_text(f'signer namespaces="orbiter-release" {key.with_suffix(".pub").read_text()}')
    for name in (*published, "SHA256SUMS"):
        verify = f"ssh-keygen -Y verify -f {signers} -I signer -n orbiter-release -s {name}.sig <{name}"
        clone.sh(f"cd dist/{NEXT} && {verify}")


@pytest.mark.nightly
def test_what_is_published_belongs_together(released):
    clone, _origin = released
    files, dist = files_of(clone), clone.folder / "dist" / NEXT
    wheel, sdist = PACKAGES
    with tarfile.open(dist / COLLECTION) as tar:
        assert json.load(tar.extractfile("MANIFEST.json"))["collection_info"]["version"] == NEXT
        assert tar.extractfile(f"roles/release/files/dist/{wheel}").read() == files[wheel]
        assert "CHANGELOG.md" in tar.getnames()
    with zipfile.ZipFile(dist / wheel) as archive:
        assert f"\nVersion: {NEXT}\n" in archive.read(f"orbiter_distributed-{NEXT}.dist-info/METADATA").decode()
    for bill in (name for name in files if name.endswith(".cdx.json")):
        (part,) = (part for part in json.loads(files[bill])["components"] if part["name"] == "orbiter-distributed")
        assert part["version"] == NEXT
        assert part["hashes"] == [{"alg": "SHA-256", "content": sums_of(files)[wheel]}]
    assert re.search(r"^#+ Bugfixes", files["NOTES.md"].decode(), re.MULTILINE)
    times = set()
    for archive in (sdist, COLLECTION):
        with tarfile.open(dist / archive) as tar:
            times |= {member.mtime for member in tar}
    assert times == {int(clone.sh("git log -1 --format=%ct"))}


@pytest.mark.nightly
def test_what_it_says_to_type_publishes_it_and_anybody_builds_the_same_bytes(released, origin, tmp_path):
    clone, said = released
    clone.sh(re.search(r"^Push it: +(git push .*)$", said, re.MULTILINE)[1])
    other = Clone(tmp_path / "elsewhere", origin)
    other.sh(f"git checkout --quiet {NEXT}")
    again = other.make("dist", NEXT)
    assert again.returncode == 0, again.stderr
    assert files_of(other) == {name: one for name, one in files_of(clone).items() if not name.endswith(".sig")}
