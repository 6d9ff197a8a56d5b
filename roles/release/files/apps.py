"""What release_app may name: the folder of a project, a wheel, or a requirements file."""

from __future__ import annotations

import re
import zipfile
from email.parser import Parser
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from pins import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pins import Target


def check(app: Path) -> None:
    """Complain about an application that cannot be built."""
    if not app.exists():
        raise BuildError(f"release_app: {app} does not exist on the controller")
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


def check_needs(wheel: Path, target: Target, versions: Mapping[str, str]) -> None:
    """Complain about a wheel that would not run in a release of these packages."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        metadata = Parser().parsestr(archive.read(path).decode())
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
