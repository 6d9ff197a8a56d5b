#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put an archive in the place of what a Redis holds."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: redis_restore
short_description: Put an archive in the place of what a Redis holds
version_added: 0.2.0
description:
  - The archive is checked before Redis stops. A Redis of its own, which nobody can reach, then loads it and writes RDB
    file and AOF anew. Only when that has worked do they take the place of the old ones, which are kept aside.
  - If anything fails, Redis starts again with what it had.
options:
  archive:
    description: An archive of M(orbiter.fleet.redis_backup), on the host.
    type: path
    required: true
  source:
    description: Which of its copies is loaded.
    type: str
    choices: [rdb, aof]
    default: rdb
  aside:
    description: Name of the folder in C(/var/lib/redis) or C(/var/lib/valkey) where the old files go.
    type: str
    required: true
attributes:
  check_mode:
    description: Checks the archive, and changes nothing.
    support: full
  diff_mode:
    description: Shows how many keys there were and are.
    support: full
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
seealso:
  - module: orbiter.fleet.redis_backup
"""

EXAMPLES = r"""
- name: Restore what Redis holds
  orbiter.fleet.redis_restore:
    archive: /var/tmp/backup.tar.gz
    aside: before-restore-{{ now(utc=true).strftime('%Y%m%dT%H%M%SZ') }}
"""

RETURN = r"""
keys:
  description: How many keys Redis has now; in check mode, how many there are in the archive's RDB file.
  returned: success
  type: int
  sample: 812
aside:
  description: Where the old files are.
  returned: success
  type: str
  sample: /var/lib/redis/before-restore-20261130T180512Z
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils import _redis_backup


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "archive": {"type": "path", "required": True},
            "source": {"type": "str", "choices": ["rdb", "aof"], "default": "rdb"},
            "aside": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    archive, source, name = (module.params[option] for option in ("archive", "source", "aside"))
    aside = _redis_backup.DATA / name
    if aside.parent != _redis_backup.DATA or name in (".", "..") or aside.exists():
        module.fail_json(
            msg=f"Nothing was changed: aside is {name}; it must be the name of a folder that is not in "
            f"{_redis_backup.DATA} yet"
        )
    os.umask(0o077)
    before, safe = _redis_backup.count(), "Nothing was changed"
    try:
        with _redis_backup.unpacked(archive, source) as (folder, about):
            keys = about["keys"]
            if not module.check_mode:
                safe = "Redis has what it had before"
                keys = _redis_backup.replace(folder, source, aside)
    except _redis_backup.FAILURES as error:
        module.fail_json(msg=f"{safe}: {error}")
    diff = {"before": "" if before is None else f"{before} keys\n", "after": f"{keys} keys\n"}
    module.exit_json(changed=True, keys=keys, aside=str(aside), diff=diff)


if __name__ == "__main__":
    main()
