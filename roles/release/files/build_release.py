"""Build a release: for each kind of host one archive of hash-pinned wheels that installs without a network.

    build_release.py --target 3.11-x86_64 [--target …] [--extra NAME …] [--app PATH …] [--source DIR] [--cache DIR]
                     [--sign KEY] [--dry-run]

Prints {"version", "archives": {target: path}, "changed"} as JSON. The version is the worker's with a digest of
everything that goes in; what is in the cache under that version is what would be built, so it is not built again.

With a key of OpenSSH each archive gets a signature beside it, ARCHIVE.sig, when it is built.

An archive holds release.json (its version and target), sbom.cdx.json (its bill of materials), wheels/, requirements.txt
(every wheel with its hash), own.txt (those of them that are no dependencies) and what unpacks them as installer/.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apps
import pins
import sbom
import signing
import sources
import syntax
from packaging.utils import canonicalize_name, parse_wheel_filename
from pins import BuildError, Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]
PREBUILT = HERE / "dist"  # what `make build` puts into the collection
INSTALLER = HERE / "installer.txt"
BUILD_LOCK = HERE / "build.txt"
ON_HOSTS = (HERE / "unpack.py", HERE / "syntax.py")
# What builds projects is for this machine.
HERE_TARGET = Target(f"{sys.version_info.major}.{sys.version_info.minor}", platform.machine())
SCRIPTS = sorted(HERE.glob("*.py"))
KEPT = 5
IN_USE = 3600.0  # seconds: another play on this controller may be about to install what it was told is there


@dataclass(frozen=True)
class Parts:
    """What a release is made of.

    Attributes:
        source: The worker's project, or the folder of its wheel.
        extras: The worker's extras that go in.
        apps: What release_app names by its path.
        named: What it names otherwise: packages of an index with version and hash.
    """

    source: Path
    extras: list[str]
    apps: list[Path]
    named: list[str]

    @property
    def projects(self) -> list[Path]:
        """What is built from source."""
        own = [] if self.source == PREBUILT else [self.source]
        return own + [app for app in self.apps if apps.is_project(app)]

    @property
    def wheels(self) -> list[Path]:
        """What is built already."""
        own = [only_wheel(self.source)] if self.source == PREBUILT else []
        return own + [app for app in self.apps if apps.is_wheel(app)]

    def pins(self, target: Target) -> dict[str, pins.Pin]:
        """Return what is downloaded for a target."""
        locks = worker_locks(self.source, self.extras, target)
        for app in self.apps:
            locks += apps.locks(app, target)
        # An application's lock may well name the worker, or another of the applications: no index is asked for these.
        own = {canonicalize_name("orbiter-distributed"), *map(apps.name_of, self.wheels)}
        own |= {apps.project_name(project) for project in self.projects}
        given = [pin for lock in locks for pin in pins.read(lock, target) if pin.name not in own]
        return pins.merge([*given, *pins.parse("\n".join(self.named), Path("release_app"), target)])


def main() -> None:
    """Build what is missing and print where it is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", dest="targets", type=Target.parse, action="append", required=True)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--extra", dest="extras", action="append", default=[])
    parser.add_argument("--app", dest="given", action="append", default=[])
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--sign", dest="key", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    try:
        print(json.dumps(release(**vars(parser.parse_args()))))
    except BuildError as error:
        sys.exit(str(error))


