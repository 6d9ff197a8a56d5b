# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The workers of a host as systemd runs them, and the release that they run."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from pathlib import Path

from ansible_collections.orbiter.fleet.plugins.module_utils import _command, _health, _history, _task
from ansible_collections.orbiter.fleet.plugins.module_utils._command import Command, CommandError, TooLongError, inert

COMMAND = "/usr/local/bin/orbiter"
CURRENT, RELEASES = _history.CURRENT, _history.RELEASES
UNITS = Path("/etc/systemd/system")
TARGET = "orbiter-workers.target"
PATTERN = "orbiter-worker@*.service"
TEMPLATE = UNITS / "orbiter-worker@.service"
SETTINGS = Path("/etc/orbiter/worker.env")
# What is kept as good beside the release, and all that an instance reads when it starts.
KEPT = (SETTINGS, TEMPLATE)
SOURCES = (*KEPT, Path("/etc/orbiter/redis-ca.pem"), CURRENT)
STEP = 0.2  # seconds between two looks
ANSWER = 20  # seconds that the fleet's command gets to answer who only looks
LINES = 30  # of the journal


class GateError(Exception):
    """Something on the host is not as it should be.

    Attributes:
        tail: The end of the journal, for people; empty where that would not help.
    """

    def __init__(self, message, tail=""):
        super().__init__(message)
        self.tail = tail


def fail(module, error, changed=False):
    """End a module with what is wrong, first in one sentence, then with the end of the journal."""
    name = module.params.get("name", "")
    tail = {"tail": error.tail} if error.tail else {}
    module.fail_json(msg=f"{name}{': ' if name else ''}{error}", changed=changed, **tail)


def output(*words):
    """Return what a command says; its own words are the reason if it fails."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise GateError(inert(f"{' '.join(words[:2])} failed: {done.stdout.strip()}"))
    return done.stdout


def begin(words, **variables):
    """Start a command that says all in one text, and return its process.

    Args:
        words: The command.
        variables: What its environment has beside this one's.

    Raises:
        GateError: It cannot be started.
    """
    try:
        return _command.begin(words, variables)
    except OSError as error:
        raise GateError(f"{words[0]}: {error.strerror}") from None


def names(count):
    """Return the units of so many instances."""
    return [f"orbiter-worker@{number}.service" for number in range(1, count + 1)]


def show(units, properties):
    """Return what systemd says of units: of each its properties."""
    if not units:
        return {}
    said = output("systemctl", "show", "--all", f"--property=Id,{properties}", "--", *units)
    blocks = (dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in said.split("\n\n"))
    return {block["Id"]: block for block in blocks if block}


# -- what there is ---------------------------------------------------------------------------------------------------


def enabled():
    """Return the instances that start at boot."""
    return {path.name for path in (UNITS / f"{TARGET}.wants").glob(PATTERN)}


def starts_at_boot():
    """Tell whether the target, and with it the instances, starts at boot."""
    return (UNITS / "multi-user.target.wants" / TARGET).is_symlink()


def look():
    """Return which units the host has.

    Returns:
        instances: enabled, or loaded and not just the rest of one that was stopped · complete: enabled and active ·
        running: instances that are not stopped · stale: those that started before what they read at their start last
        changed · known: units that systemd can find · drained: since when and why the host is out of the fleet, or
        nothing · state: of each unit.
    """
    starting = enabled()
    loaded = output("systemctl", "list-units", "--all", "--plain", "--no-legend", PATTERN)
    there = starting | {line.split()[0] for line in loaded.splitlines()}
    state = show([TARGET, *sorted(there)], "ActiveState,ExecMainStartTimestampMonotonic")
    instances = starting | {name for name in there if state[name]["ActiveState"] != "inactive"}
    active = {name for name, unit in state.items() if unit["ActiveState"] in ("active", "reloading")}
    running = {name for name in instances if state[name]["ActiveState"] not in ("inactive", "failed")}

    # The link itself counts, not what it points at. Times of processes are monotonic: bring the files' onto that clock.
    changed = max((path.lstat().st_mtime for path in SOURCES if path.is_symlink() or path.exists()), default=0.0)
    changed -= time.time() - time.monotonic()
    stale = {name for name in running if started(state[name]) < changed}

    known = instances if TEMPLATE.exists() else set()
    return {
        "instances": instances,
        "complete": (starting & active) | ({TARGET} & active if starts_at_boot() else set()),
        "running": running,
        "stale": stale,
        "known": known | ({TARGET} if (UNITS / TARGET).exists() else set()),
        "drained": _history.drained(),
        "state": {name: unit["ActiveState"] for name, unit in state.items()},
    }


def started(unit):
    """Return when a unit's process was started, in seconds of the monotonic clock."""
    return int(unit["ExecMainStartTimestampMonotonic"] or 0) / 1e6


