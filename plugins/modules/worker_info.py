#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who works in the fleet."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: worker_info
short_description: List the workers of a fleet
version_added: 0.1.0
description:
  - Lists the workers of the fleet, wherever they run, as Redis knows them by their heartbeats.
  - Those that died without a farewell are listed for a day.
options:
  hosts:
    description: List the workers of these hosts only. A domain at the end of a name does not count.
    type: list
    elements: str
extends_documentation_fragment:
  - orbiter.fleet.redis
  - orbiter.fleet.info
seealso:
  - module: orbiter.fleet.queue_info
  - module: orbiter.fleet.drain
"""

EXAMPLES = r"""
- name: Ask for the workers of all hosts
  orbiter.fleet.worker_info:
  register: fleet

- name: Insist that each of this host's workers lives
  orbiter.fleet.worker_info:
    hosts: ["{{ ansible_facts['hostname'] }}"]
  register: here
  failed_when: here.alive != worker_instances or here.dead > 0

- name: Wait until the fleet has 16 slots
  orbiter.fleet.worker_info:
  register: fleet
  until: fleet.slots >= 16
  retries: 30
  delay: 2
"""

RETURN = r"""
workers:
  description: The workers.
  returned: success
  type: list
  elements: dict
  sample:
    - worker_id: worker1-812-a1b2c3d4
      hostname: worker1
      machine_id: 2f4e9c0d1b7a4f6e8d3c5b6a79881726
      unit: orbiter-worker@1.service
      instance: "1"
      status: running
      state: running
      alive: true
      version: 0.1.0
      queue: orbiter:tasks
      concurrency: 4
      active: 1
      tasks_processed: 42
      tasks_failed: 2
      current_task_id: 3f2a
      pid: 812
      started_at: 1771324215.9
      last_heartbeat: 1771327815.2
  contains:
    worker_id:
      description: Unique name of the worker.
      type: str
    hostname:
      description: Its host, as that calls itself.
      type: str
    machine_id:
      description: A hash of its machine's id, the same whatever the host is called. Empty in many containers.
      type: str
    unit:
      description: The systemd unit that it is the process of, empty elsewhere.
      type: str
    instance:
      description: The N of C(orbiter-worker@N), empty elsewhere.
      type: str
    alive:
      description: Whether it gave a sign of life within the last minute.
      type: bool
    state:
      description: C(starting), C(running), C(quiet), C(draining), or empty for a worker of release 0.1.
      type: str
    version:
      description: The worker's release.
      type: str
    concurrency:
      description: Tasks that it can run at the same time.
      type: int
    active:
      description: Tasks that it runs.
      type: int
alive:
  description: How many of them live.
  returned: success
  type: int
  sample: 4
dead:
  description: How many of them died without a farewell.
  returned: success
  type: int
  sample: 0
slots:
  description: Tasks that the live ones can run at the same time, those that drain or are quiet left out.
  returned: success
  type: int
  sample: 16
busy:
  description: Tasks that they run.
  returned: success
  type: int
  sample: 5
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils._command import CONNECTION, CommandError, command_of
from ansible_collections.orbiter.fleet.plugins.module_utils._workers import list_workers, summary


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec=dict(CONNECTION, hosts={"type": "list", "elements": "str"}), supports_check_mode=True
    )
    try:
        workers = list_workers(command_of(module), module.params["hosts"])
    except CommandError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, workers=workers, **summary(workers))


if __name__ == "__main__":
    main()
