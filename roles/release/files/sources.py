"""The files of a project that a release is made of: the same ones name the release and are built, in a copy.

A build backend writes into the folder that it builds (build/, NAME.egg-info), which may be read-only, and takes what an
earlier build left there for source. So none ever sees the project's own folder.
"""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEVER = re.compile(r"__pycache__|.*\.pyc|.*\.egg-info")
# Deeper down, these may be packages of the project.
NOT_AT_THE_TOP = re.compile(r"build|dist|tests|benchmarks")


def files(folder: Path) -> Iterator[Path]:
    """Yield a project's files in a stable order: no tests, caches, environments, nor what a build or Git has left."""
    for path in sorted(folder.iterdir()):
        if not NOT_AT_THE_TOP.fullmatch(path.name):
            yield from _below(path, (folder.resolve(),))


def _below(path: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Yield the files of a folder, or the file itself; a link that leads back up is not followed."""
    if NEVER.fullmatch(path.name):
        return
    if path.is_file():
        yield path
    elif path.is_dir() and not path.name.startswith(".") and not (path / "pyvenv.cfg").exists():
        real = path.resolve()
        for inner in sorted(path.iterdir()) if real not in above else ():
            yield from _below(inner, (*above, real))


def copy(project: Path, folder: Path) -> Path:
    """Copy a project's files into a new folder, where all of them can be written; return that."""
    for path in files(project):
        to = folder / path.relative_to(project)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
        to.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    return folder
