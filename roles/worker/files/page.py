"""Make one page of what status.py said on each host.

Usage: page.py [--part] [FILE] < {host: result of the task that ran status.py}
Prints the page; writes everything to FILE as JSON too: {"well", "queue", "strangers": [workers of no host here],
"hosts": {host: what status.py said}}. With --part these are not all hosts, and nobody is a stranger.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

SILENT = {"release": "", "previous": "", "drained": "", "instances": [], "workers": [], "queue": None}
ROW = "{:<20} {:<16} {:>6} {:>5} {:>7} {:>7}"


def said(result: dict[str, Any]) -> dict[str, Any]:
    """Return a host's answer; one that has none says why in `trouble`."""
    if "trouble" in result:
        return {name: result[name] for name in (*SILENT, "trouble")}
    if result.get("rc") == 0:
        return json.loads(result["stdout"])
    reason = result.get("stderr") or result.get("stdout") or result.get("msg") or "no answer"
    return SILENT | {"trouble": "unreachable" if result.get("unreachable") else reason.strip().splitlines()[-1]}


def unwell(host: dict[str, Any]) -> list[str]:
    """Return what is wrong with a host; a drained one is as it should be."""
    if host["trouble"]:
        return [host["trouble"].splitlines()[-1]]
    if not host["release"]:
        return ["nothing is deployed"]
    wrong = [f"{one['unit'].removesuffix('.service')} {one['wrong']}" for one in host["instances"] if one["wrong"]]
    return wrong if wrong or host["instances"] or host["drained"] else ["no instances"]


def strangers(hosts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the workers that live and are of no host here. While one of these is silent, that is not known."""
    if any(host["trouble"] for host in hosts.values()):
        return []
    ours = {one["worker_id"] for host in hosts.values() for one in host["instances"]}
    every = {worker["worker_id"]: worker for host in hosts.values() for worker in host["workers"]}
    return [worker for name, worker in sorted(every.items()) if name not in ours]


def inert(text: str) -> str:
    """Return a text with what is not printable escaped: heartbeats may hold any."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def row(name: str, host: dict[str, Any]) -> str:
    """Return a host's line."""
    every = host["instances"]
    well = [one for one in every if not one["wrong"]]
    busy, done, failed = (
        sum(int(one[field] or 0) for one in every) for field in ("active", "tasks_processed", "tasks_failed")
    )
    return ROW.format(name, host["release"] or "-", f"{len(well)} of {len(every)}", busy, done, failed)


def page(hosts: dict[str, Any], queue: dict[str, Any] | None, others: list[dict[str, Any]]) -> list[str]:
    """Return the page. Its lines are short and without colons, so that Ansible shows them as they are."""
    lines = ["No host could ask Redis for the queue"]
    if queue:
        oldest = f", the oldest for {queue['oldest_waiting']:.0f} s" if queue["oldest_waiting"] else ""
        lines = [
            f"Queue {queue['queue']}, {queue['busy']} of {queue['slots']} slots busy",
            f"{queue['waiting']} waiting{oldest}",
            f"{queue['running']} running, {queue['delayed']} delayed, {queue['dead']} dead letters",
        ]
    lines += ["", ROW.format("HOST", "RELEASE", "WELL", "BUSY", "DONE", "FAILED")]
    lines += [row(name, host) for name, host in hosts.items()]
    drained = [f"{name} is drained {host['drained']}" for name, host in hosts.items() if host["drained"]]
    bad = [f"{name} needs attention, {wrong}" for name, host in hosts.items() for wrong in unwell(host)]
    counts = Counter(worker["hostname"] for worker in others)
    bad += [
        f"{name} is not in the inventory, and works, {count} worker{'s' * (count > 1)}"
        for name, count in counts.items()
    ]
    return [inert(line) for line in (*lines, "", *drained, *(bad or ["All is well"]))]


def main() -> None:
    """Read, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--part", action="store_true")
    args = parser.parse_args()
    hosts = {name: said(result) for name, result in json.load(sys.stdin).items()}
    queue = next((host["queue"] for host in hosts.values() if host["queue"]), None)
    others = [] if args.part else strangers(hosts)
    print("\n".join(page(hosts, queue, others)))
    if args.file:
        well = not others and not any(unwell(host) for host in hosts.values())
        shown = {name: {key: value for key, value in host.items() if key != "workers"} for name, host in hosts.items()}
        answer = {"well": well, "queue": queue, "strangers": others, "hosts": shown}
        args.file.write_text(json.dumps(answer, indent=2) + "\n")


main()
