#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds misspelt variables in an inventory."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: inventory_names
short_description: Find misspelt variables in an inventory
version_added: 0.1.0
description:
  - Looks at the names of all variables that the hosts of the play have. A name that differs from one of this
    collection's in one or two letters fails the task, with the name that was meant. Other names that begin with
    C(orbiter_), C(redis_), C(temporal_) or C(worker_) are warned of.
  - A file of variables that Ansible passes over, such as C(group_vars/all.yml) beside a folder C(group_vars/all), fails
    it as well, with what is read instead.
  - Runs on the controller, contacts no host, and does not look at values, so that a vault needs not be open.
options:
  ignore:
    description:
      - Names that are your own, C(*) stands for any letters. A list, or a text with commas.
      - The playbooks give O(ignore) what C(orbiter_ignore_variables) has.
    type: raw
extends_documentation_fragment:
  - orbiter.fleet.info
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Look for misspelt variables
  orbiter.fleet.inventory_names:
    ignore: [redis_exporter_*]
  run_once: true
"""

RETURN = r"""
misspelt:
  description: The misspelt names, each with the names that may be C(meant), and the C(hosts) that have it.
  returned: where the names could be compared
  type: dict
  sample: {worker_instance: {meant: [worker_instances], hosts: [worker1]}}
unknown:
  description: Names that begin as this collection's do, and are like none of them.
  returned: where the names could be compared
  type: list
  elements: str
  sample: [redis_exporter_port]
"""
