"""Bring back what the host ran when all was last well: release, settings, unit and instances, as gate.py kept them.

Usage: undo.py
Prints {"release", "instances", "restart"} as JSON: what is in use again, the instances that the host should run, and
those that started on something else and have to be restarted. Instances that were not touched go on undisturbed.

A host where nothing was ever well has nothing to go back to: its instances are stopped, and release is null.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

RELEASES = Path("/opt/orbiter/releases")
CURRENT = Path("/opt/orbiter/current")
DRAINED = Path("/etc/orbiter/drained")
GOOD = Path("/etc/orbiter/good")
UNITS = Path("/etc/systemd/system")
WANTS = UNITS / "orbiter-workers.target.wants"


def systemctl(*words: str) -> str:
    """Run systemctl; return its output."""
    return subprocess.run(["systemctl", *words], stdout=subprocess.PIPE, text=True, check=True).stdout


def point_at(release: Path, switched: int) -> None:
    """Replace the link in one step, dated as it was: for the instances that run this release nothing has changed."""
    link = CURRENT.with_name(".current")
    link.unlink(missing_ok=True)
    link.symlink_to(release)
    os.utime(link, ns=(switched, switched), follow_symlinks=False)
    link.replace(CURRENT)


def untouched(unit: str, since: float) -> bool:
    """Tell whether an instance runs and has done so since before a moment of the monotonic clock."""
    state = dict(
        line.split("=", 1)
        for line in systemctl("show", "--property=ActiveState,ExecMainStartTimestampMonotonic", unit).splitlines()
    )
    return state["ActiveState"] == "active" and int(state["ExecMainStartTimestampMonotonic"]) / 1e6 < since


def main() -> None:
    """Put everything back and tell what is left to do."""
    loaded = systemctl("list-units", "--all", "--plain", "--no-legend", "orbiter-worker@*.service")
    seen = {path.name for path in WANTS.glob("orbiter-worker@*.service")} | {
        line.split()[0] for line in loaded.splitlines()
    }
    good = json.loads((GOOD / "state.json").read_text()) if GOOD.exists() else {"release": None, "instances": []}
    wanted = set() if DRAINED.exists() else set(good["instances"])
    restart: list[str] = []
    if good["release"] is not None:
        for name, home in (("worker.env", Path("/etc/orbiter")), ("orbiter-worker@.service", UNITS)):
            subprocess.run(["cp", "--archive", str(GOOD / name), str(home)], check=True)
        point_at(RELEASES / good["release"], good["switched"])
        kept_at = GOOD.stat().st_mtime - (time.time() - time.monotonic())
        restart = sorted(unit for unit in wanted if not untouched(unit, kept_at))
    systemctl("daemon-reload")
    if extra := sorted(seen - wanted):
        systemctl("disable", "--now", "--quiet", *extra)
    if wanted:
        systemctl("enable", "--quiet", *sorted(wanted))
    print(json.dumps({"release": good["release"], "instances": sorted(wanted), "restart": restart}))


main()
