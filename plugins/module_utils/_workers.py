# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who works in the fleet, and how workers are told to leave."""

from __future__ import annotations

import time

# A worker that nobody can tell anything any more has left, whatever it was told.
GONE = ("gone", "dead", "unknown")


def list_workers(command, hosts=None):
    """Return the fleet's workers, live and lately dead; of these hosts only, if some are named."""
    found = command.ask("worker", "list", "--json", *command.queue_words())
    # A host is known by the name that it gives itself, which may be the longer or the shorter one.
    names = None if hosts is None else {short(host) for host in hosts}
    return [worker for worker in found if names is None or short(worker["hostname"]) in names]


def short(hostname):
    """Return a host's name without its domain."""
    return hostname.partition(".")[0].lower()


def summary(workers):
    """Return what a list of workers adds up to."""
    alive = [worker for worker in workers if worker["alive"]]
    return {
        "alive": len(alive),
        "dead": len(workers) - len(alive),
        "slots": sum(worker["concurrency"] for worker in alive if worker["state"] == "running"),
        "busy": sum(worker["active"] or 0 for worker in alive),
    }


def choose(workers, worker_ids=None):
    """Return the live workers; of these ids only, if some are named."""
    return [
        worker for worker in workers if worker["alive"] and (worker_ids is None or worker["worker_id"] in worker_ids)
    ]


def drain(command, workers, timeout=None, wait=True):
    """Let workers end their tasks and leave.

    Returns:
        (what became of each, those of them that are still there all the same).
    """
    ids = [worker["worker_id"] for worker in workers]
    words = ["worker", "drain", "--json"]
    words += [] if timeout is None else ["--timeout", str(timeout)]
    words += [] if wait else ["--no-wait"]
    outcomes = command.ask(*words, "--", *ids)
    left = [outcome for outcome in outcomes if not outcome["done"] and outcome["state"] not in GONE]
    return outcomes, left


def quiet_successors(command, hosts, gone, within):
    """Let those claim nothing that a supervisor starts in the place of workers that have left; return their ids.

    Args:
        command: The fleet's command.
        hosts: The hosts that they may be on.
        gone: The workers that have left.
        within: Seconds in which they may come.
    """
    before = {worker["worker_id"] for worker in gone}
    quieted = set()
    until = time.monotonic() + within
    while len(quieted) < len(before) and time.monotonic() < until:
        ids = {worker["worker_id"] for worker in choose(list_workers(command, hosts))} - before - quieted
        if ids:
            command.ask("worker", "quiet", "--json", "--", *sorted(ids))
            quieted |= ids
        time.sleep(0.5)
    return sorted(quieted)
