#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells how many instances each host is to have, by what waits in the queue."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: autoscale_plan
short_description: Tell how many instances each host is to have
version_added: 0.2.0
description:
  - Decides by what waits and runs in a queue how many instances each host is to have, within the host's limits. It
    asks nobody and changes no instance, the playbook C(orbiter.fleet.autoscale) does.
  - Up at once, where the oldest task waits longer than O(target_wait), or half as long and more tasks wait than there
    are slots. As many instances as all tasks need that wait or run, at least one more, at most twice as many as there
    are.
  - Down late, where for O(patience) seconds nothing has waited for half of O(target_wait), and a quarter of the slots
    would be free with one step fewer. A step is one instance of ten, at least one, and the time begins anew after it.
  - A host outside of its limits comes to the nearer one before anything else.
options:
  queue:
    description:
      - The queue, as RV(orbiter.fleet.queue_info#module:info) of M(orbiter.fleet.queue_info).
      - It must have C(waiting), C(running) and C(oldest_waiting). C(queue) is its name.
    type: dict
    required: true
  hosts:
    description: The hosts whose workers read the queue.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The name of the host.
        type: str
        required: true
      instances:
        description: How many instances it has now.
        type: int
        required: true
      min:
        description: How many it has at least.
        type: int
        required: true
      max:
        description: How many it has at most.
        type: int
        required: true
      slots:
        description: Tasks that run at the same time in each of them.
        type: int
        required: true
      quiet:
        description: How many of them take no task, as somebody has told them so (C(orbiter worker quiet)).
        type: int
        default: 0
  target_wait:
    description: Seconds that a task may wait.
    type: float
    default: 30
  patience:
    description: Seconds that it has to be calm before a step down.
    type: float
    default: 300
  calm:
    description: Seconds for which somebody who has watched all the time has seen it calm. RV(calm) of the run before.
    type: float
    default: 0
  memory:
    description:
      - File that keeps from one run to the next since when it is calm, by the clock of this host. A check does not
        write it.
      - A file that is not there, or that is of another queue, knows nothing, so that the calm time begins anew. So does
        one whose last run was longer ago than O(patience), and than five minutes, as nobody has looked since.
    type: path
attributes:
  check_mode:
    description: Can run in check mode and says the same. O(memory) stays as it is.
    support: full
  diff_mode:
    description: Shows the numbers of instances before and after.
    support: full
seealso:
  - module: orbiter.fleet.queue_info
  - module: orbiter.fleet.worker_status
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Look at the queue
  orbiter.fleet.queue_info:
  register: found

- name: Decide how many instances two hosts are to have
  orbiter.fleet.autoscale_plan:
    queue: "{{ found.info }}"
    hosts:
      - {name: worker1, instances: 2, min: 1, max: 8, slots: 4}
      - {name: worker2, instances: 1, min: 1, max: 4, slots: 4}
    target_wait: 60
    memory: /var/lib/myautoscale.json
  register: plan

- name: Say it
  ansible.builtin.debug:
    msg: "{{ plan.direction }}: {{ plan.reason }}; worker1 is to have {{ plan.instances['worker1'] }}"
"""

RETURN = r"""
changed:
  description: Whether a host is to have another number of instances than it has.
  returned: success
  type: bool
  sample: true
instances:
  description: How many instances each host is to have.
  returned: success
  type: dict
  sample: {worker1: 3, worker2: 2}
direction:
  description: C(up), C(down) or C(stay).
  returned: success
  type: str
  sample: up
reason:
  description: Why.
  returned: success
  type: str
  sample: the oldest task has waited for 41 s, longer than 30 s
calm:
  description: Seconds for which it is calm.
  returned: success
  type: float
  sample: 0.0
"""

import json
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils._autoscale import Host, Queue, decide

COUNT = {"type": "int", "required": True}
HOST = {
    "name": {"type": "str", "required": True},
    "instances": COUNT,
    "min": COUNT,
    "max": COUNT,
    "slots": COUNT,
    "quiet": {"type": "int", "default": 0},
}
# Seconds between two runs for which the first one's word is good, where patience is less.
GAP = 300


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "queue": {"type": "dict", "required": True},
            "hosts": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": HOST,
            },
            "target_wait": {"type": "float", "default": 30},
            "patience": {"type": "float", "default": 300},
            "calm": {"type": "float", "default": 0},
            "memory": {"type": "path"},
        },
        supports_check_mode=True,
    )
    options, now = module.params, time.time()
    if wrong := refused(options):
        module.fail_json(msg=wrong)
    hosts = {
        row["name"]: Host(row["instances"], row["min"], row["max"], row["slots"], row["quiet"])
        for row in options["hosts"]
    }
    memory = Memory(options["memory"], options["queue"].get("queue", "")) if options["memory"] else None
    gap = max(options["patience"], GAP)
    known = [since for since in (memory and memory.read(now - gap), options["calm"] and now - options["calm"]) if since]
    plan = decide(
        queue_of(options["queue"]),
        hosts,
        target=options["target_wait"],
        patience=options["patience"],
        now=now,
        calm_since=min(known, default=None),
    )
    if memory and not module.check_mode:
        try:
            memory.write(plan.calm_since, now)
        except OSError as error:
            module.fail_json(
                msg=f"memory: cannot write {options['memory']}: {error.strerror}. Name a file on this host."
            )
    before, after = (
        lines(numbers) for numbers in ({name: host.instances for name, host in hosts.items()}, plan.instances)
    )
    module.exit_json(
        changed=before != after,
        instances=plan.instances,
        direction=plan.direction,
        reason=plan.reason,
        calm=0.0 if plan.calm_since is None else round(now - plan.calm_since, 1),
        diff={"before": before, "after": after, "before_header": "instances", "after_header": "instances"},
    )


def refused(options):
    """Return what is wrong with the options, or nothing."""
    for name in ("target_wait", "patience", "calm"):
        if not 0 <= options[name] < float("inf"):
            return f"{name} is {options[name]}; it must be a number of seconds, 0 or more."
    for name in ("waiting", "running", "oldest_waiting"):
        value = options["queue"].get(name)
        if not number(value) and not (value is None and name == "oldest_waiting"):
            return (
                f"queue has {name}: {value!r}; it must be a number, 0 or more. Give it what queue_info returns as info."
            )
    names = [row["name"] for row in options["hosts"]]
    for row in options["hosts"]:
        if names.count(row["name"]) > 1:
            return f"hosts has {row['name']} more than once; each host must be there once."
        counts = row["instances"] >= 0 and row["quiet"] >= 0 and row["slots"] >= 1
        if not counts or not 0 <= row["min"] <= row["max"]:
            said = ", ".join(f"{name} {row[name]}" for name in HOST if name != "name")
            return (
                f"{row['name']}: {said}; instances and quiet must be 0 or more, slots 1 or more, and min 0 or more and "
                "not above max."
            )
    return ""


def number(value):
    """Tell whether a value is a number that counts or measures something."""
    try:
        return not isinstance(value, bool) and 0 <= float(value) < float("inf")
    except (TypeError, ValueError):
        return False


def queue_of(info):
    """Return what there is to do, of what queue_info says."""
    return Queue(int(info["waiting"]), float(info["oldest_waiting"] or 0), int(info["running"]))


class Memory:
    """The file that keeps since when it is calm.

    Args:
        path: Its path.
        queue: The name of the queue that it is to be of.
    """

    def __init__(self, path, queue):
        self._path, self._queue = Path(path), queue

    def read(self, earliest):
        """Return since when it is calm, or None where the file does not know, or knows it from an earlier time."""
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            good = kept["queue"] == self._queue and kept["looked"] >= earliest
            return float(kept["calm_since"]) if good else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, calm_since, looked):
        """Keep it, with the time of the look, all or nothing."""
        kept = {"queue": self._queue, "calm_since": calm_since, "looked": looked}
        fresh = self._path.with_name(f".{self._path.name}")
        fresh.write_text(json.dumps(kept) + "\n", encoding="utf-8")
        fresh.chmod(0o600)
        fresh.replace(self._path)


def lines(numbers):
    """Return numbers of instances as text, a line a host."""
    return "".join(f"{name}: {count}\n" for name, count in sorted(numbers.items()))


if __name__ == "__main__":
    main()
