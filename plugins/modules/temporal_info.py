#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waits until Temporal is well."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: temporal_info
short_description: Wait until a host's Temporal is well
version_added: 0.2.0
description:
  - Waits until the server of the role P(orbiter.fleet.temporal#role) answers, knows its namespace and can hand out
    work. Fails otherwise, with what it says and the end of its journal.
options:
  address:
    description: Where it listens, C(ADDRESS:PORT).
    type: str
    required: true
  namespace:
    description: The namespace that it must know.
    type: str
    default: default
  timeout:
    description: Seconds to wait.
    type: int
    default: 60
  executable:
    description: Temporal's command.
    type: path
    default: /opt/orbiter-temporal/current/temporal
  login:
    description: The folder with C(server.pem), its key C(server.pem.key), and the authority C(ca.pem).
    type: path
    default: /etc/orbiter-temporal
extends_documentation_fragment:
  - orbiter.fleet.info
attributes:
  check_mode:
    description: Waits for nothing in check mode, where nothing was started.
    support: full
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Wait until Temporal answers
  orbiter.fleet.temporal_info:
    address: 10.0.0.5:7233
"""

RETURN = r"""
address:
  description: Where it answers.
  returned: success
  type: str
  sample: 10.0.0.5:7233
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils._systemd import fail
from ansible_collections.orbiter.fleet.plugins.module_utils._temporal import TemporalError, wait


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True},
            "namespace": {"type": "str", "default": "default"},
            "timeout": {"type": "int", "default": 60},
            "executable": {"type": "path", "default": "/opt/orbiter-temporal/current/temporal"},
            "login": {"type": "path", "default": "/etc/orbiter-temporal"},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        if not module.check_mode:
            wait(params["executable"], params["address"], params["namespace"], Path(params["login"]), params["timeout"])
    except TemporalError as error:
        fail(module, error)
    module.exit_json(changed=False, address=params["address"])


if __name__ == "__main__":
    main()
