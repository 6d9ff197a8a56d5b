"""Tell as JSON which orbiter units this host has.

instances: enabled or loaded, whatever their state · complete: enabled and active · running: instances that are active
stale: instances that started before their unit, settings or release last changed · known: units that systemd can find
drained: since when and why the host is out of the fleet (tasks/leave.yml), or empty
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

UNITS = Path("/etc/systemd/system")
TARGET = "orbiter-workers.target"
WANTS = UNITS / f"{TARGET}.wants"
TEMPLATE = UNITS / "orbiter-worker@.service"
DRAINED = Path("/etc/orbiter/drained")
SOURCES = (TEMPLATE, Path("/etc/orbiter/worker.env"), Path("/opt/orbiter/current"))


def show(*units: str) -> dict[str, dict[str, str]]:
    """Return the properties that matter, by unit."""
    names = "Id,ActiveState,UnitFileState,ExecMainStartTimestampMonotonic"
    done = subprocess.run(
        ["systemctl", "show", "--all", f"--property={names}", "--", *units], capture_output=True, text=True, check=True
    )
    blocks = (dict(line.split("=", 1) for line in block.splitlines()) for block in done.stdout.split("\n\n"))
    return {block["Id"]: block for block in blocks if block}


def main() -> None:
    """Look and tell."""
    enabled = {path.name for path in WANTS.glob("orbiter-worker@*.service")}
    loaded = subprocess.run(
        ["systemctl", "list-units", "--all", "--plain", "--no-legend", "orbiter-worker@*.service"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    instances = enabled | {line.split()[0] for line in loaded.splitlines()}
    state = show(TARGET, *sorted(instances))
    active = {name for name, unit in state.items() if unit["ActiveState"] in ("active", "reloading")}
    running = {name for name in instances if name in state and state[name]["ActiveState"] not in ("inactive", "failed")}

    # The link itself counts, not what it points at. Times of processes are monotonic: bring the files' onto that clock.
    changed = max((path.lstat().st_mtime for path in SOURCES if path.is_symlink() or path.exists()), default=0.0)
    changed -= time.time() - time.monotonic()
    stale = {name for name in running if int(state[name]["ExecMainStartTimestampMonotonic"] or 0) / 1e6 < changed}

    target_enabled = (UNITS / "multi-user.target.wants" / TARGET).is_symlink()
    complete = (enabled & active) | ({TARGET} & active if target_enabled else set())
    known = instances if TEMPLATE.exists() else set()
    known = known | ({TARGET} if (UNITS / TARGET).exists() else set())
    answer = {"instances": instances, "complete": complete, "running": running, "stale": stale, "known": known}
    drained = DRAINED.read_text().strip() if DRAINED.exists() else ""
    print(json.dumps({key: sorted(names) for key, names in answer.items()} | {"drained": drained}))


main()