def release(
    targets: list[Target],
    *,
    source: Path | None = None,
    extras: list[str],
    given: list[str],
    cache: Path | None = None,
    key: Path | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Build what is missing; return where everything is, and whether anything was missing.

    Args:
        targets: The kinds of hosts.
        source: Folder of the worker's project; None for the one that is there.
        extras: The worker's extras that go in.
        given: What release_app names.
        cache: Folder of what was built; None for the usual one.
        key: Key of OpenSSH to sign with.
        dry_run: Whether nothing is built.

    Raises:
        BuildError: It cannot be built; the message says why.
    """
    try:
        named = [app for app in given if apps.is_pinned(app)]
        paths = [apps.path_of(app) for app in given if app not in named]
        parts = Parts(find_source(source), sorted(set(extras)), paths, named)
        for app in parts.apps:
            apps.check(app)
        in_checkout = (CHECKOUT / "worker" / "pyproject.toml").is_file()
        cache = cache or (
            CHECKOUT / ".cache" / "release" if in_checkout else Path.home() / ".cache" / "orbiter-fleet" / "release"
        )
        version = f"{worker_version(parts.source)}-{digest(parts)}"
        archives = {target: cache / version / f"{target}.tar" for target in targets}
        # What is signed is what was just built: nobody signs what has been lying about.
        missing = [
            target
            for target, archive in archives.items()
            if not archive.exists() or (key and not signing.is_signed_by(archive, key))
        ]
        for target in missing:
            # Complain before any work is done, and in a check too.
            parts.pins(target)
            apps.fitting(parts.wheels, target)
        for project in parts.projects if missing else []:
            lock = build_lock(project)
            apps.check_build(project, lock, {pin.name: pin.version for pin in pins.read(lock, HERE_TARGET)})
        if missing and not dry_run:
            build(parts, missing, cache, version, key)
            prune(cache)
        elif not missing:
            with contextlib.suppress(PermissionError):  # somebody else's cache may be used all the same
                os.utime(cache / version)
    except PermissionError as error:
        raise BuildError(
            f"{error.filename}: {error.strerror}, for {getpass.getuser()}, who builds the release"
        ) from None
    paths_of = {str(target): str(path) for target, path in archives.items()}
    return {"version": version, "archives": paths_of, "changed": bool(missing)}


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


def digest(parts: Parts) -> str:
    """Return eight hex digits that stand for everything a release is made of."""
    sums = hashlib.sha256(json.dumps([parts.extras, *parts.named]).encode())
    for script in (*SCRIPTS, INSTALLER, BUILD_LOCK):
        sums.update(hashlib.sha256(script.read_bytes()).digest())
    for part in (parts.source, *parts.apps):
        for path in sources.files(part) if part.is_dir() else [part]:
            sums.update(f"{path.relative_to(part if part.is_dir() else part.parent)}\0".encode())
            sums.update(hashlib.sha256(path.read_bytes()).digest())
    return sums.hexdigest()[:8]


def worker_locks(source: Path, extras: list[str], target: Target) -> list[Path]:
    """Return the worker's lock files for a target: the one that every release has, and one for each extra."""
    folder = source / "locks"
    worker = folder / f"{target.lock}.txt"
    if not worker.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("py*.txt") if "-" not in path.stem)) or "none"
        raise BuildError(
            f"A host has Python {target.python}, and {worker} does not exist (locks there: {known}). "
            "Give that host another Python or add the lock: uv pip compile --generate-hashes "
            f"--python-version {target.python} pyproject.toml -o locks/{worker.name}"
        )
    known_extras = {path.stem.partition("-")[2]: path for path in folder.glob(f"{target.lock}-*.txt")}
    if unknown := [extra for extra in extras if extra not in known_extras]:
        raise BuildError(
            f"worker_extras: the worker has no extra {', '.join(unknown)} that can go into a release; "
            f"it has {', '.join(sorted(known_extras)) or 'none'}"
        )
    return [worker, *(known_extras[extra] for extra in extras)]


def build(parts: Parts, targets: list[Target], cache: Path, version: str, key: Path | None) -> None:
    """Make the targets' archives, each appearing under its name only when complete."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".build-") as scratch, ThreadPoolExecutor() as pool:
        # Most of the time is waiting: for the network, and for a build's environment.
        built = [
            pool.submit(build_wheel, project, Path(scratch) / "own" / str(number), cache)
            for number, project in enumerate(parts.projects)
        ]
        downloaded = {target: pool.submit(download, parts.pins(target), target, cache) for target in targets}
        wheels = [future.result() for future in built] + parts.wheels
        check_syntax(wheels, targets)
        for target in targets:
            fit = apps.fitting(wheels, target)
            pinned = parts.pins(target)
            versions = {name: pin.version for name, pin in pinned.items()}
            versions |= {apps.name_of(wheel): str(parse_wheel_filename(wheel.name)[1]) for wheel in fit}
            others = downloaded[target].result()
            # Here, by metadata: on a host it would take the environment's Python, which runs what is in there.
            for wheel in (*fit, *(others / "wheels").glob("*.whl")):
                apps.check_needs(wheel, target, versions)
            archive = Path(scratch) / f"{target}.tar"
            tree = Path(scratch) / str(target)
            shutil.copytree(others, tree)
            (tree / "release.json").write_text(json.dumps({"version": version, "target": str(target)}))
            bill = sbom.document(version, target, [*fit, *(tree / "wheels").glob("*.whl")], dict.fromkeys(fit))
            (tree / "sbom.cdx.json").write_text(bill)
            pack(fit, tree, archive)
            (cache / version).mkdir(exist_ok=True)
            if key:
                signing.sign(archive, key)
                signing.signature_of(archive).replace(signing.signature_of(cache / version / archive.name))
            archive.replace(cache / version / archive.name)


def check_syntax(wheels: list[Path], targets: list[Target]) -> None:
    """Refuse code that no host could import. A newer Python than this one may know more: such a host looks itself."""
    if any(target.version <= sys.version_info[:2] for target in targets):
        for wheel in wheels:
            if found := syntax.mistake(wheel):
                raise BuildError(f"{wheel.name.split('-')[0]} has a module that is no Python: {found}. Correct it.")


def build_lock(project: Path) -> Path:
    """Return the lock of what a project is built with: its own, or that of the usual build systems."""
    own = project / "locks" / "build.txt"
    return own if own.is_file() else BUILD_LOCK


def build_wheel(project: Path, folder: Path, cache: Path) -> Path:
    """Build a project's wheel in a copy, with nothing but what is pinned."""
    tools = fetch([build_lock(project)], [], cache) / build_lock(project).stem
    copy = sources.copy(project, folder / "source" / project.name)
    # In pip's settings may be other places to take packages from.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    pip(
        *("wheel", "--no-deps", "--no-index", "--find-links", str(tools), "--wheel-dir", str(folder), str(copy)),
        environment=environment | {"PIP_CONFIG_FILE": os.devnull},
    )
    return only_wheel(folder)


