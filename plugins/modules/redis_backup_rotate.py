#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take an archive among the good ones, and let the oldest go."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: redis_backup_rotate
short_description: Take an archive of Redis among the good ones, and let the oldest go
version_added: 0.2.0
description:
  - An archive is fetched to a name that ends with C(.part). When it has arrived whole it gets its own name, and those
    in its folder that are older than the newest ones are removed.
  - Archives are called C(HOST-YYYYMMDDTHHMMSSZ.tar.gz). Anything else in the folder stays.
options:
  archive:
    description: The archive's own name, without C(.part).
    type: path
    required: true
  keep:
    description: How many archives are kept, this one among them.
    type: int
    required: true
attributes:
  check_mode:
    description: Tells which would be removed, and changes nothing.
    support: full
  diff_mode:
    description: Shows the archives that go and the one that comes.
    support: full
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
seealso:
  - module: orbiter.fleet.redis_backup
"""

EXAMPLES = r"""
- name: Take it among the good ones, and let the oldest go
  orbiter.fleet.redis_backup_rotate:
    archive: backups/redis1-20261130T180512Z.tar.gz
    keep: 14
  delegate_to: localhost
"""

RETURN = r"""
removed:
  description: The names of those that are removed.
  returned: success
  type: list
  elements: str
  sample: [redis1-20261116T180502Z.tar.gz]
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils import _redis_backup


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"archive": {"type": "path", "required": True}, "keep": {"type": "int", "required": True}},
        supports_check_mode=True,
    )
    archive, keep = Path(module.params["archive"]), module.params["keep"]
    part = archive.with_name(f"{archive.name}.part")
    if keep < 1:
        module.fail_json(msg=f"keep is {keep}; it must be 1 or more, as the new archive is one of them")
    if not _redis_backup.NAME.fullmatch(archive.name):
        module.fail_json(msg=f"archive: {archive.name} must be named HOST-YYYYMMDDTHHMMSSZ.tar.gz")
    if not part.exists():
        module.fail_json(msg=f"archive: there is no {part}, which it is fetched to")
    old = _redis_backup.too_many(archive.parent, keep, archive)
    removed = [path.name for path in old]
    if not module.check_mode:
        part.chmod(0o600)
        part.rename(archive)
        for path in old:
            path.unlink()
    diff = {"before": "".join(f"{name}\n" for name in removed), "after": f"{archive.name}\n"}
    module.exit_json(changed=True, removed=removed, diff=diff)


if __name__ == "__main__":
    main()
