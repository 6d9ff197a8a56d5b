"""Finds an application's code, and tells when it changes."""

from __future__ import annotations

import asyncio
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from orbiter.distributed.errors import MissingExtraError, OrbiterError, how_to_install

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from importlib.machinery import ModuleSpec

# Milliseconds: an editor's save or a checkout of a branch is one change.
_DEBOUNCE = 400


@dataclass(frozen=True)
class Code:
    """What is watched: all of some directories, and single files."""

    directories: frozenset[Path]
    files: frozenset[Path]

    def __bool__(self) -> bool:
        """Whether there is anything to watch."""
        return bool(self.directories or self.files)

    def __str__(self) -> str:
        return ", ".join(sorted(str(path) for path in self.directories | self.files))


def find_code(apps: Iterable[str], watch: Iterable[Path] = ()) -> Code:
    """Return where the applications' packages and modules are, and the further directories to watch.

    Nothing is imported: the code runs in the worker only.

    Raises:
        OrbiterError: There is no such module here; the message names it and where it was looked for.
    """
    directories = {path.resolve() for path in watch}
    files = set()
    for app in apps:
        spec = _find(app)
        if spec.submodule_search_locations is not None:
            directories |= {Path(place).resolve() for place in spec.submodule_search_locations}
        elif spec.has_location and spec.origin is not None:
            files.add(Path(spec.origin).resolve())
    return Code(frozenset(directories), frozenset(files))


def _find(app: str) -> ModuleSpec:
    top, *inner = app.split(".")
    with _importable_from_here():
        try:
            spec = find_spec(top)
        except (ImportError, ValueError):
            spec = None
    name = top
    for part in inner:
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations or []) if spec else None
    if spec is None:
        raise OrbiterError(
            f"--app {app}: no module of that name in {Path.cwd()} or among the installed packages; "
            "start orbiter dev in the directory that holds it, or pip install it"
        )
    return spec


@contextmanager
def _importable_from_here() -> Iterator[None]:
    """Look for modules as the worker will: in the working directory first."""
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


async def watch_code(code: Code, changed: Callable[[list[Path]], None]) -> None:
    """Call ``changed`` with the Python files that changed, until cancelled.

    Raises:
        MissingExtraError: The library that watches files is not installed.
    """
    try:
        import watchfiles  # noqa: PLC0415, F401 - of an extra
    except ImportError:
        raise MissingExtraError(how_to_install("reload")) from None
    async with asyncio.TaskGroup() as watching:
        if code.directories:
            watching.create_task(_watch(code.directories, changed, only=None))
        if code.files:
            # By its directory: an editor that writes a new file in place of the old one ends the watch of the old one.
            parents = {path.parent for path in code.files}
            watching.create_task(_watch(parents, changed, only=code.files))


async def _watch(paths: Iterable[Path], changed: Callable[[list[Path]], None], *, only: frozenset[Path] | None) -> None:
    from watchfiles import PythonFilter, awatch  # noqa: PLC0415 - of an extra

    events = awatch(*paths, watch_filter=PythonFilter(), debounce=_DEBOUNCE, recursive=only is None)
    async for changes in events:
        found = sorted({Path(path) for _, path in changes if only is None or Path(path) in only})
        if found:
            changed(found)
