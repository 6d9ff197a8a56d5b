#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows lines on the screen as they are."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: show_lines
short_description: Show lines on the screen as they are
version_added: 0.2.0
description:
  - Shows text as people read it, a line a line, whatever the callback is. What is not printable is escaped.
  - Runs on the controller, and contacts no host.
options:
  lines:
    description: The lines.
    type: list
    elements: str
    default: []
  prefix:
    description: What stands before each of them.
    type: str
    default: ""
extends_documentation_fragment:
  - orbiter.fleet.info
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Show what a command said
  orbiter.fleet.show_lines:
    lines: "{{ done.stdout_lines }}"
    prefix: "{{ inventory_hostname }}: "
"""

RETURN = r"""
shown:
  description: How many lines were shown.
  returned: always
  type: int
  sample: 3
"""
