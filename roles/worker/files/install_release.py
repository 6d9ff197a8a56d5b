"""Install a release from its archive, without a network and without running any of it: all of it or nothing.

Usage: install_release.py VERSION KEEP [SHA256]
With a SHA256 the archive must have it: that of what the controller has verified.
A release counts as installed once it holds the file .complete; only then may /opt/orbiter/current point at it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

RELEASES = Path("/opt/orbiter/releases")
CURRENT = Path("/opt/orbiter/current")
GOOD = Path("/etc/orbiter/good/state.json")


def run(*words: str) -> None:
    """Run a command; end the program with its output if it fails."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stdout}")


def install(archive: Path, release: Path) -> None:
    """Make the release's virtual environment and fill it."""
    if release.exists():  # the rest of an installation that was interrupted
        shutil.rmtree(release)
    with tempfile.TemporaryDirectory(dir=RELEASES, prefix=".install-") as scratch:
        with tarfile.open(archive) as tar:
            # Python before 3.11.4 knows no filters; the archive is our own and went from root to root.
            tar.extractall(scratch, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        run(sys.executable, "-m", "venv", "--without-pip", str(release))
        # By this host's own Python: the environment's would run what the wheels tell every Python to run at its start.
        unpack, wheels = Path(scratch, "installer", "unpack.py"), Path(scratch, "requirements.txt")
        if not unpack.exists():
            sys.exit(f"{archive.name} is of an earlier time of orbiter.fleet.release: build the release anew")
        run(sys.executable, "-I", str(unpack), str(wheels), str(release))
        shutil.copy(Path(scratch, "sbom.cdx.json"), release)
    (release / ".complete").touch()


def prune(keep: int, newest: Path) -> None:
    """Remove all but the newest few releases, never the one in use, nor the one to go back to."""
    spared = {newest, CURRENT.resolve()}
    if GOOD.exists():
        spared.add(RELEASES / json.loads(GOOD.read_text())["release"])
    releases = [path for path in RELEASES.iterdir() if path.is_dir() and not path.name.startswith(".")]
    releases.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in releases[keep:]:
        if old not in spared:
            shutil.rmtree(old)


def main() -> None:
    """Install, then clear up."""
    version, keep = sys.argv[1], int(sys.argv[2])
    os.umask(0o022)
    archive = RELEASES / f".{version}.tar"
    if sys.argv[3:] and hashlib.sha256(archive.read_bytes()).hexdigest() != sys.argv[3]:
        archive.unlink()
        sys.exit(f"The archive of {version} that arrived is not the one whose signature the controller has verified")
    install(archive, RELEASES / version)
    archive.unlink()
    prune(keep, RELEASES / version)
    print(f"installed {version}")


main()
