# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The option that says what a group of Redis servers is."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation that the modules share that know a group."""

    DOCUMENTATION = r"""
options:
  group:
    description:
      - The file on the host that says what the group is, as the role P(orbiter.fleet.redis#role) writes it. It holds
        the passwords, so that they pass through no output and no command line.
      - Of Valkey it is C(/etc/valkey/fleet.json) by default.
    type: path
    default: /etc/redis/fleet.json
requirements:
  - A host where the role P(orbiter.fleet.redis#role) has described a group.
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""
