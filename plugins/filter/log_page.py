# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The log lines of a fleet's hosts, in the order of time."""

from __future__ import annotations

DOCUMENTATION = r"""
name: log_page
short_description: The log lines of a fleet's hosts, in the order of time
version_added: 0.2.0
description:
  - Merges what M(orbiter.fleet.worker_logs) said on each host. Each line of a log is a line of text, with its time
    (UTC) and its instance before it.
options:
  _input:
    description: The module's results, by host. Those of hosts that did not answer are left out.
    type: dict
    required: true
  lines:
    description: How many lines at most, the last ones.
    type: int
    default: 100
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
seealso:
  - module: orbiter.fleet.worker_logs
"""

EXAMPLES = r"""
- name: Read the logs
  orbiter.fleet.worker_logs:
  register: said

- name: Show them
  orbiter.fleet.show_lines:
    lines: "{{ dict(hosts | zip(hosts | map('extract', hostvars, 'said'))) | orbiter.fleet.log_page }}"
  vars:
    hosts: "{{ ansible_play_hosts }}"
  run_once: true
"""

RETURN = r"""
_value:
  description: The lines, the oldest first.
  type: list
  elements: str
  sample: ["2026-02-17 10:30:15.250 worker1/1  INFO    task completed task_id=7c1e9a"]
"""

import datetime as dt


def log_page(results, lines=100):
    """Return the lines."""
    found = sorted(
        ((f"{host}/{one['instance']}", one) for host, said in results.items() for one in said.get("lines", ())),
        key=lambda pair: pair[1]["at"],  # what one instance wrote at the same time stays in its order
    )[-int(lines) :]
    names = max((len(name) for name, _one in found), default=0)
    levels = max((len(one["level"]) for _name, one in found), default=0)
    return [
        f"{shown(one['at'])} {name:<{names}}  {one['level']:<{levels}}  {one['text']}".rstrip() for name, one in found
    ]


def shown(at):
    """Return a time, by UTC, to the millisecond."""
    return dt.datetime.fromtimestamp(at, tz=dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


class FilterModule:
    """The filter."""

    def filters(self):
        """Return it by its name."""
        return {"log_page": log_page}
