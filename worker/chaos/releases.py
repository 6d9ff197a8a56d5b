"""Sources of another release, out of this repository's history."""

from __future__ import annotations

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from tests.support import WORKER_DIRECTORY


def sources_of(commit: str, directory: Path) -> Path:
    """Write the worker's sources of a commit there; return where Python finds them.

    Raises:
        ValueError: There is no such commit here.
    """
    command = ["git", "-C", str(WORKER_DIRECTORY.parent), "archive", commit, "worker/src"]
    made = subprocess.run(command, capture_output=True, check=False)
    if made.returncode:
        raise ValueError(f"{commit!r}: {made.stderr.decode().strip()}; name a commit or tag of this checkout's history")
    with tarfile.open(fileobj=BytesIO(made.stdout)) as archive:
        archive.extractall(directory, filter="data")
    return directory / "worker" / "src"
