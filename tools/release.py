"""Makes a release of this project, up to the push.

    release.py release VERSION [--key KEY]    the commit and its tag, with all that `dist` makes
    release.py dist [VERSION] [--key KEY]     what is published of the release that is checked out: dist/VERSION/

Both work in a copy of the commit, and what they make appears when all of it is there: whatever fails, the checkout is
as before. A commit makes the same files, byte for byte, whenever they are made; KEY, of OpenSSH, signs them. A release
that one person makes of a commit on one day is the same commit each time, too; its tag tells the hour.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT / "roles/release/files"))

import signing  # noqa: E402 - a release of the project is signed as a fleet's own are
from pins import BuildError  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

# Every file that holds the version, and where: one group before it, one behind.
PLACES = {
    "worker/pyproject.toml": r'^(version = ")[^"]*(")$',
    "galaxy.yml": r"^(version: )\S+(.*)$",
}
# Wheels and Galaxy write what may follow these three in different ways.
SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
BIN = Path(sys.executable).parent


class ReleaseError(Exception):
    """Why there is no release, in words for the person who asked for it."""


def main() -> None:
    """Do what the words say."""
    parser = argparse.ArgumentParser()
    actions = parser.add_subparsers(dest="action", required=True)
    for name in ("release", "dist"):
        action = actions.add_parser(name)
        action.add_argument("version", nargs="?", default="")
        action.add_argument("--key", type=lambda text: Path(text).expanduser().absolute() if text else None)
    words = parser.parse_args()
    try:
        (release if words.action == "release" else dist)(words.version, words.key)
    except (ReleaseError, BuildError) as error:
        sys.exit(f"{words.action}: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"{words.action}: '{error.cmd[0]} …' ended with {error.returncode}; nothing has changed")


def release(version: str, key: Path | None) -> None:
    """Set the version, write the changelog, commit, build and tag."""
    branch = check(version, key)
    with copy() as tree:
        for name, pattern in PLACES.items():
            write_version(tree / name, pattern, version)
        today = datetime.now(UTC).date().isoformat()
        changelog(tree, "release", "--version", version, "--date", today)
        git("add", "--all", tree=tree)
        body = "The version in its places, and the changelog from the fragments since the last release."
        git("commit", "-qm", f"Release {version}", "-m", body, tree=tree, dated=last_change(tree))
        commit = git("rev-parse", "HEAD", tree=tree)
        made = build(tree, version, key)
        git("tag", "--annotate", "--message", f"Orbiter Fleet {version}", version, commit)
        try:
            git("merge", "--quiet", "--ff-only", commit)
        except subprocess.CalledProcessError:  # somebody has changed the checkout meanwhile
            git("tag", "--delete", version)
            raise
        place(made, version)
    remote = git("config", "--default", "origin", "--get", f"branch.{branch}.remote")
    print(
        f"\nRelease {version} is commit {commit[:9]} of {branch}, with its tag. Nothing of it has left this machine.\n"
        f"Look at it:  git show {version}, dist/{version}/NOTES.md\n"
        f"Undo it:     git tag --delete {version} && git reset --keep {commit[:9]}~1\n"
        f"Push it:     git push --atomic {remote} {branch} {version}"
    )


def dist(version: str, key: Path | None) -> None:
    """Build what is published of the commit that is checked out."""
    check_clean()
    check_key(key)
    stands = current()
    if version and version != stands:
        raise ReleaseError(
            f"VERSION is {version}, and worker/pyproject.toml says {stands}. Check out the tag {version}"
        )
    with copy() as tree:
        place(build(tree, stands, key), stands)


def check(version: str, key: Path | None) -> str:
    """Refuse what cannot become a release; return the branch that it will be on."""
    stands = current()
    if not SEMVER.fullmatch(version):
        raise ReleaseError(f"VERSION is '{version}', and must be three numbers: make release VERSION=1.0.0")
    if numbers(version) <= numbers(stands):
        raise ReleaseError(f"VERSION is {version}, and must be newer than {stands}, which worker/pyproject.toml has")
    if git("tag", "--list", version):
        raise ReleaseError(f"the tag {version} exists. Choose a newer VERSION; what is published keeps its version")
    check_clean()
    check_key(key)
    if not list((CHECKOUT / "changelogs/fragments").glob("*.y*ml")):
        raise ReleaseError("changelogs/fragments has no files, so there is nothing to release")
    branch = git("branch", "--show-current")
    if not branch:
        raise ReleaseError("no branch is checked out, and the release has to be on one: git switch main")
    return branch


def check_clean() -> None:
    """Refuse changes that are in no commit: nobody could build the same again."""
    if changes := git("status", "--porcelain"):
        files = ", ".join(line[2:].strip() for line in changes.splitlines()[:5])
        raise ReleaseError(f"the checkout has changes that are in no commit ({files}). Commit or remove them first")


def check_key(key: Path | None) -> None:
    """Refuse a key that cannot sign before any work is done."""
    if key is None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        trial = Path(scratch, "trial")
        trial.touch()
        try:
            signing.sign(trial, key)
        except BuildError as error:
            reason = str(error).removeprefix("release_signing_key: ")
            raise ReleaseError(f"KEY: {reason}. Such a key: ssh-keygen -t ed25519 -f ~/.ssh/orbiter-releases") from None


def current() -> str:
    """Return the version that the checkout has."""
    return str(tomllib.loads((CHECKOUT / "worker/pyproject.toml").read_text())["project"]["version"])


def numbers(version: str) -> list[int]:
    """Return a version as what can be compared."""
    return [int(part) for part in re.findall(r"\d+", version)]


def write_version(path: Path, pattern: str, version: str) -> None:
    """Put the version into a file, which has one place for it."""
    text, count = re.subn(pattern, rf"\g<1>{version}\g<2>", path.read_text(), flags=re.MULTILINE)
    if count != 1:
        raise ReleaseError(
            f"{path.name} has {count} lines with a version where one is expected; see PLACES in {__file__}"
        )
    path.write_text(text)


def changelog(tree: Path, *words: str) -> None:
    """Run antsibull-changelog, which finds the collection by the folder it is in, and by no settings of the user's."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    run(BIN / "antsibull-changelog", *words, tree=tree, environment=settings)


