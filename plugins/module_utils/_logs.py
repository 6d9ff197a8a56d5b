# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The log lines of a host's instances, from systemd's journal or from the containers of its compose stack."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections import deque

from ansible_collections.orbiter.fleet.plugins.module_utils import _systemd
from ansible_collections.orbiter.fleet.plugins.module_utils._command import inert

UNIT = re.compile(r"orbiter-worker@(.+)\.service\Z")
# The levels of syslog(3) by the names that a worker writes elsewhere.
LEVELS = {"0": "CRITICAL", "1": "CRITICAL", "2": "CRITICAL", "3": "ERROR", "4": "WARNING", "7": "DEBUG"}
# What a worker puts before its lines where no journal does.
MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z ")
# So begin the lines of a traceback, which belong to the line before them.
CONTINUED = "    "
AGO = re.compile(r"(\d+) ?(s|sec|seconds?|m|min|minutes?|h|hours?|d|days?) ?(?:ago)?\Z")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DATES = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d")


def moment(text, now):
    """Return a time as epoch seconds.

    Args:
        text: A time ago, such as `10 min ago` or `2h`, or a time of UTC, such as `2026-02-17 10:30`.
        now: What time it is.

    Raises:
        ValueError: It is neither.
    """
    said = text.strip()
    ago = AGO.match(said.lower())
    if ago:
        return now - int(ago[1]) * SECONDS[ago[2][0]]
    for shape in DATES:
        try:
            return dt.datetime.strptime(said.removesuffix("Z"), shape).replace(tzinfo=dt.timezone.utc).timestamp()
        except ValueError:
            continue
    raise ValueError(
        f"logs_since is {text!r}; it must be a time ago or a time of UTC. Say such as 2h, 1d, or with spaces "
        "-e \"logs_since='10 min ago'\" or -e \"logs_since='2026-02-17 10:30'\"."
    )


def about(task, lines):
    """Return the lines that are about a task, with the tracebacks behind them; all of them where none is named.

    Args:
        task: The task's id.
        lines: Lines in the order of time, each a dictionary as `line` returns it.
    """
    if not task:
        return lines
    named = re.compile(rf"(?<![A-Za-z0-9_-]){re.escape(task)}(?![A-Za-z0-9_-])")
    return _with_tracebacks(named, lines)


def _with_tracebacks(named, lines):
    open_at = set()
    for one in lines:
        if named.search(one["text"]):
            open_at.add(one["instance"])
        elif not one["text"].startswith(CONTINUED) or one["instance"] not in open_at:
            open_at.discard(one["instance"])
            continue
        yield one


def line(at, instance, level, text):
    """Return one line: when, of which instance, how urgent, as far as that is known, and the text."""
    return {"at": at, "instance": instance, "level": level, "text": text}


# -- systemd's journal -----------------------------------------------------------------------------------------------


def journal(since, task, count):
    """Return the last lines of this host's instances, and what systemd says of them."""
    words = [
        *("journalctl", "--quiet", "--no-pager", "--all", "--output=json", f"--unit={_systemd.PATTERN}"),
        *("--output-fields=MESSAGE,PRIORITY,UNIT,_SYSTEMD_UNIT", f"--since=@{since:.0f}"),
    ]
    if not task:
        words.append(f"--lines={count}")
    try:
        return last(words, of_journal, task, count)
    except _systemd.GateError as error:
        # No instance has ever logged here.
        if "No data available" in str(error):
            return []
        raise


def of_journal(row):
    """Return what a row of `journalctl --output=json` is as lines."""
    entry = json.loads(row)
    named = (UNIT.match(entry.get(field) or "") for field in ("_SYSTEMD_UNIT", "UNIT"))
    instance = next((found[1] for found in named if found), "?")
    level = LEVELS.get(entry.get("PRIORITY"), "INFO")
    text = _text(entry.get("MESSAGE"))
    return [line(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, instance, level, part) for part in text.splitlines()]


def _text(said):
    """Return a message as text: one that is not, is a list of bytes, and one that was said twice a list of both."""
    if isinstance(said, list):
        if all(isinstance(part, int) for part in said):
            return bytes(said).decode("utf-8", "replace")
        return "\n".join(_text(part) for part in said)
    return said or ""


# -- the containers of a compose stack -------------------------------------------------------------------------------


def containers(replicas, since, task, count):
    """Return the last lines of these containers."""
    found = []
    for row in replicas:
        instance = str(row.number) if row.service == "worker" else f"{row.service.removesuffix('-worker')}-{row.number}"
        words = ["docker", "logs", "--timestamps", f"--since={since:.0f}"]
        words += [] if task else [f"--tail={count}"]
        found += last([*words, row.id], lambda text, instance=instance: of_container(instance, text), task, count)
    return sorted(found, key=lambda one: one["at"])[-count:]


def of_container(instance, row):
    """Return what a row of `docker logs --timestamps` is as lines."""
    stamp, _space, text = row.rstrip("\r\n").partition(" ")
    # Nanoseconds, which no Python reads.
    seconds, _point, fraction = stamp.rstrip("Z").partition(".")
    try:
        at = dt.datetime.strptime(seconds, DATES[0]).replace(tzinfo=dt.timezone.utc).timestamp()
    except ValueError:
        return []
    own = MOMENT.match(text)
    level, _space, rest = text[own.end() :].partition(" ") if own else ("", "", text)
    return [line(at + float(f"0.{fraction or 0}"), instance, level, rest.lstrip() if own else rest)]


# -- either ----------------------------------------------------------------------------------------------------------


def last(words, read, task, count):
    """Return the last lines of a command that writes a log, and keep no more of it meanwhile.

    Args:
        words: The command.
        read: Makes lines of one of its rows.
        task: The id of the task that they are to be about, or nothing.
        count: How many.

    Raises:
        GateError: It failed, with what it says.
    """
    process = _systemd.begin(words, LC_ALL="C")
    others = deque(maxlen=3)

    def rows():
        for row in process.stdout:
            try:
                found = read(row)
            except ValueError:
                found = []
            if not found:
                others.append(row.strip())
            yield from found

    kept = list(deque(about(task, rows()), maxlen=count))
    if process.wait():
        said = " ".join(others) or "no reason given"
        raise _systemd.GateError(inert(f"{' '.join(words[:2])} failed: {said}"))
    return kept
