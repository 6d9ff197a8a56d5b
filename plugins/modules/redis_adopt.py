#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Redis holds is kept when other settings take the place of its own."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: redis_adopt
short_description: Keep what a Redis holds when the fleet's settings take the place of its own
version_added: 0.2.0
description:
  - Looks whose Redis a host has, and whether a start with the fleet's settings would load what it holds.
  - Redis 7 with an AOF loads that only, and starts empty where there is none. Where it has none yet, Redis is told to
    write one, and is waited for.
  - A Redis that is somebody else's is refused, or adopted if that is wanted. Its settings, its users and an RDB file of
    what it holds are copied aside before anything is told to it.
  - Where it cannot be done, everything is as it was.
options:
  files:
    description:
      - What the fleet's settings are going to say. What is left out is as Redis has it by itself.
      - C(appendonly) (C(yes) or C(no)), C(appendfilename), C(appenddirname), C(databases) and C(maxmemory) are
        settings of those names, C(modules) a list of the modules that Redis is to load.
      - C(namespace) and C(queues) are the fleet's, by which a queue that was set up by hand is recognized.
      - C(sentinel) says whether the host is to be one of a group, so that a sentinel of somebody else's counts, too.
    type: dict
    default: {}
  adopt:
    description: Adopts a Redis that is somebody else's.
    type: bool
    default: false
  aside:
    description: Name of the folder in C(/var/lib/redis) where a copy of the adopted Redis' files is put.
    type: str
    default: before-adopt
attributes:
  check_mode:
    description: Tells what would be done, and changes nothing.
    support: full
  diff_mode:
    description: Shows the setting that changes and the folder that is made.
    support: full
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
seealso:
  - module: orbiter.fleet.host_info
"""

EXAMPLES = r"""
- name: Have everything in the AOF before a restart
  orbiter.fleet.redis_adopt:

- name: Adopt the Redis that is there
  orbiter.fleet.redis_adopt:
    files:
      maxmemory: 1gb
      queues: [orbiter:tasks]
    adopt: true
    aside: before-adopt-{{ now(utc=true).strftime('%Y%m%dT%H%M%SZ') }}
  register: adopted
"""

RETURN = r"""
ours:
  description: Whether the host's Redis is one of the role P(orbiter.fleet.redis#role).
  returned: always
  type: bool
foreign:
  description: What shows that it is somebody else's.
  returned: always
  type: list
  elements: str
  sample: [redis-server (process 512) at port 6379, 3 keys in database 0]
hurdles:
  description: Why it cannot be adopted.
  returned: always
  type: list
  elements: str
unsaved:
  description: Whether a start with these settings would not have loaded what it held.
  returned: always
  type: bool
keys:
  description: How many keys the adopted Redis has.
  returned: when one was adopted
  type: int
  sample: 3
aside:
  description: Where the copy of its files is.
  returned: when one was adopted, or would be
  type: str
  sample: /var/lib/redis/before-adopt
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils import _redis_host, _redis_keep


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "dict", "default": {}},
            "adopt": {"type": "bool", "default": False},
            "aside": {"type": "str", "default": "before-adopt"},
        },
        supports_check_mode=True,
    )
    wanted = _redis_host.wanted_of(module, "files")
    os.umask(0o077)
    seen = _redis_host.look_at_redis(wanted)
    foreign = bool(seen["foreign"])
    if foreign and not module.params["adopt"]:
        found = "; ".join(seen["foreign"])
        module.fail_json(
            msg=f"Nothing was changed: the Redis of this host is not the role's: {found}. Set adopt to take it over.",
            **seen,
        )
    if foreign and seen["hurdles"]:
        module.fail_json(msg=f"Nothing was changed: {'; '.join(seen['hurdles'])}", **seen)
    answer = dict(seen, changed=foreign or seen["unsaved"])
    if foreign:
        answer["aside"] = str(_redis_host.DATA / module.params["aside"])
    if answer["changed"]:
        after = "appendonly yes\n" + (f"{answer['aside']}\n" if foreign else "")
        answer["diff"] = {"before": "appendonly no\n" if seen["unsaved"] else "appendonly yes\n", "after": after}
    if answer["changed"] and not module.check_mode:
        try:
            if foreign:
                answer["keys"], answer["aside"] = _redis_keep.adopt(wanted, module.params["aside"])
            else:
                with _redis_keep.running() as redis:
                    _redis_keep.write_aof(redis)
        except _redis_keep.FAILURES as error:
            module.fail_json(msg=f"Nothing was changed: {error}", **seen)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
