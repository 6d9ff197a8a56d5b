#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's part in a group of Redis servers that replicate."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: redis_replication
short_description: Bring a host to its part in a group of Redis servers, watched by Sentinel
version_added: 0.2.0
description:
  - Lets a host join its group, restart without losing it, and wait until it is in step.
  - It never decides who is master. That the sentinels and servers are asked each time, and what they say is left as it
    is.
options:
  state:
    description:
      - V(joined), a host that is new in the group begins as a replica of the master, or as the first master. It is a
        change, too, while a restart is due, as where the server listens at other ports than its file says.
      - V(restarted), Redis restarts if it is the turn of this host, which O(turn) says. A replica does when all others
        are in step, and is waited for; the master hands over to one of them first.
      - V(in_step), what CONFIG SET can change of C(member.conf) is made known, a replica follows its master by the port
        that the group uses, and the server is waited for until it is in step with its master, or is the master and has
        its replicas.
      - V(left_alone), a sentinel that watches another port than the group is to use leaves replicas as they are for two
        minutes, so that they can change to it.
      - V(watched), a sentinel that is new in the group begins with the master of now. It is a change, too, where its
        file names another port than the group uses.
      - V(watching), the host's sentinel restarts, and watches the port that the group uses.
      - V(agreed), the host's sentinel is waited for until it has found the others and could fail over; who has left the
        group is forgotten.
    type: str
    required: true
    choices: [joined, restarted, in_step, left_alone, watched, watching, agreed]
  turn:
    description: Whose turn it is to restart. Replicas come first, one host after another, then whoever was the master.
    type: str
    choices: [replica, master]
extends_documentation_fragment:
  - orbiter.fleet.redis_group
attributes:
  check_mode:
    description: Tells what would change and changes nothing.
    details: Waits for nothing then, and asks Redis for no setting.
    support: partial
  diff_mode:
    description: Shows the files that are begun, and the settings that differ, without passwords.
    support: full
seealso:
  - module: orbiter.fleet.redis_replication_info
"""

EXAMPLES = r"""
- name: Join the group
  orbiter.fleet.redis_replication:
    state: joined
  notify: Restart Redis

- name: Restart the replicas, one host after another
  orbiter.fleet.redis_replication:
    state: restarted
    turn: replica
  throttle: 1

- name: Wait until Redis is in step
  orbiter.fleet.redis_replication:
    state: in_step
"""

RETURN = r"""
master:
  description: The address of the master that this host, or its sentinel, begins with.
  returned: when O(state) is V(joined) or V(watched), and it begins
  type: str
  sample: 192.0.2.11
settings:
  description: The settings that were different.
  returned: when O(state) is V(in_step)
  type: list
  elements: str
  sample: [min-replicas-to-write]
forgotten:
  description: The addresses of those who have left the group.
  returned: when O(state) is V(agreed)
  type: list
  elements: str
  sample: [192.0.2.13]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils import _redis_group


def main():
    """Run the module."""
    states = ["joined", "restarted", "in_step", "left_alone", "watched", "watching", "agreed"]
    module = AnsibleModule(
        argument_spec=dict(
            _redis_group.OPTIONS,
            state={"type": "str", "required": True, "choices": states},
            turn={"type": "str", "choices": ["replica", "master"]},
        ),
        required_if=[("state", "restarted", ["turn"])],
        supports_check_mode=True,
    )
    group = _redis_group.group_of(module)
    if group is None:
        module.exit_json(changed=True)
    bring = {
        "joined": group.join,
        "restarted": lambda check: group.restart(module.params["turn"], check=check),
        "in_step": group.settle,
        "left_alone": group.leave_alone,
        "watched": group.watch,
        "watching": group.watch_anew,
        "agreed": group.agree,
    }
    try:
        answer = bring[module.params["state"]](check=module.check_mode)
    except _redis_group.FAILURES as error:
        module.fail_json(msg=str(error))
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
