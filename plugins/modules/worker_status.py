#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the workers of a host are, as systemd, the disk and Redis know it."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: worker_status
short_description: Tell how the workers of a host are
version_added: 0.2.0
description:
  - Tells the release, each instance and what is wrong with it, as systemd, the disk and Redis know it.
  - The filter P(orbiter.fleet.fleet_page#filter) makes one page of what all hosts say.
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
extends_documentation_fragment:
  - orbiter.fleet.info
seealso:
  - module: orbiter.fleet.worker_info
"""

EXAMPLES = r"""
- name: See that every instance of the host is well
  orbiter.fleet.worker_status:
  register: here
  failed_when: here.instances | rejectattr('wrong', 'equalto', '') | list | length > 0
"""

RETURN = r"""
release:
  description: The release in use, or nothing.
  returned: always
  type: str
  sample: 0.2.0-1f2e3d4c
previous:
  description: The last other release that was well here, or nothing.
  returned: always
  type: str
  sample: 0.1.0-9a8b7c6d
drained:
  description: Since when and why the host is out of the fleet, or nothing.
  returned: always
  type: str
  sample: "since 2026-02-17 10:30 UTC: more memory"
instances:
  description: The instances that are enabled or run, each with what is wrong with it, or nothing.
  returned: always
  type: list
  elements: dict
  sample:
    - unit: orbiter-worker@1.service
      wrong: ""
      worker_id: worker1-812-a1b2c3d4
      version: 0.2.0
      active: 1
      concurrency: 4
      tasks_processed: 42
      tasks_failed: 2
workers:
  description: Every worker of the fleet that lives, wherever it runs.
  returned: always
  type: list
  elements: dict
  sample: [{worker_id: worker1-812-a1b2c3d4, hostname: worker1, state: running}]
queue:
  description: The queue, as C(orbiter queue info) says it, or null.
  returned: always
  type: dict
  sample: {queue: "orbiter:tasks", waiting: 3}
trouble:
  description: Why Redis could not be asked, or nothing.
  returned: always
  type: str
  sample: ""
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils import _health, _history, _systemd


def main():
    """Run the module."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    try:
        module.exit_json(changed=False, **status())
    except _systemd.GateError as error:
        _systemd.fail(module, error)


def status():
    """Return what the documentation promises."""
    seen, release = _systemd.look(), _systemd.release()
    rows, trouble = _systemd.ask("worker", "list") if release else ([], "")
    queue = _systemd.ask("queue", "info")[0] if release and not trouble else None
    expected = _systemd.expected(sorted(seen["instances"]))
    known = {"past": _history.past(), "drained": seen["drained"], "expected": expected}
    return told(release, **known, rows=rows, queue=queue, trouble=trouble)


def told(release, *, past, drained, expected, rows, queue, trouble):
    """Return what is told of a host.

    Args:
        release: The release in use.
        past: The releases that were well here, the oldest first.
        drained: Since when and why the host is out of the fleet.
        expected: The instances that should run.
        rows: What `orbiter worker list --json` says.
        queue: What `orbiter queue info --json` says.
        trouble: Why Redis could not be asked.
    """
    living = [row for row in rows or [] if row["alive"]]
    return {
        "release": release,
        "previous": next((other for other in reversed(past) if other != release), ""),
        "drained": drained,
        "instances": [_health.described(one, living) for one in expected],
        "workers": [{name: row[name] for name in ("worker_id", "hostname", "state")} for row in living],
        "queue": queue,
        "trouble": trouble,
    }


if __name__ == "__main__":
    main()
