# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that say where the queue is."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation that the modules of the action group orbiter.fleet.redis share."""

    DOCUMENTATION = r"""
options:
  redis_url:
    description:
      - Where Redis is, such as C(redis://user:password@redis1:6379/0). Handed to the command by its environment.
      - Without it the settings of the host count, which on a worker host are those of its workers.
    type: str
  namespace:
    description:
      - The namespace, the first word of all keys. The module sees and touches what is in it, and nothing else.
      - Without it the settings of the host count, or else it is C(orbiter), as it is on any host where O(redis_url) is
        given.
    type: str
  queue:
    description:
      - Name of the queue. In a namespace other than C(orbiter) that is its first word, named here or not.
      - Without it the settings of the host count, or else it is C(orbiter:tasks). Modules that list workers list those
        of all queues then.
    type: str
  executable:
    description:
      - Path of the command C(orbiter).
      - Without it the one on the C(PATH) is used, or else C(/usr/local/bin/orbiter), where the role
        P(orbiter.fleet.worker#role) puts it.
    type: path
requirements:
  - The command C(orbiter) on the host that the module runs on, as on every worker host
    (role P(orbiter.fleet.worker#role)), or from C(pip install ./worker) in a checkout of the project.
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""