def release():
    """Return the name of the release in use, or nothing."""
    return CURRENT.resolve().name if CURRENT.is_symlink() else ""


def version_of(name):
    """Return a release's version: it is named VERSION-DIGEST."""
    return re.sub(r"-[0-9a-f]{8}$", "", name)


def previous(wanted=""):
    """Return the release to go back to: the wanted one, or else the last other one that was well here.

    Raises:
        GateError: There is none.
    """
    there, current = _history.installed(), release()
    if wanted:
        if wanted not in there:
            raise GateError(f"Release {wanted} is not installed here; these are: {', '.join(there) or 'none'}.")
        return wanted
    earlier = [one for one in _history.past() if one != current and one in there]
    if not earlier:
        raise GateError(
            f"Nothing to go back to: no other release than {current or 'none'} was well here and is still installed. "
            f"Installed: {', '.join(there) or 'none'}; name one by worker_version."
        )
    return earlier[-1]


# -- changes ---------------------------------------------------------------------------------------------------------


def point_at(name, switched=None):
    """Use a release from the next start of an instance on: the link is replaced in one step.

    Args:
        name: The release.
        switched: Date the link so, in nanoseconds: for instances that run this release, nothing has changed.
    """
    link = CURRENT.with_name(".current")
    link.unlink(missing_ok=True)
    link.symlink_to(RELEASES / name)
    if switched is not None:
        os.utime(link, ns=(switched, switched), follow_symlinks=False)
    link.replace(CURRENT)


def start(units):
    """Start units, all at the same time, now and at boot. Whether they come up is the gate's to find out."""
    if units:
        output("systemctl", "enable", "--quiet", *units)
        output("systemctl", "start", "--no-block", *units)


def stop(units):
    """Stop units, all at the same time, now and at boot; returns when their instances have drained."""
    if units:
        output("systemctl", "disable", "--now", "--quiet", *units)
        # One that had failed would be listed for ever.
        subprocess.run(["systemctl", "reset-failed", *units], stderr=subprocess.DEVNULL, check=False)


def restart(units, timeout, settle=0):
    """Drain and start instances, one after another, each only when the one before it is well.

    A release that does not run costs one instance, and the others go on. What is new is looked at for so many seconds
    after the first start.
    """
    if units:
        output("systemctl", "daemon-reload")
    for unit in units:
        output("systemctl", "stop", unit)
        output("systemctl", "start", "--no-block", unit)
        wait([unit], timeout)
        if settle and unit == units[0] and is_new():
            stay([unit], settle)


# -- the gate --------------------------------------------------------------------------------------------------------


def expected(units):
    """Return what is expected of units, by what systemd says of them now."""
    version, machine, host = version_of(release()), _health.machine_id(), socket.gethostname()
    found = []
    for unit, said in show(units, "ActiveState,SubState,MainPID,NRestarts").items():
        restarts = f", restarted {said['NRestarts']} times" if said["NRestarts"] != "0" else ""
        found.append(
            _health.Expected(
                name=unit,
                shown=f"systemd: {said['ActiveState']}/{said['SubState']}{restarts}",
                running=said["MainPID"] != "0",
                version=version,
                pid=int(said["MainPID"]),
                hostname=host,
                machine_id=machine,
                unit=unit,
            )
        )
    return found


def ask(*words, within=ANSWER):
    """Return what the fleet's command answers, and what went wrong, if anything."""
    try:
        return Command(COMMAND).ask(*words, "--json", within=within), ""
    except (CommandError, TooLongError) as error:
        return None, f"orbiter {' '.join(words)}: {error}"


