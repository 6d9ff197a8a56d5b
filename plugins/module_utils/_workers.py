# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who works in the fleet, and how workers are told to leave."""

from __future__ import annotations

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
        (what became of each, those of them that are still there against the wish).
    """
    ids = [worker["worker_id"] for worker in workers]
    words = ["worker", "drain", "--json"]
    words += [] if timeout is None else ["--timeout", str(timeout)]
    words += [] if wait else ["--no-wait"]
    outcomes = command.ask(*words, "--", *ids)
    left = [outcome for outcome in outcomes if not outcome["done"] and outcome["state"] not in GONE]
    return outcomes, left
