# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a host's distribution will not do for the roles."""

from __future__ import annotations

import re

DOCUMENTATION = r"""
name: unfit_host
short_description: Why a host's distribution will not do for the roles
version_added: 0.2.0
description:
  - Looks at a host's facts. Debian and what derives from it will do, with systemd; Ubuntu from 24.04 on, as older ones
    have neither the Python nor the Redis that a fleet needs.
options:
  _input:
    description: The host's facts, with C(os_family), C(distribution), C(distribution_version) and C(service_mgr).
    type: dict
    required: true
author:
  - Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Check the host
  ansible.builtin.assert:
    that: ansible_facts | orbiter.fleet.unfit_host == ''
    fail_msg: "{{ inventory_hostname }} {{ ansible_facts | orbiter.fleet.unfit_host }}"
"""

RETURN = r"""
_value:
  description: A sentence without its subject, the host, with the remedy; empty where the host will do.
  type: str
"""

UBUNTU = (24, 4)  # the oldest with Python 3.11 or newer and Redis 7.0


def unfit_host(facts):
    """Return why a host will not do; empty where it will."""
    named = f"{facts['distribution']} {facts['distribution_version']}"
    if facts["os_family"] != "Debian" or facts["service_mgr"] != "systemd":
        return (
            f"runs {named} with {facts['service_mgr']}; this role needs Debian or a derivative with systemd. "
            "Use a host with Debian 12 or newer, or Ubuntu 24.04 or newer."
        )
    numbers = tuple(int(part) for part in re.findall(r"\d+", facts["distribution_version"])[:2])
    if facts["distribution"] == "Ubuntu" and numbers < UBUNTU:
        return (
            f"runs {named}, whose Python and Redis are too old for the fleet. Upgrade it to Ubuntu 24.04 or newer "
            "(do-release-upgrade), or use a host with Debian 12 or newer."
        )
    return ""


class FilterModule:
    """The filter of this file."""

    def filters(self):
        """Return the filter by its name."""
        return {"unfit_host": unfit_host}
