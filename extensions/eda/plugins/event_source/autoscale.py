# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An event source of ansible-rulebook: tells when a queue needs more instances, or fewer."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

DOCUMENTATION = r"""
---
short_description: Tell when a queue needs more instances, or fewer
description:
  - Watches a queue, decides by the rules of M(orbiter.fleet.autoscale_plan), and sends an event when instances should
    change. It changes nothing; the playbook C(orbiter.fleet.autoscale) does, and decides again.
  - An event is C(autoscale) with C(direction) (C(up), C(down), or C(unknown) where the queue cannot be asked),
    C(reason), C(queue), C(waiting), C(running), C(oldest_waiting), C(instances), C(wanted), C(hosts), which gives the
    wanted number of each, and C(calm), seconds for which a step down has been possible.
options:
  redis_url:
    description: Where Redis is. Without it, C(ORBITER_REDIS_URL) of the environment.
    type: str
  namespace:
    description: The namespace.
    type: str
  queue:
    description: The queue.
    type: str
  executable:
    description: Path of the command C(orbiter). Without it, the one on the C(PATH).
    type: str
  min:
    description: Instances that each host has at least.
    type: int
    default: 1
  max:
    description: Instances that each host has at most.
    type: int
    required: true
  slots:
    description: Tasks that an instance runs at the same time, on hosts where none lives.
    type: int
    default: 4
  hosts:
    description: Names of hosts that count although no worker lives there, with O(min) and O(max) of their own, or none.
    type: dict
    default: {}
  target_wait:
    description: Seconds that a task may wait.
    type: float
    default: 30
  patience:
    description: Seconds that it has to be calm before a step down.
    type: float
    default: 300
  delay:
    description: Seconds between two looks.
    type: float
    default: 15
"""

EXAMPLES = r"""
- orbiter.fleet.autoscale:
    redis_url: "{{ redis_url }}"
    max: 8
    hosts:
      worker1: {}
      worker2: {max: 16}
"""

NUMBERS = {"min": 1, "slots": 4, "target_wait": 30.0, "patience": 300.0, "delay": 15.0}
LEAST = {"min": 0, "max": 0, "slots": 1, "target_wait": 0, "patience": 0, "delay": 0.1}


def _part(name: str) -> ModuleType:
    """Return a part of this collection. ansible-rulebook does not import from collections, so by its path."""
    known = f"orbiter_fleet{name}"
    if known not in sys.modules:
        path = Path(__file__).resolve().parents[4] / f"plugins/module_utils/{name}.py"
        spec = importlib.util.spec_from_file_location(known, path)
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return sys.modules[known]


autoscale, command = _part("_autoscale"), _part("_command")


async def main(queue: asyncio.Queue[Any], args: dict[str, Any]) -> None:
    """Watch, and send events.

    Args:
        queue: Where events go.
        args: The options.

    Raises:
        ValueError: An option is not what it must be.
    """
    watch, said = Watch(args), ""
    while True:
        event = await asyncio.to_thread(watch.look)
        # A queue that cannot be asked is one event, however often it is tried.
        if event["direction"] not in {"stay", "unknown"} or (
            event["direction"] == "unknown" and event["reason"] != said
        ):
            await queue.put({"autoscale": event})
        said = event["reason"]
        await asyncio.sleep(watch.options["delay"])


class Watch:
    """Looks at a queue from time to time.

    Args:
        args: The options.

    Raises:
        ValueError: An option is not what it must be.
    """

    def __init__(self, args: dict[str, Any]) -> None:
        self.options = checked(args)
        program = args.get("executable") or shutil.which("orbiter")
        if program is None:
            raise ValueError(
                "There is no command orbiter on PATH: pip install orbiter-distributed, or name it: executable"
            )
        self._command = command.Command(program, args.get("redis_url"), args.get("queue"), args.get("namespace"))
        self._calm_since: float | None = None

    def look(self) -> dict[str, Any]:
        """Look once; return what there is to do, as an event."""
        try:
            info = self._command.ask("queue", "info", "--json", *self._command.queue_words())
            workers = self._command.ask("worker", "list", "--json", *self._command.queue_words())
        except command.CommandError as error:
            self._calm_since = None  # nobody has seen it
            return {"direction": "unknown", "reason": str(error)}
        now, hosts = time.monotonic(), self._hosts(workers, info["queue"])
        plan = autoscale.decide(
            autoscale.Queue(info["waiting"], info["oldest_waiting"] or 0.0, info["running"]),
            hosts,
            target=self.options["target_wait"],
            patience=self.options["patience"],
            now=now,
            calm_since=self._calm_since,
        )
        since = now if self._calm_since is None else self._calm_since
        self._calm_since = plan.calm_since
        return {
            "direction": plan.direction,
            "reason": plan.reason,
            "queue": info["queue"],
            **{name: info[name] for name in ("waiting", "running", "oldest_waiting")},
            "instances": sum(host.instances for host in hosts.values()),
            "wanted": sum(plan.instances.values()),
            "hosts": plan.instances,
            "calm": round(now - since, 1),
        }

    def _hosts(self, workers: list[dict[str, Any]], queue: str) -> dict[str, Any]:
        """Return the hosts: those on which workers of the queue live, and those that were named."""
        lives = [row for row in workers if row["alive"] and row["queue"] in {"", queue} and row["state"] != "draining"]
        found = {}
        for name in dict.fromkeys([*self.options["hosts"], *(row["hostname"] for row in lives)]):
            here = [row for row in lives if row["hostname"] == name]
            own = self.options["hosts"].get(name) or {}
            least, most = (own.get(limit, self.options[limit]) for limit in ("min", "max"))
            quiet = sum(row["state"] == "quiet" for row in here)
            slots = max((row["concurrency"] for row in here), default=self.options["slots"])
            # One where nobody works, as it is drained or away, is none that has to come to its limits.
            found[name] = autoscale.Host(len(here), least if here else 0, max(least, most), slots, quiet)
        return found


def checked(args: dict[str, Any]) -> dict[str, Any]:
    """Return the options that are numbers, and the hosts.

    Raises:
        ValueError: One is not what it must be.
    """
    options: dict[str, Any] = {name: args.get(name, NUMBERS.get(name)) for name in LEAST}
    options["hosts"] = args.get("hosts") or {}
    if not isinstance(options["hosts"], dict):
        raise ValueError(f"hosts is {options['hosts']!r}; it must be names, each with its limits, or with {{}}")  # noqa: TRY004 - as for all
    given = [options, *(own or {} for own in options["hosts"].values())]
    for row in given:
        for name, least in LEAST.items():
            value = row.get(name, least)
            whole = name in {"min", "max", "slots"}
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not value >= least:
                raise ValueError(f"{name} is {value!r}; it must be a {'whole ' * whole}number, {least} or more")
        if row.get("min", 0) > row.get("max", options["max"]):
            raise ValueError(f"min is {row['min']} and max {row.get('max', options['max'])}; min must not be above max")
    return options
