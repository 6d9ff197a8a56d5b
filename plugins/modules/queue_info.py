#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one queue looks like now."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: queue_info
short_description: Look at the queue of a fleet
version_added: 0.1.0
description:
  - Tells what waits, runs, is delayed or dead in a queue, who works on it, and the memory that Redis has.
  - A queue that does not exist is an empty one.
extends_documentation_fragment:
  - orbiter.fleet.redis
  - orbiter.fleet.info
seealso:
  - module: orbiter.fleet.worker_info
"""

EXAMPLES = r"""
- name: Look at the queue
  orbiter.fleet.queue_info:
  register: found

- name: Wait until nothing waits or runs
  orbiter.fleet.queue_info:
    queue: reports
  register: found
  until: found.info.waiting + found.info.running + found.info.delayed == 0
  retries: 60
  delay: 5
"""

RETURN = r"""
info:
  description: The queue.
  returned: success
  type: dict
  sample:
    queue: orbiter:tasks
    waiting: 3
    running: 4
    delayed: 1
    dead: 0
    oldest_waiting: 4.6
    next_due: 1771324215.9
    consumers: 2
    workers: 2
    slots: 8
    busy: 4
    memory_used: 1572864
    memory_max: 1073741824
  contains:
    queue:
      description: Its name.
      type: str
    waiting:
      description: Tasks that no worker has claimed.
      type: int
    running:
      description: Tasks that are claimed.
      type: int
    delayed:
      description: Tasks that wait for a moment, be it a retry's or the one they were submitted for.
      type: int
    dead:
      description: Dead letters, tasks that failed for good and entries that are no task.
      type: int
    oldest_waiting:
      description: Age in seconds of the task that waits longest, null where none waits.
      type: float
    next_due:
      description: When the next delayed task is due, in epoch seconds, null where there is none.
      type: float
    consumers:
      description: Members of the consumer group, live or not.
      type: int
    workers:
      description: Live workers that read this queue.
      type: int
    slots:
      description: Tasks that these can run at the same time.
      type: int
    busy:
      description: Slots in use.
      type: int
    memory_used:
      description: Bytes that Redis uses, null where it does not tell this user.
      type: int
    memory_max:
      description: Its limit, 0 where there is none.
      type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils._command import CONNECTION, CommandError, command_of


def main():
    """Run the module."""
    module = AnsibleModule(argument_spec=dict(CONNECTION), supports_check_mode=True)
    command = command_of(module)
    try:
        info = command.ask("queue", "info", "--json", *command.queue_words())
    except CommandError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, info=info)


if __name__ == "__main__":
    main()
