"""Wait until Redis holds a fresh heartbeat of each instance, from the process that runs now.

Usage: gate.py [--restart] [--check] [--settle SECONDS] SECONDS [UNIT...]
That systemd says active is not enough: the heartbeat must come from the unit's own process, be running, and carry the
version of the release in use. Fails with what is missing and the end of the journal.

With --restart each instance is drained and started first, one after another, each only when the one before it is well:
a release that does not run costs one instance, and the others go on. With --check nothing is done.

With --settle a new release, or new settings, are looked at twice: so many seconds after its start an instance must be
well still, in the same process. With --restart that is the first one, which the others wait for.

Without --restart the units are all that the host should run. Once they are well, what they run is kept as good in
/etc/orbiter/good, for undo.py, and the release is noted in /opt/orbiter/history, for previous.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

COMMAND = "/usr/local/bin/orbiter"
CURRENT = Path("/opt/orbiter/current")
HISTORY = Path("/opt/orbiter/history")
GOOD = Path("/etc/orbiter/good")
KEPT = (Path("/etc/orbiter/worker.env"), Path("/etc/systemd/system/orbiter-worker@.service"))


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


def complaints(units: list[str], version: str) -> list[str]:
    """Return a sentence for each instance that is not well."""
    beats, trouble = heartbeats()
    if trouble:
        return [f"orbiter worker list: {trouble}"]
    found = []
    for unit in units:
        pid = output("systemctl", "show", "--property=MainPID", "--value", unit)
        beat = beats.get(pid) if pid != "0" else None
        if beat is None:
            state = output("systemctl", "show", "--property=ActiveState,SubState", "--value", unit).replace("\n", "/")
            found.append(f"{unit} (systemd: {state}) has no heartbeat in Redis")
        elif beat["state"] != "running":
            found.append(f"{unit} says it is {beat['state']}")
        elif beat["version"] != version:
            found.append(f"{unit} runs version {beat['version']}, not {version}")
    return found


def end(units: list[str], what: str) -> NoReturn:
    """End the program with what is wrong with the release and the journal's end."""
    journal = output(
        *("journalctl", "--no-pager", "--lines=30", "--output=short-iso"), *(f"--unit={unit}" for unit in units)
    )
    sys.exit(f"Release {CURRENT.resolve().name} {what}\nThe end of the journal:\n{journal}")


def wait(units: list[str], seconds: float) -> None:
    """Wait until all are well, or end the program."""
    # A release is named VERSION-DIGEST.
    version = re.sub(r"-[0-9a-f]{8}$", "", CURRENT.resolve().name)
    deadline = time.monotonic() + seconds
    while found := complaints(units, version) if units else []:
        if time.monotonic() > deadline:
            end(units, f"is not well after {seconds:.0f} s: {'; '.join(found)}")
        time.sleep(0.5)


def process(unit: str) -> dict[str, str]:
    """Return a unit's process, how often systemd has restarted it, and when it was ready."""
    names = ("MainPID", "NRestarts", "ActiveEnterTimestampMonotonic")
    shown = output("systemctl", "show", *(f"--property={name}" for name in names), unit)
    return dict(line.split("=", 1) for line in shown.splitlines())


def settle(units: list[str], seconds: float) -> None:
    """Look at units that are well for so long after their start, or end the program where one does not stay so."""
    before = {unit: process(unit) for unit in units}
    # Microseconds of the clock that time.monotonic() tells, too.
    until = max((int(one["ActiveEnterTimestampMonotonic"]) / 1e6 for one in before.values()), default=0) + seconds
    while True:
        for unit, one in before.items():
            if (now := process(unit)) != one:
                end(
                    [unit],
                    f"does not stay well for {seconds:.0f} s: {unit} ran as process {one['MainPID']}, "
                    f"now as {now['MainPID']}; systemd has restarted it {now['NRestarts']} times",
                )
        if time.monotonic() >= until:
            return
        time.sleep(0.5)


def is_new() -> bool:
    """Tell whether the release or the settings are others than those that were last good."""
    try:
        release = json.loads((GOOD / "state.json").read_text())["release"]
        kept = [(GOOD / path.name).read_bytes() == path.read_bytes() for path in KEPT]
    except (OSError, ValueError, KeyError):
        return True
    return release != CURRENT.resolve().name or not all(kept)


def keep(units: list[str]) -> None:
    """Keep the release, the settings and the instances as what is good."""
    release = CURRENT.resolve().name
    fresh = GOOD.with_name(".good")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    for path in KEPT:
        subprocess.run(["cp", "--archive", str(path), str(fresh)], check=True)
    state = {"release": release, "switched": CURRENT.lstat().st_mtime_ns, "instances": units}
    (fresh / "state.json").write_text(json.dumps(state))
    shutil.rmtree(GOOD, ignore_errors=True)
    fresh.rename(GOOD)
    past = HISTORY.read_text().splitlines() if HISTORY.exists() else []
    if not past or past[-1].split()[-1] != release:
        past.append(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {release}")
        HISTORY.with_name(".history").write_text("\n".join(past[-50:]) + "\n")
        HISTORY.with_name(".history").replace(HISTORY)


def main() -> None:
    """Restart, if told to, and wait."""
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", type=float)
    parser.add_argument("units", nargs="*")
    parser.add_argument("--restart", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--settle", type=float, default=0)
    args = parser.parse_args()
    os.umask(0o022)
    if args.check:
        return
    if not args.restart:
        wait(args.units, args.seconds)
        if args.settle and args.units and is_new():
            settle(args.units, args.settle)
            wait(args.units, args.seconds)
        keep(args.units)
        return
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    for unit in args.units:
        subprocess.run(["systemctl", "stop", unit], check=True)
        # Waiting for it to be ready is the gate's, which has a limit and a reason.
        subprocess.run(["systemctl", "start", "--no-block", unit], check=True)
        wait([unit], args.seconds)
        if args.settle and unit == args.units[0] and is_new():
            settle([unit], args.settle)


main()
