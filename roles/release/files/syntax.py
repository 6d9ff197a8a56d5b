"""Say where the Python of a wheel cannot be read by the Python that runs this: a task that imports it would fail."""

from __future__ import annotations

import ast
import warnings
import zipfile
from pathlib import Path, PurePosixPath


def mistake(wheel: Path) -> str:
    """Return the first module that cannot be read, with line and reason; nothing where all can. Runs none of them."""
    with zipfile.ZipFile(wheel) as files, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sorted(files.namelist()):
            path = PurePosixPath(name)
            # What no import can name is a template, or data.
            if path.suffix != ".py" or not all(part.isidentifier() for part in path.with_suffix("").parts):
                continue
            try:
                ast.parse(files.read(name), name)
            except SyntaxError as error:
                return f"{name}, line {error.lineno}: {error.msg}"
            except ValueError as error:
                return f"{name}: {error}"
    return ""
