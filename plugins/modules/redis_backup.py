#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make an archive of what a Redis holds."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: redis_backup
short_description: Make an archive of what a Redis holds, and vouch for it
version_added: 0.2.0
description:
  - Has Redis write its RDB file and copies its AOF as it is. Both are checked by Redis' own tools before they count.
  - Changes nothing in Redis.
options:
  directory:
    description:
      - The folder on the host where C(backup.tar.gz) is put. It belongs to the owner of the folder, so that who
        fetches it needs no other rights.
    type: path
    required: true
attributes:
  check_mode:
    description: Makes no archive.
    support: full
  diff_mode:
    description: Has nothing to show, as it changes nothing but the archive.
    support: none
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
seealso:
  - module: orbiter.fleet.redis_restore
  - module: orbiter.fleet.redis_backup_rotate
"""

EXAMPLES = r"""
- name: Make an archive
  orbiter.fleet.redis_backup:
    directory: /var/backups
  register: backup

- name: Fetch it
  ansible.builtin.fetch:
    src: "{{ backup.archive }}"
    dest: "backups/{{ inventory_hostname }}-{{ backup.time }}.tar.gz"
    flat: true
"""

RETURN = r"""
archive:
  description: Where it is.
  returned: when it was made
  type: str
  sample: /var/backups/backup.tar.gz
time:
  description: When it was complete, in UTC.
  returned: when it was made
  type: str
  sample: 20261130T180512Z
keys:
  description: How many keys are in it.
  returned: when it was made
  type: int
  sample: 812
bytes:
  description: How large it is.
  returned: when it was made
  type: int
  sample: 30122
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils import _redis_backup, _redis_host
from ansible_collections.orbiter.fleet.plugins.module_utils._redis import SERVER


def main():
    """Run the module."""
    module = AnsibleModule(argument_spec={"directory": {"type": "path", "required": True}}, supports_check_mode=True)
    directory = module.params["directory"]
    if not os.path.isdir(directory) and not module.check_mode:
        module.fail_json(msg=f"directory: {directory} is no folder on this host. Make it first")
    process = _redis_host.unit()["MainPID"]
    if process == "0":
        module.fail_json(msg=f"Redis does not run on this host: systemctl start {SERVER}, or see its log")
    if module.check_mode:
        module.exit_json(changed=True)
    os.umask(0o077)
    try:
        with _redis_host.connect(process) as redis:
            archive, keys = _redis_backup.archive(redis, directory)
    except _redis_backup.BackupError as error:
        module.fail_json(msg=f"This is no good backup; {error}")
    except _redis_backup.FAILURES as error:
        module.fail_json(msg=f"There is no backup: {error}")
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    module.exit_json(changed=True, archive=str(archive), time=moment, keys=keys, bytes=archive.stat().st_size)


if __name__ == "__main__":
    main()
