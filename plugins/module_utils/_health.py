# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one answer to: is it well? For what a host should run, systemd's units and Docker's containers alike."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

# What is shown of a heartbeat.
SHOWN = ("worker_id", "version", "active", "concurrency", "tasks_processed", "tasks_failed")


@dataclass
class Expected:
    """A worker that a host should run, as what supervises it knows it.

    Attributes:
        name: The unit, or the container.
        shown: What its supervisor says of it, for people.
        running: Whether it runs, as far as its supervisor knows.
        version: The version that it should run; empty where any will do.
        pid: Its process id, where it has the host's.
        since: When it was started, epoch seconds: heartbeats of earlier ones are somebody else's.
        hostname: The name that its machine, or its container, has now.
        machine_id: That machine's, as `machine_id` returns it; empty for a container.
        unit: Its unit, where systemd supervises it.
    """

    name: str
    shown: str = ""
    running: bool = True
    version: str = ""
    pid: int | None = None
    since: float = 0.0
    hostname: str = ""
    machine_id: str = ""
    unit: str = ""


def machine_id(path="/etc/machine-id"):
    """Return what names this machine whatever its host name is, as workers say it in their heartbeats, or nothing.

    A hash: what has the machine's id itself could pass for the machine elsewhere.
    """
    try:
        found = Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
    return hashlib.sha256(f"orbiter {found}".encode()).hexdigest()[:32] if len(found) == 32 else ""


def heartbeat(one, rows):
    """Return the heartbeat of a worker's very process, or None.

    Args:
        one: The worker that is expected.
        rows: What `orbiter worker list --json` says.
    """
    for row in rows:
        if not row["alive"] or (one.pid is not None and row["pid"] != one.pid):
            continue
        if one.since and float(row["started_at"] or 0) < one.since:
            continue
        if is_here(one, row):
            return row
    return None


def is_here(one, row):
    """Tell whether a heartbeat is of this unit of this machine, whatever the host is called now."""
    if one.machine_id and row.get("machine_id"):
        return row["machine_id"] == one.machine_id and one.unit == (row.get("unit") or one.unit)
    # A container, or a worker of a release that tells its host's name only.
    return row["hostname"] == one.hostname


def complaint(one, rows):
    """Return what is wrong with a worker, or nothing."""
    if not one.running:
        return f"({one.shown}) does not run"
    beat = heartbeat(one, rows)
    if beat is None:
        return f"({one.shown}) has no heartbeat in Redis"
    if beat["state"] != "running":
        why = beat.get("problem") or ""
        return f"says it is {beat['state']}{': ' if why else ''}{why}"
    if one.version and beat["version"] != one.version:
        return f"runs version {beat['version']}, not {one.version}"
    return ""


def complaints(expected, rows):
    """Return a sentence for each worker that is not well."""
    found = ((one.name, complaint(one, rows)) for one in expected)
    return [f"{name} {wrong}" for name, wrong in found if wrong]


def described(one, rows):
    """Return one worker for the fleet's state: its name, what is wrong with it, and what its heartbeat says."""
    beat = heartbeat(one, rows) or {}
    return {"unit": one.name, "wrong": complaint(one, rows), **{name: beat.get(name) for name in SHOWN}}
