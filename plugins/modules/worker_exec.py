#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs one command with the settings of a host's workers."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: worker_exec
short_description: Run one command with the settings of a host's workers
version_added: 0.2.0
description:
  - Runs a command with the release in use first on C(PATH), and the settings and credentials that workers have.
  - Where systemd runs the workers, in a unit of its own that is confined as theirs is, as the user C(orbiter-command).
    Tasks run as the user C(orbiter), and could read the settings from a process of that one.
  - Where Docker Compose does, in a container of its own of the stack's image.
  - What is known to be secret among the settings is masked in what is returned.
options:
  command:
    description:
      - The command and its arguments, as a list; or as a text, which is split as a shell does it. No shell reads it.
      - Everybody on the host can read it while it runs.
    type: raw
    required: true
  timeout:
    description: Seconds that it may take. It is stopped then, and the task fails.
    type: int
    default: 300
  deploy:
    description: What runs the workers here.
    type: str
    choices: [systemd, compose]
    default: systemd
attributes:
  check_mode:
    description: Runs nothing, and says that it would.
    support: full
  diff_mode:
    description: Nobody knows what a command changes.
    support: none
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: See whether the agents can be imported
  orbiter.fleet.worker_exec:
    command: [python, -c, "import my_agents"]
  register: done
  failed_when: done.code != 0
"""

RETURN = r"""
code:
  description: The command's exit code, or null in check mode. It is no failure of the task, as C(rc) would be.
  returned: always
  type: int
  sample: 0
lines:
  description: What it wrote, to standard output and to standard error.
  returned: always
  type: list
  elements: str
  sample: ["Queue: orbiter:tasks"]
command:
  description: The command as words.
  returned: always
  type: list
  elements: str
  sample: [orbiter, queue, info]
"""

import shlex

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils import _exec
from ansible_collections.orbiter.fleet.plugins.module_utils._systemd import GateError, fail


def words_of(command):
    """Return a command as words.

    Raises:
        ValueError: It is none.
    """
    try:
        words = shlex.split(command) if isinstance(command, str) else command
    except ValueError as error:
        raise ValueError(f"exec_command is {command!r}, which cannot be split into words: {error}") from None
    if not isinstance(words, list) or not words or not all(isinstance(word, (str, int, float)) for word in words):
        raise ValueError(
            f"exec_command is {command!r}; it must be a command, such as 'orbiter queue info', or a list of words"
        )
    return [str(word) for word in words]


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "command": {"type": "raw", "required": True},
            "timeout": {"type": "int", "default": 300},
            "deploy": {"type": "str", "choices": ["systemd", "compose"], "default": "systemd"},
        },
        supports_check_mode=True,
    )
    timeout = module.params["timeout"]
    try:
        command = words_of(module.params["command"])
    except ValueError as error:
        module.fail_json(msg=str(error))
    if timeout < 1:
        module.fail_json(msg=f"exec_timeout is {timeout}; it must be a whole number of seconds, 1 or more")
    if module.check_mode:
        module.exit_json(changed=True, code=None, lines=[], command=command)
    module.no_log_values.update(_exec.secrets())
    try:
        place = _exec.in_container if module.params["deploy"] == "compose" else _exec.in_unit
        code, said = place(command, timeout)
    except GateError as error:
        fail(module, error)
    module.exit_json(changed=True, code=code, lines=said.splitlines(), command=command)


if __name__ == "__main__":
    main()
