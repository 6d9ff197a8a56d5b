#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is master of a group of Redis servers."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: redis_replication_info
short_description: Tell who is master of a group of Redis servers
version_added: 0.2.0
description:
  - Asks the sentinels and servers of the group that a host is in who is master.
options:
  addresses:
    description: Addresses of which it is wanted whether a Redis or a sentinel answers there.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - orbiter.fleet.redis_group
  - orbiter.fleet.info
seealso:
  - module: orbiter.fleet.redis_replication
"""

EXAMPLES = r"""
- name: Ask who is master
  orbiter.fleet.redis_replication_info:
  register: group

- name: Back up the master
  orbiter.fleet.redis_backup:
    directory: /var/backups
  when: group.is_master
"""

RETURN = r"""
master:
  description: The master's address.
  returned: success
  type: str
  sample: 192.0.2.11
is_master:
  description: Whether it is this host.
  returned: success
  type: bool
answering:
  description: Those of O(addresses) where a Redis or a sentinel of the group answers.
  returned: success
  type: list
  elements: str
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils import _redis_group


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec=dict(_redis_group.OPTIONS, addresses={"type": "list", "elements": "str", "default": []}),
        supports_check_mode=True,
    )
    group = _redis_group.group_of(module, required=True)
    try:
        master = group.find_master()
        answering = group.answering(module.params["addresses"])
    except _redis_group.FAILURES as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, master=master, is_master=master == group.me, answering=answering)


if __name__ == "__main__":
    main()
