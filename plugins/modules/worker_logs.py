#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The last log lines of a host's instances."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: worker_logs
short_description: Return the last log lines of a host's instances
version_added: 0.2.0
description:
  - Reads the journal of the units C(orbiter-worker@N), or the logs of the worker containers of the compose stack.
  - The filter P(orbiter.fleet.log_page#filter) lays out what all hosts say, in the order of time.
options:
  task:
    description: Only lines about the task of this id, with the tracebacks behind them. All lines if it is empty.
    type: str
    default: ""
  since:
    description: No lines from before. A time ago, such as C(10 min ago), or a time of UTC, such as C(2026-02-17 10:30).
    type: str
    default: 1 day ago
  lines:
    description: How many lines at most, the last ones. Between 1 and 10000.
    type: int
    default: 100
  deploy:
    description: What runs the workers here.
    type: str
    choices: [systemd, compose]
    default: systemd
extends_documentation_fragment:
  - orbiter.fleet.info
seealso:
  - plugin: orbiter.fleet.log_page
    plugin_type: filter
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Read what instances say of a task
  orbiter.fleet.worker_logs:
    task: 7c1e9a
    since: 10 min ago
  register: said
"""

RETURN = r"""
lines:
  description: The lines, the oldest first. C(at) is when it was written (epoch seconds), C(instance) who wrote it.
  returned: always
  type: list
  elements: dict
  sample: [{at: 1771324215.25, instance: "1", level: INFO, text: "task completed task_id=7c1e9a"}]
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils import _logs
from ansible_collections.orbiter.fleet.plugins.module_utils._compose import PROJECT, SERVICES
from ansible_collections.orbiter.fleet.plugins.module_utils._docker import replicas
from ansible_collections.orbiter.fleet.plugins.module_utils._systemd import GateError, fail

MOST = 10_000


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "task": {"type": "str", "default": ""},
            "since": {"type": "str", "default": "1 day ago"},
            "lines": {"type": "int", "default": 100},
            "deploy": {"type": "str", "choices": ["systemd", "compose"], "default": "systemd"},
        },
        supports_check_mode=True,
    )
    task, count = module.params["task"], module.params["lines"]
    if not 1 <= count <= MOST:
        module.fail_json(msg=f"logs_lines is {count}; it must be a whole number from 1 to {MOST}")
    try:
        since = _logs.moment(module.params["since"], time.time())
    except ValueError as error:
        module.fail_json(msg=str(error))
    try:
        if module.params["deploy"] == "compose":
            found = _logs.containers(replicas(PROJECT, SERVICES), since, task, count)
        else:
            found = _logs.journal(since, task, count)
    except GateError as error:
        fail(module, error)
    module.exit_json(changed=False, lines=found)


if __name__ == "__main__":
    main()
