"""Build a release: for each kind of host one archive of hash-pinned wheels that installs without a network.

    build_release.py --target 3.11-x86_64 [--target …] [--source DIR] [--app DIR …] [--cache DIR] [--dry-run]

Prints {"version", "archives": {target: path}, "changed"} as JSON. The version is the worker's with a digest of
everything that goes in; what is in the cache under that version is what would be built, so it is not built again.

An archive holds wheels/, requirements.txt (every wheel with its hash) and pip's own wheel as installer/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]
PREBUILT = HERE / "dist"  # what `make build` puts into the collection
INSTALLER = HERE / "installer.txt"
KEPT = 5
NOT_SOURCE = re.compile(r"(\..*|__pycache__|build|dist|tests|benchmarks|.*\.egg-info|.*\.pyc)")
# Wheels name the oldest C library they run with; Debian 12 has glibc 2.36.
GLIBC = range(36, 16, -1)


class BuildError(Exception):
    """Why nothing can be built, in words for the operator."""


def main() -> None:
    """Build what is missing and print where it is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", action="append", required=True)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--app", type=Path, action="append", default=[])
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    try:
        source = find_source(args.source)
        check_apps(args.app)
        in_checkout = (CHECKOUT / "worker" / "pyproject.toml").is_file()
        cache = args.cache or (
            CHECKOUT / ".cache" / "release" if in_checkout else Path.home() / ".cache" / "orbiter-fleet" / "release"
        )
        version = f"{worker_version(source)}-{digest([source, *args.app])}"
        archives = {target: cache / version / f"{target}.tar" for target in args.target}
        missing = [target for target, archive in archives.items() if not archive.exists()]
        for target in missing:
            locks(source, args.app, target)  # complain before any work is done, and in a check too
        if missing and not args.dry_run:
            build(source, args.app, missing, cache / version)
            prune(cache, keep=version)
    except BuildError as error:
        sys.exit(str(error))
    answer = {"version": version, "archives": {target: str(path) for target, path in archives.items()}}
    print(json.dumps(answer | {"changed": bool(missing)}))


def find_source(given: Path | None) -> Path:
    """Return the folder of the worker project, or the folder of its built wheel."""
    if given is not None:
        if not (given / "pyproject.toml").is_file():
            raise BuildError(f"release_source: {given} has no pyproject.toml; name the folder of orbiter-distributed")
        return given.resolve()
    if (CHECKOUT / "worker" / "pyproject.toml").is_file():
        return CHECKOUT / "worker"
    if list(PREBUILT.glob("*.whl")):
        return PREBUILT
    raise BuildError(f"No worker to install: neither {CHECKOUT}/worker nor a wheel in {PREBUILT}. Set release_source")


def check_apps(apps: list[Path]) -> None:
    """Complain about an application that cannot be built."""
    for app in apps:
        if not (app / "pyproject.toml").is_file():
            raise BuildError(f"release_app: {app} has no pyproject.toml; name the folder of a Python project")


def worker_version(source: Path) -> str:
    """Return the version of the worker project or of its wheel."""
    if source == PREBUILT:
        return only_wheel(source).name.split("-")[1]
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def only_wheel(folder: Path) -> Path:
    """Return the one wheel in a folder."""
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise BuildError(f"{folder} holds {len(wheels)} wheels where one is expected: run `make build` again")
    return wheels[0]


def source_files(folder: Path) -> Iterator[Path]:
    """Yield the files that a build may depend on, in a stable order."""
    for path in sorted(folder.iterdir()):
        if folder != PREBUILT and NOT_SOURCE.fullmatch(path.name):
            continue
        if path.is_dir():
            yield from source_files(path)
        else:
            yield path


def digest(folders: list[Path]) -> str:
    """Return eight hex digits that stand for everything a release is made of."""
    sums = hashlib.sha256()
    for extra in (Path(__file__), INSTALLER):
        sums.update(hashlib.sha256(extra.read_bytes()).digest())
    for folder in folders:
        for path in source_files(folder):
            sums.update(f"{path.relative_to(folder)}\0".encode())
            sums.update(hashlib.sha256(path.read_bytes()).digest())
    return sums.hexdigest()[:8]


def locks(source: Path, apps: list[Path], target: str) -> list[Path]:
    """Return the lock files for a target's Python: the worker's, and those of applications that have any."""
    python = target.partition("-")[0]
    name = f"py{python.replace('.', '')}.txt"
    worker = source / "locks" / name
    if not worker.is_file():
        known = ", ".join(sorted(path.stem for path in worker.parent.glob("py*.txt"))) or "none"
        raise BuildError(
            f"A host has Python {python}, and {worker} does not exist (locks there: {known}). "
            "Give that host another Python or add the lock: uv pip compile --generate-hashes "
            f"--python-version {python} pyproject.toml -o locks/{name}"
        )
    found = [worker]
    for app in apps:
        if (app / "locks").is_dir():
            lock = app / "locks" / name
            if not lock.is_file():
                raise BuildError(f"A host has Python {python}, and {lock} does not exist")
            found.append(lock)
    return found


def build(source: Path, apps: list[Path], targets: list[str], destination: Path) -> None:
    """Make the targets' archives, each appearing under its name only when complete."""
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".build-") as scratch:
        own = Path(scratch) / "own"
        own.mkdir()
        for project in (source, *apps):
            if project == PREBUILT:
                shutil.copy(only_wheel(project), own)
            else:
                pip("wheel", "--no-deps", "--wheel-dir", str(own), str(project))
        for target in targets:
            tree = Path(scratch) / target
            wheels, installer = tree / "wheels", tree / "installer"
            shutil.copytree(own, wheels)
            for lock in locks(source, apps, target):
                download(lock, target, wheels)
            download(INSTALLER, target, installer)
            write_requirements(wheels, tree / "requirements.txt")
            archive = Path(scratch) / f"{target}.tar"
            with tarfile.open(archive, "w") as tar:
                for part in sorted(tree.iterdir()):
                    tar.add(part, arcname=part.name)
            archive.replace(destination / archive.name)


def download(lock: Path, target: str, folder: Path) -> None:
    """Download a lock's wheels for another Python and machine, checked by hash."""
    python, machine = target.split("-", 1)
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in GLIBC] + [f"manylinux2014_{machine}"]
    pip(
        *("download", "--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", str(folder)),
        *("--implementation", "cp", "--python-version", python),
        *(f"--platform={platform}" for platform in platforms),
        *("--requirement", str(lock)),
    )


def write_requirements(wheels: Path, path: Path) -> None:
    """List every wheel with its hash, so that the host installs exactly these."""
    lines = []
    for wheel in sorted(wheels.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        lines.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    path.write_text("".join(lines))


def pip(*words: str) -> None:
    """Run pip; its output is shown only where it fails."""
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"pip {words[0]} failed for the release:\n{done.stdout.strip()}")


def prune(cache: Path, *, keep: str) -> None:
    """Remove all but the newest few releases, so that the cache does not grow without bound."""
    versions = sorted(
        (path for path in cache.iterdir() if not path.name.startswith(".") and path.name != keep),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    for old in versions[KEPT - 1 :]:
        shutil.rmtree(old)


main()
