# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is recorded on a host: what was last well there, which releases were well before, and that it is drained."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

CURRENT = Path("/opt/orbiter/current")
RELEASES = Path("/opt/orbiter/releases")
GOOD = Path("/etc/orbiter/good")
DRAINED = Path("/etc/orbiter/drained")
# Of what systemd runs; compose stacks have theirs in /etc/orbiter.
HISTORY = Path("/opt/orbiter/history")
RECORDED = 50


def good(place=GOOD):
    """Return the state that was kept as good, or None where nothing ever was."""
    try:
        return json.loads((place / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def keep(state, files, place=GOOD):
    """Keep a state and files as what is good, all of it or nothing.

    Args:
        state: What to note, as JSON.
        files: Paths of files that go with it.
        place: The folder.
    """
    fresh = place.with_name(".good")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    for path in files:
        subprocess.run(["cp", "--archive", str(path), str(fresh)], check=True)
    (fresh / "state.json").write_text(json.dumps(state), encoding="utf-8")
    shutil.rmtree(place, ignore_errors=True)
    fresh.rename(place)


def is_good(files, place=GOOD):
    """Tell whether files are as they were kept."""
    try:
        return all((place / path.name).read_bytes() == path.read_bytes() for path in files)
    except OSError:
        return False


def bring_back(files, place=GOOD):
    """Put files back as they were kept."""
    for path in files:
        subprocess.run(["cp", "--archive", str(place / path.name), str(path.parent)], check=True)


def past(history=HISTORY):
    """Return what was well here, the oldest first."""
    return [line.split()[-1] for line in history.read_text(encoding="utf-8").splitlines()] if history.exists() else []


def note(release, history=HISTORY):
    """Note that a release is well; one that was the last such one is not noted again."""
    lines = history.read_text(encoding="utf-8").splitlines() if history.exists() else []
    if lines and lines[-1].split()[-1] == release:
        return
    lines.append(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {release}")
    scratch = history.with_name(".history")
    scratch.write_text("\n".join(lines[-RECORDED:]) + "\n", encoding="utf-8")
    scratch.replace(history)


def drained(place=DRAINED):
    """Return since when and why the host is out of the fleet, or nothing."""
    return place.read_text(encoding="utf-8").strip() if place.exists() else ""


def installed(place=RELEASES):
    """Return the releases that are installed whole."""
    return sorted(path.parent.name for path in place.glob("[!.]*/.complete"))
