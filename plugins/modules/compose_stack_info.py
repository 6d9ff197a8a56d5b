#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at a host's compose stack."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: compose_stack_info
short_description: Look at a host's compose stack
version_added: 0.2.0
description:
  - Tells whether Docker can be used, what a host has of an image, the images to go back to, and how its replicas are.
options:
  image:
    description: The image to look for.
    type: str
    default: ""
  pick:
    description:
      - An image of the stack to name. V(current) is the one that C(docker-compose.yml) names, V(previous) the one of
        O(release), or else the last other one that was well. The task fails where there is none.
    type: str
    choices: [current, previous]
  release:
    description: The release to go back to, with O(pick=previous).
    type: str
    default: ""
  status:
    description: Whether to look at each replica, and at the queue.
    type: bool
    default: false
  name:
    description: What to call the host in messages.
    type: str
    default: ""
  directory:
    description: The folder of the stack's files.
    type: path
    default: /etc/orbiter
requirements:
  - To do more than to tell that it is missing, Docker and its plugin compose on the host.
extends_documentation_fragment:
  - orbiter.fleet.info
seealso:
  - module: orbiter.fleet.compose_stack
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: See whether Docker can be used
  orbiter.fleet.compose_stack_info:
  register: found
  failed_when: found.trouble != ''

- name: Name the image to go back to
  orbiter.fleet.compose_stack_info:
    pick: previous
  register: found

- name: Look at the replicas
  orbiter.fleet.compose_stack_info:
    status: true
  register: found
"""

RETURN = r"""
docker:
  description: Version of the engine, empty where it does not answer.
  returned: always
  type: str
  sample: 26.1.5
compose:
  description: Version of the plugin compose.
  returned: always
  type: str
  sample: 2.26.1
trouble:
  description: Why Docker cannot be used, or with O(status) Redis cannot be asked; empty if it can.
  returned: always
  type: str
  sample: the command docker is not installed
image:
  description: Whether the host has O(image).
  returned: always
  type: bool
used:
  description: Whether a replica runs it.
  returned: always
  type: bool
systemd:
  description: Whether the host runs workers by systemd.
  returned: always
  type: bool
drained:
  description: Since when and why the host is out of the fleet, empty if it is in it.
  returned: always
  type: str
  sample: since 2026-05-02 10:00 UTC
picked:
  description: The image that was asked for.
  returned: with O(pick)
  type: str
  sample: registry.example.com/orbiter-worker:0.1.0-1f2e3d4c
release:
  description: The release in use, empty where nothing is deployed.
  returned: with O(status=true)
  type: str
  sample: 0.1.0-1f2e3d4c
previous:
  description: The one that was well before.
  returned: with O(status=true)
  type: str
  sample: 0.1.0-0a1b2c3d
instances:
  description: The replicas, each with what is C(wrong) with it, which is empty for one that is well.
  returned: with O(status=true)
  type: list
  elements: dict
  sample: [{unit: orbiter-worker-1, wrong: "", worker_id: w1-9-a1b2, version: 0.1.0, active: 1, concurrency: 4}]
workers:
  description: Id and host of every live worker of the fleet.
  returned: with O(status=true)
  type: list
  elements: dict
  sample: [{worker_id: w1-9-a1b2, hostname: w1, state: running}]
queue:
  description: The queue, as M(orbiter.fleet.queue_info) has it.
  returned: with O(status=true)
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils._compose import Stack
from ansible_collections.orbiter.fleet.plugins.module_utils._docker import DockerError
from ansible_collections.orbiter.fleet.plugins.module_utils._systemd import fail


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str", "default": ""},
            "pick": {"type": "str", "choices": ["current", "previous"]},
            "release": {"type": "str", "default": ""},
            "status": {"type": "bool", "default": False},
            "name": {"type": "str", "default": ""},
            "directory": {"type": "path", "default": "/etc/orbiter"},
        },
        supports_check_mode=True,
    )
    params = module.params
    stack = Stack(params["directory"])
    try:
        answer = stack.look(params["image"])
        if params["pick"]:
            current = params["pick"] == "current"
            answer["picked"] = stack.wanted().image if current else stack.previous(params["release"])
        if params["status"]:
            answer.update(stack.status(answer["trouble"]))
    except DockerError as error:
        fail(module, error)
    module.exit_json(changed=False, **answer)


if __name__ == "__main__":
    main()
