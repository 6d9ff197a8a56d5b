#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Submits a task and waits for its end."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: task
short_description: Submit a task to a fleet and wait for its end
version_added: 0.1.0
description:
  - Submits one task and waits until it has completed, which makes it a smoke test after a deploy.
  - Fails with the task's own error if it failed, and with what the queue looks like if it did not end in time.
options:
  agent:
    description:
      - The agent, as in the file that C(orbiter task submit --agent) takes.
      - >-
        Such as C({name: helper, model: "openai:gpt-4o"}), or C({runtime: callable, target: "package.module:function"})
        for a function that the workers may import.
    type: dict
    required: true
  input:
    description:
      - What the agent is asked.
      - It stands on a command line for a moment, where others on the host can read it.
    type: str
    default: ""
  metadata:
    description: Attached to the task. It stands on a command line for a moment, too.
    type: dict
  task_id:
    description:
      - Unique name of the task. The same name twice is one task, so that a repeated play submits it once; it is waited
        for all the same.
      - Without it every run of the module is a new task.
    type: str
  run_timeout:
    description: Limit of one run of the task, in seconds. Without it the command's own default of 300 counts.
    type: int
  max_retries:
    description: Runs that are repeated after an error. Without it the workers' setting counts.
    type: int
  wait:
    description: Whether to wait for the end of the task.
    type: bool
    default: true
  wait_timeout:
    description: Seconds to wait for it.
    type: int
    default: 300
attributes:
  check_mode:
    description: Can run in check mode. Says whether a task would be submitted and waits for nothing.
    support: full
  diff_mode:
    description: Shows the task that is new.
    support: full
extends_documentation_fragment:
  - orbiter.fleet.redis
seealso:
  - module: orbiter.fleet.queue_info
"""

EXAMPLES = r"""
- name: See that the fleet does its work
  orbiter.fleet.task:
    agent:
      runtime: callable
      target: demo_agent.steps:sleepy
    metadata:
      seconds: 0.1
    wait_timeout: 60
  run_once: true

- name: Ask an agent that is described in a file
  orbiter.fleet.task:
    agent: "{{ lookup('ansible.builtin.file', 'agent.json') | from_json }}"
    input: Fleets of agents on plain hosts
  register: answer

- name: Start tonight's report once, however often this play runs
  orbiter.fleet.task:
    task_id: report-{{ now(utc=true, fmt='%Y-%m-%d') }}
    agent:
      runtime: callable
      target: reports.nightly:run
    wait: false
"""

RETURN = r"""
task_id:
  description: The task's name. In check mode only if it was given.
  returned: always
  type: str
  sample: 3f2a90c1
status:
  description: The task's status, C(pending), C(running), C(retrying), C(completed), C(failed) or C(cancelled).
  returned: when the task exists
  type: str
  sample: completed
result:
  description: What the agent answered.
  returned: when it has completed
  type: dict
  sample:
    output: Fleets of agents run on plain hosts.
task:
  description: Everything known of the task, as C(orbiter task status --json) says it.
  returned: when the task exists
  type: dict
  sample:
    task_id: 3f2a90c1
    status: completed
    attempt: 1
    retries: 0
    duration: 0.3
    wait_time: 0.01
"""

import uuid

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils._command import CONNECTION, CommandError, command_of, inert
from ansible_collections.orbiter.fleet.plugins.module_utils._task import complaint, find_task, submit


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec=dict(
            CONNECTION,
            agent={"type": "dict", "required": True},
            input={"type": "str", "default": ""},
            metadata={"type": "dict"},
            task_id={"type": "str"},
            run_timeout={"type": "int"},
            max_retries={"type": "int"},
            wait={"type": "bool", "default": True},
            wait_timeout={"type": "int", "default": 300},
        ),
        supports_check_mode=True,
    )
    params, command = module.params, command_of(module)
    task_id = params["task_id"]
    wait_timeout = params["wait_timeout"] if params["wait"] else None
    wrong = ""
    try:
        task = find_task(command, task_id) if task_id else None
        result = {"changed": task is None, "task_id": task_id}
        if task is None:
            result["diff"] = {"before": "", "after": f"task {inert(task_id or 'with a new id')}\n"}
        if not module.check_mode:
            task = submit(command, params, task_id or str(uuid.uuid4()), wait_timeout)
            wrong = complaint(command, task, wait_timeout) if params["wait"] else ""
    except CommandError as error:
        module.fail_json(msg=str(error))
    if task is not None:
        result.update(task_id=task["task_id"], status=task["status"], result=task.get("result"), task=task)
    if wrong:
        module.fail_json(msg=wrong, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
