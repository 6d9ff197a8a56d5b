"""Wait until Redis holds a fresh heartbeat of every instance on this host, from the process that runs now.

Usage: gate.py INSTANCES SECONDS
That systemd says active is not enough: the heartbeat must come from the unit's own process, be running, and carry the
version of the release in use. Fails with what is missing and the end of the journal.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

COMMAND = "/usr/local/bin/orbiter"
CURRENT = Path("/opt/orbiter/current")


def output(*words: str) -> str:
    """Return a command's output, with its errors."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout.strip()


def heartbeats() -> tuple[dict[str, dict[str, object]], str]:
    """Return this host's heartbeats by process id, and what went wrong, if anything."""
    done = subprocess.run([COMMAND, "worker", "list", "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        return {}, (done.stdout + done.stderr).strip()
    here = socket.gethostname()
    return {str(row["pid"]): row for row in json.loads(done.stdout) if row["hostname"] == here and row["alive"]}, ""


def missing(instances: int, version: str) -> list[str]:
    """Return a sentence for each instance that is not well."""
    beats, trouble = heartbeats()
    if trouble:
        return [f"orbiter worker list: {trouble}"]
    complaints = []
    for number in range(1, instances + 1):
        unit = f"orbiter-worker@{number}.service"
        pid = output("systemctl", "show", "--property=MainPID", "--value", unit)
        beat = beats.get(pid) if pid != "0" else None
        if beat is None:
            state = output("systemctl", "show", "--property=ActiveState,SubState", "--value", unit).replace("\n", "/")
            complaints.append(f"{unit} (systemd: {state}) has no heartbeat in Redis")
        elif beat["state"] != "running":
            complaints.append(f"{unit} says it is {beat['state']}")
        elif beat["version"] != version:
            complaints.append(f"{unit} runs version {beat['version']}, not {version}")
    return complaints


def main() -> None:
    """Wait, or fail with the journal's end."""
    instances, seconds = int(sys.argv[1]), float(sys.argv[2])
    # A release is named VERSION-DIGEST.
    version = re.sub(r"-[0-9a-f]{8}$", "", CURRENT.resolve().name)
    deadline = time.monotonic() + seconds
    while complaints := missing(instances, version) if instances else []:
        if time.monotonic() > deadline:
            journal = output("journalctl", "--no-pager", "--lines=30", "--output=short-iso", "--unit=orbiter-worker@*")
            sys.exit(f"Not well after {seconds:.0f} s: {'; '.join(complaints)}\nThe end of the journal:\n{journal}")
        time.sleep(0.5)
    print(f"{instances} instances of {version} are at work")


main()