def build(tree: Path, version: str, key: Path | None) -> Path:
    """Build everything that is published of a commit; return the folder."""
    made = tree / "dist/made"
    made.mkdir(parents=True)
    # All files have the time of the commit.
    environment = os.environ | {"SOURCE_DATE_EPOCH": last_change(tree)}
    print(f"Building {version}: the collection", flush=True)
    run("tools/build.sh", made, tree=tree, environment=environment)
    print(f"Building {version}: the worker's package", flush=True)
    run("tools/package.sh", made, tree=tree, environment=environment)
    print(f"Building {version}: bills of materials", flush=True)
    run("tools/sbom.sh", tree=tree, environment=environment)
    for bill in (tree / "dist/sbom").iterdir():
        bill.rename(made / bill.name)
    changelog(tree, "generate", version, "--only-latest", "--output-format", "md", "--output", str(made / "NOTES.md"))
    files = sorted(made.iterdir())
    sums = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    (made / "SHA256SUMS").write_text(sums)
    for file in [*files, made / "SHA256SUMS"] if key else []:
        signing.sign(file, key)
    return made


def place(made: Path, version: str) -> None:
    """Put what was built where it is looked for, in place of what an earlier build made of that version."""
    folder = CHECKOUT / "dist" / version
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    shutil.move(made, folder)
    for file in sorted(folder.iterdir()):
        print(f"dist/{version}/{file.name}")
    if not (folder / "SHA256SUMS.sig").exists():
        print(f"None of them is signed, as there is no KEY: make dist VERSION={version} KEY=~/.ssh/orbiter-releases")


@contextlib.contextmanager
def copy() -> Iterator[Path]:
    """Return a copy of the commit that is checked out, with this checkout's programs, and downloads."""
    cache = CHECKOUT / ".cache"
    downloads = cache / "release/.downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="release-") as scratch:
        tree = Path(scratch, "orbiter")
        git("worktree", "add", "--quiet", "--detach", str(tree), "HEAD")
        try:
            (tree / ".venv").symlink_to(BIN.parent)
            (tree / ".cache/release").mkdir(parents=True)
            (tree / ".cache/release/.downloads").symlink_to(downloads)
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def last_change(tree: Path) -> str:
    """Return when the last commit was made, in seconds since 1970."""
    return git("log", "-1", "--format=%ct", tree=tree)


def git(*words: str, tree: Path = CHECKOUT, dated: str = "") -> str:
    """Run Git, which dates what it makes so many seconds after 1970; return what it says."""
    dates = {f"GIT_{who}_DATE": f"@{dated} +0000" for who in ("AUTHOR", "COMMITTER") if dated}
    done = subprocess.run(
        ["git", *words], cwd=tree, env=os.environ | dates, text=True, stdout=subprocess.PIPE, check=True
    )
    return done.stdout.strip("\n")


def run(program: str | Path, *words: str | Path, tree: Path, environment: dict[str, str]) -> None:
    """Run a program in a copy, with this checkout's programs; what it says is shown where it fails."""
    path = {"PATH": f"{BIN}{os.pathsep}{environment['PATH']}"}
    done = subprocess.run(
        [str(program), *map(str, words)],
        cwd=tree,
        env=environment | path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise ReleaseError(
            f"'{Path(program).name} {' '.join(map(str, words))}' failed; nothing has changed:\n{done.stdout}"
        )


if __name__ == "__main__":
    main()
