# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release, from its archive to its folder: all of it or nothing."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from ansible_collections.orbiter.fleet.plugins.module_utils import _history


class ReleaseError(Exception):
    """The release cannot be installed."""


def run(*words):
    """Run a command; what it says is the reason if it fails."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"{' '.join(words)} failed:\n{done.stdout}")


def check(archive, version, checksum):
    """Insist that an archive is there and is the one that was verified."""
    if not archive.exists():
        raise ReleaseError(f"{archive} is not there: copy the archive of release {version} to the host before")
    if checksum and hashlib.sha256(archive.read_bytes()).hexdigest() != checksum:
        raise ReleaseError(
            f"The archive of {version} that arrived is not the one whose signature the controller has verified"
        )


def install(archive, release):
    """Make the release's virtual environment and fill it. It counts as installed once it holds the file .complete."""
    if release.exists():  # the rest of an installation that was interrupted
        shutil.rmtree(release)
    with tempfile.TemporaryDirectory(dir=release.parent, prefix=".install-") as scratch:
        with tarfile.open(archive) as tar:
            # Python before 3.11.4 knows no filters; the archive is our own and went from root to root.
            tar.extractall(scratch, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        run(sys.executable, "-m", "venv", "--without-pip", str(release))
        # By this host's own Python: the environment's would run what the wheels tell every Python to run at its start.
        unpack, wheels = Path(scratch, "installer", "unpack.py"), Path(scratch, "requirements.txt")
        if not unpack.exists():
            raise ReleaseError(
                f"{archive.name} was built by an older orbiter.fleet.release and cannot be installed by this one: "
                "build the release anew"
            )
        run(sys.executable, "-I", str(unpack), str(wheels), str(release))
        shutil.copy(Path(scratch, "sbom.cdx.json"), release)
    (release / ".complete").touch()


def prune(place, keep, newest):
    """Remove all but the newest few releases, never the one in use, nor the one to go back to; return their names."""
    current = place.with_name(_history.CURRENT.name)
    spared = {newest, current.resolve().name, (_history.good() or {}).get("release")}
    releases = [path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")]
    releases.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    removed = [old for old in releases[keep:] if old.name not in spared]
    for old in removed:
        shutil.rmtree(old)
    return sorted(old.name for old in removed)
