#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Set what Redis wants of the kernel."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: redis_kernel
short_description: Set what Redis wants of the kernel
version_added: 0.2.0
description:
  - Sets C(vm.overcommit_memory), C(net.core.somaxconn) and transparent huge pages, now and for every start of the host,
    where what there is would slow Redis down or keep it from writing its files. A value that is better stays.
  - A container shares its host's kernel and may not set these. That is told, and nothing fails.
options: {}
attributes:
  check_mode:
    description: Tells what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows values and files that change.
    support: full
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Set what Redis wants of the kernel
  orbiter.fleet.redis_kernel:
  register: kernel

- name: Say what this host does not allow
  ansible.builtin.debug:
    var: kernel.refused
"""

RETURN = r"""
paths:
  description: The values and files that were changed.
  returned: always
  type: list
  elements: str
  sample: [/etc/sysctl.d/60-orbiter-redis.conf, /proc/sys/net/core/somaxconn]
refused:
  description: What this host does not allow, with the value that it has and why another one is better.
  returned: always
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils import _redis_kernel


def main():
    """Run the module."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    os.umask(0o022)
    changed, refused = _redis_kernel.bring(check=module.check_mode)
    module.exit_json(
        changed=bool(changed),
        paths=[path for path, _before, _after in changed],
        refused=refused,
        diff=[
            {"before_header": path, "after_header": path, "before": before, "after": after}
            for path, before, after in changed
        ],
    )


if __name__ == "__main__":
    main()
