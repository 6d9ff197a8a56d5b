"""What release_app may name: the folder of a project, a wheel, a requirements file, or a package with version and hash.

A path is never taken for a package's name, nor a name for a path, and no index is asked for what is given as a path.
"""

from __future__ import annotations

import re
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from pins import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from email.message import Message

    from pins import Target


def is_pinned(app: str) -> bool:
    """Tell whether this is a package of an index, as `name==version --hash=sha256:…`, and no path."""
    return re.match(r"[A-Za-z0-9._-]+(\[[^]]*\])?\s*(==|--hash=)", app) is not None


def path_of(app: str) -> Path:
    """Return the path of what is given as one: a whole one, which no tool can take for a package's name.

    Raises:
        BuildError: There is nothing.
    """
    path = Path(app).expanduser()
    if path.exists():
        return path.resolve()
    if re.fullmatch(r"[A-Za-z0-9._-]+", app):
        raise BuildError(
            f"release_app: {app} does not exist on the controller, in {Path.cwd()}. If it is a folder or a file, write "
            f"its path, such as ./{app}; if it is a package of an index, its version and hash: "
            f"{app}==1.2 --hash=sha256:…"
        )
    if re.match(r"[A-Za-z0-9._-]+(\[[^]]*\])?\s*([<>~!=]=?|@)", app):
        raise BuildError(
            f"release_app: {app} is no path, and as a package of an index it is not pinned: write name==version "
            "--hash=sha256:…, or the path of a requirements file, as `uv pip compile --generate-hashes` writes it"
        )
    raise BuildError(f"release_app: {app} does not exist on the controller, in {Path.cwd()}")


def check(app: Path) -> None:
    """Complain about an application that cannot be built."""
    if is_wheel(app):
        name_of(app)
    elif not (is_requirements(app) or is_project(app)):
        raise BuildError(
            f"release_app: {app} is neither the folder of a Python project (it would have a pyproject.toml), "
            "nor a wheel (.whl), nor a requirements file (.txt)"
        )


def is_project(app: Path) -> bool:
    """Tell whether this is the folder of a Python project."""
    return (app / "pyproject.toml").is_file()


def is_wheel(app: Path) -> bool:
    """Tell whether this is a wheel."""
    return app.suffix == ".whl" and app.is_file()


def is_requirements(app: Path) -> bool:
    """Tell whether this is a requirements file."""
    return app.suffix == ".txt" and app.is_file()


def name_of(wheel: Path) -> str:
    """Return the name of the project that a wheel is of."""
    try:
        return parse_wheel_filename(wheel.name)[0]
    except InvalidWheelFilename as error:
        raise BuildError(f"release_app: {wheel.name} is not named as a wheel is: {error}") from None


def project_name(project: Path) -> str:
    """Return the name of a project, or nothing where it is only known once it is built."""
    return canonicalize_name(_pyproject(project).get("project", {}).get("name", ""))


def check_build(project: Path, lock: Path, pinned: Mapping[str, str]) -> None:
    """Complain about a project that cannot be built with these packages, the versions of which are `lock`'s."""
    # What a pyproject.toml without a word about it means.
    wanted = _pyproject(project).get("build-system", {}).get("requires", ["setuptools>=40.8"])
    missing = []
    for need in map(Requirement, wanted):
        have = pinned.get(canonicalize_name(need.name))
        applies = need.marker is None or need.marker.evaluate()
        if applies and (have is None or not need.specifier.contains(have, prereleases=True)):
            missing.append(f"{need.name}{need.specifier} ({f'it has {have}' if have else 'it does not have it'})")
    if missing:
        raise BuildError(
            f"{project} is built with {', '.join(missing)}, by {lock}. Builds take only what is pinned with hashes: "
            f"make a lock of its own, {project}/locks/build.txt, by giving what its [build-system] requires to "
            "`uv pip compile --universal --generate-hashes --output-file locks/build.txt -`"
        )


def _pyproject(project: Path) -> dict[str, Any]:
    """Read a project's pyproject.toml."""
    try:
        return tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    except ValueError as error:
        raise BuildError(f"{project}/pyproject.toml is no TOML: {error}") from None


def locks(app: Path, target: Target) -> list[Path]:
    """Return the lock files of an application for a target."""
    if is_requirements(app):
        return [app]
    if not (app / "locks").is_dir():
        return []
    lock = app / "locks" / f"{target.lock}.txt"
    if not lock.is_file():
        raise BuildError(
            f"A host has Python {target.python}, and {lock} does not exist. Make it: uv pip compile --generate-hashes "
            f"--python-version {target.python} pyproject.toml --output-file locks/{lock.name}"
        )
    return [lock]


def fitting(wheels: Iterable[Path], target: Target) -> list[Path]:
    """Return of each project the one wheel that fits a target."""
    projects: dict[str, list[Path]] = {}
    for wheel in wheels:
        projects.setdefault(name_of(wheel), []).append(wheel)
    chosen = []
    for name, given in projects.items():
        fit = [wheel for wheel in given if parse_wheel_filename(wheel.name)[3] & target.tags()]
        if len(fit) != 1:
            names = ", ".join(wheel.name for wheel in given)
            raise BuildError(
                f"release_app: a host has Python {target.python} on {target.machine}, and of {name} "
                + (f"{len(fit)} wheels fit it, of which one must go" if fit else "there is no wheel for it")
                + f": {names}. Name one wheel of it for each kind of host, or one for all (py3-none-any)"
            )
        chosen += fit
    return chosen


def metadata_of(wheel: Path) -> Message:
    """Return what a wheel says of itself."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        return Parser().parsestr(archive.read(path).decode())


def check_needs(wheel: Path, target: Target, versions: Mapping[str, str]) -> None:
    """Complain about a wheel that would not run in a release of these packages."""
    metadata = metadata_of(wheel)
    python = metadata.get("Requires-Python")
    # The host's patch release is not known; Requires-Python hardly ever asks for one.
    if python and not SpecifierSet(python).contains(f"{target.python}.99"):
        raise BuildError(f"{wheel.name} needs Python {python}, and a host has Python {target.python}")
    missing = []
    for text in metadata.get_all("Requires-Dist", []):
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate(target.markers()):
            continue
        have = versions.get(canonicalize_name(need.name))
        if have is None or not need.specifier.contains(have, prereleases=True):
            found = f"the release has {have}" if have else "the release does not have it"
            missing.append(f"{need.name}{need.specifier} ({found})")
    if missing:
        raise BuildError(
            f"{wheel.name} needs {', '.join(missing)}. Pin what it needs, with hashes, in locks/{target.lock}.txt "
            "of its project's folder, or in a requirements file beside it in release_app"
        )
