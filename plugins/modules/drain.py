#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets workers end their tasks and leave."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: drain
short_description: Let workers end their tasks and leave
version_added: 0.1.0
description:
  - Tells workers, wherever they run, to claim nothing more, to end their running tasks within their drain timeout, to
    hand back the others, and to leave. Waits until they are gone.
  - Workers that are gone already, or never were, are no error.
  - What supervises a worker (systemd, compose) may start a new one in its place. To take a host out of the fleet for
    longer than a moment, run the playbook C(orbiter.fleet.drain).
options:
  worker_ids:
    description: The ids of the workers.
    type: list
    elements: str
  hosts:
    description: All live workers of these hosts. A domain at the end of a name does not count.
    type: list
    elements: str
  all:
    description: All live workers, of O(queue) if that is given.
    type: bool
    default: false
  wait:
    description: Whether to wait until they are gone.
    type: bool
    default: true
  quiet_successors:
    description:
      - So many seconds to wait, once the workers of O(hosts) are gone, for those that something there starts in their
        place. They are told to claim nothing. With V(0) nobody waits for any.
    type: int
    default: 0
    version_added: 0.2.0
  timeout:
    description: Seconds to wait for each worker. Without it, for as long as it takes.
    type: int
attributes:
  check_mode:
    description: Can run in check mode and says who would be drained.
    support: full
  diff_mode:
    description: Shows who is at work before and after.
    support: full
extends_documentation_fragment:
  - orbiter.fleet.redis
seealso:
  - module: orbiter.fleet.worker_info
"""

EXAMPLES = r"""
- name: Drain the workers of this host
  orbiter.fleet.drain:
    hosts: ["{{ ansible_facts['hostname'] }}"]

- name: Drain one worker, and give it a minute at most
  orbiter.fleet.drain:
    worker_ids: [worker1-812-a1b2c3d4]
    timeout: 60

- name: Drain a host that cannot be reached, and let it claim nothing if its systemd starts workers again
  orbiter.fleet.drain:
    hosts: [old-worker]
    quiet_successors: 20

- name: Drain everybody who reads the queue reports
  orbiter.fleet.drain:
    all: true
    queue: reports
"""

RETURN = r"""
drained:
  description: Ids of the workers that were told to drain by this task, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [worker1-812-a1b2c3d4]
quieted:
  description: Ids of the workers that came in their place and were told to claim nothing.
  returned: with O(quiet_successors), and not in check mode
  type: list
  elements: str
  sample: [worker1-914-99aabbcc]
outcomes:
  description: What became of each worker that was there.
  returned: when some were, and not in check mode
  type: list
  elements: dict
  sample:
    - worker_id: worker1-812-a1b2c3d4
      command: drain
      done: true
      state: gone
      message: Worker worker1-812-a1b2c3d4 has drained.
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils._command import CONNECTION, CommandError, command_of, inert
from ansible_collections.orbiter.fleet.plugins.module_utils._workers import (
    choose,
    drain,
    list_workers,
    quiet_successors,
)


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec=dict(
            CONNECTION,
            worker_ids={"type": "list", "elements": "str"},
            hosts={"type": "list", "elements": "str"},
            all={"type": "bool", "default": False},
            wait={"type": "bool", "default": True},
            quiet_successors={"type": "int", "default": 0},
            timeout={"type": "int"},
        ),
        mutually_exclusive=[("worker_ids", "hosts")],
        supports_check_mode=True,
    )
    params = module.params
    # 'all' has a default, so that Ansible's own rules take it for given always.
    if (params["worker_ids"] is None and params["hosts"] is None) != params["all"]:
        module.fail_json(msg="Give exactly one of worker_ids, hosts and all.")
    command = command_of(module)
    try:
        workers = choose(list_workers(command, params["hosts"]), params["worker_ids"])
        # Who drains already is waited for, but was not drained by us.
        drained = sorted(worker["worker_id"] for worker in workers if worker["state"] != "draining")
        result = {"changed": bool(drained), "drained": drained, "diff": difference(workers)}
        if module.check_mode or not workers:
            module.exit_json(**result)
        outcomes, left = drain(command, workers, params["timeout"], params["wait"])
        if params["quiet_successors"] and params["hosts"] and not left:
            result["quieted"] = quiet_successors(command, params["hosts"], workers, params["quiet_successors"])
    except CommandError as error:
        module.fail_json(msg=str(error))
    result["outcomes"] = outcomes
    if left:
        module.fail_json(msg=inert(" ".join(outcome["message"] for outcome in left)), **result)
    module.exit_json(**result)


def difference(workers):
    """Return who is at work before and after, for --diff."""
    lines = [f"{inert(worker['worker_id'])} {inert(worker['state'] or worker['status'])}\n" for worker in workers]
    return {"before": "".join(sorted(lines)), "after": ""}


if __name__ == "__main__":
    main()
