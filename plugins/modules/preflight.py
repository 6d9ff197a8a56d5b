#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks what an inventory says, before any host is contacted."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: preflight
short_description: Check what an inventory says
version_added: 0.2.0
description:
  - Checks the values of all variables of this collection's roles, their types, their rules and whether they go
    together, and fails with all that is wrong, each with the host, the variable, the value, the rule and the remedy.
    Passwords, and what may hold one, are not shown.
  - Runs on the controller and contacts no host. One task checks all hosts of a play.
  - Looks for misspelt names first, as M(orbiter.fleet.inventory_names) does, and for hosts in misspelt groups.
options:
  role:
    description:
      - Checks the variables of this role only, for the host that the task runs for. The roles themselves do this where
        no playbook has checked the whole inventory.
    type: str
    choices: [dashboard, monitoring, redis, temporal, worker]
  only:
    description: Says what is wrong with these variables, and not with others.
    type: list
    elements: str
  redis:
    description: The hosts that run Redis.
    type: list
    elements: str
  workers:
    description: The hosts that run workers.
    type: list
    elements: str
  temporal:
    description: The hosts that run Temporal.
    type: list
    elements: str
  monitoring:
    description: The hosts that run Prometheus, and, with C(dashboard_enabled), the dashboard.
    type: list
    elements: str
  elsewhere:
    description: Hosts among O(workers) that use a Redis that is somebody else's.
    type: list
    elements: str
  shared:
    description: Variables of the play that have one value for all hosts, and are resolved once.
    type: list
    elements: str
  ignore:
    description:
      - Names of variables and groups that are your own, C(*) stands for any letters. A list, or a text with commas.
    type: raw
extends_documentation_fragment:
  - orbiter.fleet.info
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Check the whole inventory
  orbiter.fleet.preflight:
    redis: "{{ groups['redis'] }}"
    workers: "{{ groups['workers'] }}"
  run_once: true

- name: Check the variables of one role
  orbiter.fleet.preflight:
    role: worker
"""

RETURN = r"""
msg:
  description: All that is wrong, a line each.
  returned: failure
  type: str
  sample: "worker1: worker_instances is -1; it must be a whole number, 0 or more."
"""
