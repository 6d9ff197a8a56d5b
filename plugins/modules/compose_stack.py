#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deploys a host's compose stack, one replica after another."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: compose_stack
short_description: Deploy a host's compose stack, one replica after another
version_added: 0.2.0
description:
  - Brings the workers of a stack to what its C(docker-compose.yml) says, without losing a task. Replicas above the
    wanted number drain, those with another image or other settings are replaced, what is missing starts.
  - Each replica has to be well before the next is touched. It is when Redis holds a heartbeat of the very container,
    running, with the image's version. The first that does not come back fails the task, with the end of its log.
  - M(community.docker.docker_compose_v2) replaces all replicas at once, and does not ask whether they work.
options:
  state:
    description:
      - V(applied) brings the stack to what C(docker-compose.yml) says, and keeps that as what is good.
      - V(left) drains every replica, and keeps the containers.
      - V(undone) goes back to what was last well. Where nothing ever was, replicas are drained and removed.
      - V(removed) drains the replicas and removes containers, networks and images. Volumes and files stay.
    type: str
    choices: [applied, left, removed, undone]
    required: true
  name:
    description: What to call the host in messages.
    type: str
    default: ""
  directory:
    description: The folder of the stack's files.
    type: path
    default: /etc/orbiter
  replicas:
    description: With O(state=applied), how many there are to be. Without it C(docker-compose.yml) says it.
    type: int
  image:
    description:
      - With O(state=applied) in check mode, the image that C(docker-compose.yml) would name if it had been written.
    type: str
  settings:
    description:
      - With O(state=applied) in check mode, the mark of the settings that C(docker-compose.yml) would have.
    type: str
  drained:
    description:
      - With O(state=applied), whether the host is out of the fleet, which has no replica at work.
      - Without it, that is noted in the file C(drained) of O(directory), or not.
    type: bool
  timeout:
    description: Seconds that each replica gets to be well.
    type: int
    default: 60
  settle:
    description: Seconds that the first and the last replica of a new image, or of new settings, must stay well.
    type: int
    default: 0
  task:
    description:
      - With O(state=applied), a task that must complete within O(timeout) where the image or the settings are new,
        after O(settle).
      - It has an C(agent), and may have an C(input) and C(metadata), as M(orbiter.fleet.task) takes them.
      - It is in the host's queue, so that any worker of that queue may run it.
    type: dict
    default: {}
  keep:
    description: How many images to go back to stay on the host.
    type: int
    default: 5
attributes:
  check_mode:
    description: Tells what would be done, and does nothing.
    support: full
  diff_mode:
    description: Shows the replicas before and after, each with its release, the mark of its settings, and its state.
    support: full
requirements:
  - Docker and its plugin compose on the host.
seealso:
  - module: orbiter.fleet.compose_stack_info
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Bring the stack to what docker-compose.yml says
  orbiter.fleet.compose_stack:
    state: applied
    timeout: 60
    settle: 10
    task:
      agent: {runtime: callable, target: "demo_agent.steps:sleepy"}

- name: Have four replicas
  orbiter.fleet.compose_stack:
    state: applied
    replicas: 4

- name: Drain them all
  orbiter.fleet.compose_stack:
    state: left
"""

RETURN = r"""
removed:
  description: Names of the containers that had to go.
  returned: with O(state=applied) and O(state=undone)
  type: list
  elements: str
  sample: [orbiter-worker-3]
replaced:
  description: Names of the containers that were replaced.
  returned: with O(state=applied) and O(state=undone)
  type: list
  elements: str
  sample: [orbiter-worker-1]
started:
  description: How many were started beside them.
  returned: with O(state=applied) and O(state=undone)
  type: int
  sample: 1
task:
  description: The task that was tried.
  returned: when one was
  type: dict
  sample: {task_id: gate-3f2a90c1b7d4, status: completed}
release:
  description: The release that is in use again, empty where there is none to go back to.
  returned: with O(state=undone)
  type: str
  sample: 0.1.0-1f2e3d4c
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils._compose import Stack
from ansible_collections.orbiter.fleet.plugins.module_utils._docker import DockerError, is_installed
from ansible_collections.orbiter.fleet.plugins.module_utils._systemd import fail


def applied(stack: Stack, params: dict) -> dict:
    """Bring the stack to what its file says, or would say."""
    if stack.check:
        told = {name: params[name] for name in ("image", "settings", "replicas") if params[name] is not None}
        goal = stack.foreseen(told)
        return stack.apply(goal, 0) if is_installed() else {"changed": True}
    if params["replicas"] is not None:
        stack.scale(params["replicas"])
    goal = stack.wanted()
    done = stack.apply(goal, params["timeout"], params["settle"], params["task"])
    if not stack.is_drained:
        stack.keep(goal, params["keep"])
    return done


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["applied", "left", "removed", "undone"], "required": True},
            "name": {"type": "str", "default": ""},
            "directory": {"type": "path", "default": "/etc/orbiter"},
            "replicas": {"type": "int"},
            "image": {"type": "str"},
            "settings": {"type": "str"},
            "drained": {"type": "bool"},
            "timeout": {"type": "int", "default": 60},
            "settle": {"type": "int", "default": 0},
            "task": {"type": "dict", "default": {}},
            "keep": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    params = module.params
    os.umask(0o022)
    stack = Stack(params["directory"], check=module.check_mode, drained=params["drained"])
    actions = {
        "applied": lambda: applied(stack, params),
        "left": stack.leave,
        "removed": stack.remove,
        "undone": lambda: stack.undo(params["timeout"]),
    }
    try:
        done = actions[params["state"]]()
    except DockerError as error:
        fail(module, error)
    module.exit_json(**done)


if __name__ == "__main__":
    main()
