"""Tell as JSON how the workers of this host are, as systemd, the disk and Redis know it.

Usage: status.py
release, previous: what is in use, and what orbiter.fleet.rollback would go back to · drained: why, or empty
instances: each that is enabled or loaded, with what is wrong with it (empty if it is well)
workers: id and host of every worker that lives, wherever it runs
queue: `orbiter queue info`, or null · trouble: why Redis could not be asked, or empty
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
from pathlib import Path

COMMAND = "/usr/local/bin/orbiter"
CURRENT = Path("/opt/orbiter/current")
HISTORY = Path("/opt/orbiter/history")
DRAINED = Path("/etc/orbiter/drained")
WANTS = Path("/etc/systemd/system/orbiter-workers.target.wants")
PROPERTIES = "ActiveState,SubState,MainPID,NRestarts,UnitFileState"


def ask(*words: str) -> tuple[object, str]:
    """Return what the command answers in JSON, and what went wrong, if anything."""
    try:
        done = subprocess.run([COMMAND, *words, "--json"], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    if done.returncode:
        return None, (done.stdout + done.stderr).strip()
    return json.loads(done.stdout), ""


def show(unit: str) -> dict[str, str]:
    """Return what systemd knows of a unit."""
    words = ["systemctl", "show", f"--property={PROPERTIES}", unit]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def instance(unit: str, beats: dict[str, dict[str, object]], version: str) -> dict[str, object]:
    """Return one instance, with what is wrong with it."""
    state = show(unit)
    beat = beats.get(state["MainPID"], {})
    wrong = ""
    if state["ActiveState"] != "active":
        wrong = f"is {state['ActiveState']}/{state['SubState']} after {state['NRestarts']} restarts"
    elif not beat:
        wrong = "has no heartbeat"
    elif beat["state"] != "running":
        wrong = f"is {beat['state']}"
    elif beat["version"] != version:
        wrong = f"runs {beat['version']}"
    names = ("worker_id", "version", "active", "concurrency", "tasks_processed", "tasks_failed")
    return {"unit": unit, "wrong": wrong} | {name: beat.get(name) for name in names}


def main() -> None:
    """Look and tell."""
    listed = ["systemctl", "list-units", "--all", "--plain", "--no-legend", "orbiter-worker@*.service"]
    loaded = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    # What is neither enabled nor running is the rest of a scale-down.
    units = {path.name for path in WANTS.glob("orbiter-worker@*.service")} | {
        line.split()[0] for line in loaded.splitlines() if line.split()[2] in ("active", "activating", "deactivating")
    }
    rows, trouble = ask("worker", "list") if CURRENT.exists() else ([], "")
    queue = ask("queue", "info")[0] if CURRENT.exists() and not trouble else None
    here = socket.gethostname()
    living = [row for row in rows or [] if row["alive"]]
    beats = {str(row["pid"]): row for row in living if row["hostname"] == here}
    release = CURRENT.resolve().name if CURRENT.exists() else ""
    version = re.sub(r"-[0-9a-f]{8}$", "", release)
    past = [line.split()[-1] for line in HISTORY.read_text().splitlines()] if HISTORY.exists() else []
    answer = {
        "release": release,
        "previous": next((other for other in reversed(past) if other != release), ""),
        "drained": DRAINED.read_text().strip() if DRAINED.exists() else "",
        "instances": [instance(unit, beats, version) for unit in sorted(units)],
        "workers": [{name: row[name] for name in ("worker_id", "hostname")} for row in living],
        "queue": queue,
        "trouble": trouble,
    }
    print(json.dumps(answer))


main()