def download(pinned: dict[str, pins.Pin], target: Target, cache: Path) -> Path:
    """Return a folder of a target's wheels, in wheels/, and of the installer, in installer/."""
    with tempfile.TemporaryDirectory(dir=cache, prefix=".lock-") as scratch:
        wheels = Path(scratch, "wheels.txt")
        wheels.write_text(pins.requirements(pinned.values()))
        fits = ["--implementation", "cp", "--python-version", target.python]
        return fetch([wheels, INSTALLER], fits + [f"--platform={platform}" for platform in target.platforms], cache)


def fetch(locks: list[Path], options: list[str], cache: Path) -> Path:
    """Return a folder with a folder of wheels for each lock, by its name and checked by hash.

    What was downloaded before, by the same locks and options, is not downloaded again.
    """
    wanted = "\n".join([str(HERE_TARGET), *options, *(lock.read_text() for lock in locks)])
    folder = cache / ".downloads" / hashlib.sha256(wanted.encode()).hexdigest()[:16]
    if folder.is_dir():
        os.utime(folder)
        return folder
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as scratch:
        for lock in locks:
            pip(
                *("download", "--no-deps", "--require-hashes", "--only-binary=:all:", *options),
                *("--dest", str(Path(scratch, "done", lock.stem)), "--requirement", str(lock)),
            )
        with contextlib.suppress(OSError):  # another build was faster
            Path(scratch, "done").rename(folder)
    return folder


def pack(own: list[Path], tree: Path, archive: Path) -> None:
    """Write an archive of a tree, with the wheels that were not downloaded."""
    for script in ON_HOSTS:
        shutil.copy(script, tree / "installer")
    for wheel in own:
        shutil.copy(wheel, tree / "wheels")
    for name, wheels in (("requirements.txt", (tree / "wheels").glob("*.whl")), ("own.txt", own)):
        (tree / name).write_text(requirements(wheels))
    with tarfile.open(archive, "w") as tar:
        for part in sorted(tree.iterdir()):
            tar.add(part, arcname=part.name)


def requirements(wheels: Iterable[Path]) -> str:
    """List wheels with their hashes, so that a host installs exactly these."""
    lines = []
    for wheel in sorted(wheels, key=lambda wheel: wheel.name):
        name, version = wheel.name.split("-")[:2]
        lines.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return "".join(lines)


def pip(*words: str, environment: Mapping[str, str] | None = None) -> None:
    """Run pip; its output is shown only where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", *words],
        env={
            **(os.environ if environment is None else environment),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"pip {words[0]} failed for the release:\n{done.stdout.strip()}")


def prune(cache: Path) -> None:
    """Remove what was not used of late, all but the newest few, so that the cache does not grow without bound."""
    # A fleet may have several kinds of hosts; a source changes more often than what it needs.
    for folder, kept in ((cache, KEPT), (cache / ".downloads", KEPT * 2)):
        used = {}
        for path in folder.glob("[!.]*"):
            with contextlib.suppress(FileNotFoundError):  # another build prunes, too
                used[path] = path.stat().st_mtime
        for old in sorted(used, key=used.__getitem__, reverse=True)[kept:]:
            if used[old] < time.time() - IN_USE:
                shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    main()