def complaints(units, within):
    """Return a sentence for each instance that is not well, as far as the fleet's command answers in time."""
    rows, trouble = ask("worker", "list", within=within)
    # After the heartbeats: an instance that starts meanwhile has none among them, and is asked for again.
    if not trouble:
        return _health.complaints(expected(units), rows)
    return [*_health.complaints([one for one in expected(units) if not one.running], []), trouble]


def are_up(units):
    """Tell whether systemd takes instances for ready, which costs much less to ask than Redis does."""
    return all(unit["ActiveState"] == "active" for unit in show(units, "ActiveState").values())


def wait(units, timeout):
    """Wait until instances are well.

    Raises:
        GateError: They are not after so many seconds.
    """
    deadline = time.monotonic() + timeout
    while units:
        late = time.monotonic() > deadline
        if late or are_up(units):
            found = complaints(units, max(timeout, ANSWER))
            if not found:
                return
            if late:
                raise unwell(units, f"is not well after {timeout:g} s: {'; '.join(found)}")
        time.sleep(STEP)


def process(units):
    """Return of each unit its process, how often systemd has restarted it, and when it was ready."""
    return show(units, "MainPID,NRestarts,ActiveEnterTimestampMonotonic")


def stay(units, seconds):
    """Look at instances that are well for so long after their start.

    Raises:
        GateError: One does not stay so.
    """
    before = process(units)
    # Microseconds of the clock that time.monotonic() tells, too.
    until = max((int(one["ActiveEnterTimestampMonotonic"]) / 1e6 for one in before.values()), default=0) + seconds
    while True:
        for unit, now in process(units).items():
            if now != before[unit]:
                raise unwell(
                    [unit],
                    f"does not stay well for {seconds:g} s: {unit} ran as process {before[unit]['MainPID']}, "
                    f"now as {now['MainPID']}; systemd has restarted it {now['NRestarts']} times",
                )
        if time.monotonic() >= until:
            return
        time.sleep(STEP)


def try_task(task, units, timeout):
    """Have a task run by the host's queue, from its submission to its end.

    Args:
        task: The agent, and what else the module `task` takes.
        units: Whose journal is the reason if it does not complete.
        timeout: Seconds that it may take.

    Returns:
        Its record.

    Raises:
        GateError: It did not complete. It does not stay in the queue.
    """
    record, wrong = _task.try_out(Command(COMMAND), task, timeout)
    if wrong:
        raise unwell(units, f"does not do its work: {wrong}")
    return record


def unwell(units, what):
    """Return the error that says what is wrong with the release, with the end of the journal of these units."""
    words = ["journalctl", "--no-pager", f"--lines={LINES}", "--output=short-iso"]
    journal = output(*words, *(f"--unit={unit}" for unit in units))
    return GateError(
        inert(f"Release {release()} {what}"),
        "\n".join(["The end of the journal:", *(inert(line) for line in journal.splitlines())]),
    )


def is_new():
    """Tell whether the release or the settings are others than those that were last good."""
    good = _history.good()
    return good is None or good.get("release") != release() or not _history.is_good(KEPT)


def keep(units):
    """Keep the release, the settings and the instances as what is good."""
    state = {"release": release(), "switched": CURRENT.lstat().st_mtime_ns, "instances": units}
    _history.keep(state, KEPT)
    _history.note(release())


# -- back ------------------------------------------------------------------------------------------------------------


def bring_back():
    """Bring back what the host ran when all was last well: release, settings, unit and instances.

    A host where nothing was ever well has nothing to go back to: its instances are stopped. On a drained host nothing
    starts.

    Returns:
        (the release or None, the instances that should run, those of them that have to be restarted: they started on
        something else. The others go on undisturbed).
    """
    seen = look()["instances"]
    good = _history.good() or {"release": None, "instances": []}
    wanted = [] if _history.drained() else sorted(good["instances"])
    again = []
    if good["release"] is not None:
        _history.bring_back(KEPT)
        point_at(good["release"], good["switched"])
        kept_at = _history.GOOD.stat().st_mtime - (time.time() - time.monotonic())
        state = show(wanted, "ActiveState,ExecMainStartTimestampMonotonic")
        again = [unit for unit in wanted if state[unit]["ActiveState"] != "active" or started(state[unit]) >= kept_at]
    output("systemctl", "daemon-reload")
    stop(sorted(seen - set(wanted)))
    if wanted:
        output("systemctl", "enable", "--quiet", *wanted)
    return good["release"], wanted, again
