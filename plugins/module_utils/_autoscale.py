# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many instances a queue needs: one function without a state, for the module, the event source and the simulation.

Up at once, down late: a task that waits costs more than an instance that is idle for some minutes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

# The share of the slots that may be in use after a step down: the rest is for what comes in the next minutes.
FULL = 0.75
# The share of the target from which on a wait is a reason to grow, or not to shrink.
EARLY = 0.5
# A step down takes one instance in so many.
STEP = 10


@dataclass(frozen=True)
class Queue:
    """What there is to do.

    Attributes:
        waiting: Tasks that no worker has claimed.
        oldest: Seconds that the oldest of them has waited, 0 where none waits.
        claimed: Tasks that run.
    """

    waiting: int = 0
    oldest: float = 0.0
    claimed: int = 0


@dataclass(frozen=True)
class Host:
    """A host that workers run on.

    Attributes:
        instances: How many it has now.
        least: How many it has at least.
        most: How many it has at most.
        slots: Tasks that run at the same time in each of them.
        quiet: How many of them take no task, as somebody has told them so.
    """

    instances: int
    least: int
    most: int
    slots: int
    quiet: int = 0


@dataclass(frozen=True)
class Plan:
    """What to do.

    Attributes:
        instances: How many instances each host is to have.
        direction: ``up``, ``down`` or ``stay``.
        reason: Why, for people.
        calm_since: What the next decision is to be given.
    """

    instances: dict
    direction: str
    reason: str
    calm_since: float | None


def decide(queue, hosts, *, target, patience, now, calm_since=None):
    """Return how many instances each host is to have.

    1. A host outside of its limits comes to the nearer one.
    2. Up, at once: the oldest task waits longer than the target; or half as long, and more tasks wait than there are
       slots; or tasks wait and there is no slot at all. As many instances as all tasks need that wait or run, at least
       one more, at most twice as many as there are.
    3. Down, late: for ``patience`` seconds nothing has waited for half the target, and a step fewer would have left a
       quarter of the slots free. A step is one instance of ten, at least one; the time begins anew then.
    4. What grows is the host with the largest share of its limit left, what shrinks the one with the smallest.

    Args:
        queue: What there is to do.
        hosts: The hosts, by name.
        target: Seconds that a task may wait.
        patience: Seconds that it has to be calm before a step down.
        now: The time, in seconds.
        calm_since: What the last decision has returned; None for the first one. A time to come counts as now.
    """
    within = {name: replace(host, instances=_within(host)) for name, host in hosts.items()}
    if within != hosts:
        direction = "up" if _count(within) >= _count(hosts) else "down"
        return _plan(within, direction, "hosts are outside of their limits", None)
    if reason := _short(queue, _slots(hosts), target):
        grown = _grow(hosts, _load(queue))
        if grown == hosts:
            return _plan(hosts, "stay", f"{reason}, and every host has its most instances", None)
        return _plan(grown, "up", reason, None)
    shrunk = _shrink(hosts)
    if shrunk == hosts:
        return _plan(hosts, "stay", "every host has its least instances", None)
    if queue.oldest > EARLY * target or _load(queue) > FULL * _slots(shrunk):
        return _plan(hosts, "stay", "the slots are needed", None)
    since = now if calm_since is None else min(calm_since, now)
    calm = f"calm for {now - since:.0f} of {patience:.0f} s"
    return _plan(shrunk, "down", calm, now) if now - since >= patience else _plan(hosts, "stay", calm, since)


def _short(queue, slots, target):
    """Return why there are too few slots, or nothing."""
    if queue.oldest > target:
        return f"the oldest task has waited for {queue.oldest:.0f} s, longer than {target:.0f} s"
    if queue.oldest > EARLY * target and queue.waiting > slots:
        return f"the oldest task has waited for {queue.oldest:.0f} s, and more tasks wait than there are slots"
    return "tasks wait, and there is no slot" if queue.waiting and not slots else ""


def _grow(hosts, load):
    """Return the hosts with as many instances as the load needs, one more at least, twice as many at most."""
    most = max(1, 2 * _count(hosts))
    grown = hosts
    while _count(grown) < most and (grown == hosts or _slots(grown) < load):
        rooms = {name: 1 - host.instances / host.most for name, host in grown.items() if host.instances < host.most}
        if not rooms:
            break
        grown = _changed(grown, min(rooms, key=lambda name: (-rooms[name], name)), 1)
    return grown


def _shrink(hosts):
    """Return the hosts with a step fewer."""
    shrunk = hosts
    least = _count(hosts) - max(1, _count(hosts) // STEP)
    while _count(shrunk) > least:
        used = {name: host.instances / host.most for name, host in shrunk.items() if host.instances > host.least}
        if not used:
            break
        shrunk = _changed(shrunk, max(used, key=lambda name: (used[name], name)), -1)
    return shrunk


def _changed(hosts, name, by):
    return {**hosts, name: replace(hosts[name], instances=hosts[name].instances + by)}


def _within(host):
    return max(host.least, min(host.most, host.instances))


def _load(queue):
    return queue.waiting + queue.claimed


def _count(hosts):
    return sum(host.instances for host in hosts.values())


def _slots(hosts):
    return sum(max(0, host.instances - host.quiet) * host.slots for host in hosts.values())


def _plan(hosts, direction, reason, calm_since):
    return Plan({name: host.instances for name, host in hosts.items()}, direction, reason, calm_since)
