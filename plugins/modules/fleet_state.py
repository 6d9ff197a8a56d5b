#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host ran when all was well: the release to go back to, and the way back."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: fleet_state
short_description: Go back to what a host ran when all was well
version_added: 0.2.0
description:
  - M(orbiter.fleet.worker_units) keeps the release, the settings and the instances of a host each time that all are
    well. This module tells of it, and brings it back.
options:
  state:
    description:
      - With V(known), tells the release in use and the one to go back to, and changes nothing.
      - With V(good), brings back the release, the settings, the unit and the instances that were well last. Those
        that started on something else restart, one after another, and the others go on undisturbed. Ends when all are
        well. A host where nothing was ever well has its instances stopped.
    type: str
    choices: [known, good]
    default: known
  release:
    description: The release to go back to. It must be installed. Without it, the last other one that was well here.
    type: str
    default: ""
  name:
    description: How the host is called in messages.
    type: str
    default: ""
  gate_timeout:
    description: Seconds that instances get to be well.
    type: int
    default: 60
attributes:
  check_mode:
    description: Tells what is there, and changes nothing.
    support: full
  diff_mode:
    description: Shows the release before and after.
    support: full
seealso:
  - module: orbiter.fleet.worker_units
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Choose the release to go back to
  orbiter.fleet.fleet_state:
  register: state

- name: Go back to it
  orbiter.fleet.worker_units:
    instances: 4
    release: "{{ state.previous }}"

- name: Go back to what was well
  orbiter.fleet.fleet_state:
    state: good
    gate_timeout: 120
"""

RETURN = r"""
release:
  description: The release in use, or nothing.
  returned: success
  type: str
  sample: 0.2.0-1f2e3d4c
previous:
  description: The release to go back to.
  returned: with O(state=known)
  type: str
  sample: 0.1.0-9a8b7c6d
instances:
  description: The instances that were well, which run again.
  returned: with O(state=good)
  type: list
  elements: str
  sample: [orbiter-worker@1.service]
restarted:
  description: Those of them that had to restart.
  returned: with O(state=good)
  type: list
  elements: str
  sample: [orbiter-worker@1.service]
tail:
  description: The end of the journal of what is not well, in lines.
  returned: when an instance is not well
  type: str
  sample: |-
    The end of the journal:
    2026-02-17T10:30:00+00:00 worker1 orbiter[812]: cannot reach Redis
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils import _history, _systemd


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"choices": ["known", "good"], "default": "known"},
            "release": {"type": "str", "default": ""},
            "name": {"type": "str", "default": ""},
            "gate_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    params, before = module.params, _systemd.release()
    try:
        if params["state"] == "known":
            module.exit_json(changed=False, release=before, previous=_systemd.previous(params["release"]))
        if module.check_mode:
            good = _history.good() or {"release": "", "instances": []}
            module.exit_json(**told(before, good["release"], good["instances"], []))
        release, instances, again = _systemd.bring_back()
        _systemd.restart(again, params["gate_timeout"])
        if release is not None and not _history.drained():
            _systemd.wait(instances, params["gate_timeout"])
            _systemd.keep(instances)
    except _systemd.GateError as error:
        _systemd.fail(module, error, changed=params["state"] == "good")
    module.exit_json(**told(before, release or "", instances, again))


def told(before, release, instances, restarted):
    """Return what is told of a way back."""
    return {
        "changed": True,
        "release": release,
        "instances": instances,
        "restarted": restarted,
        "diff": {"before": f"release {before or '-'}\n", "after": f"release {release or '-'}\n"},
    }


if __name__ == "__main__":
    main()
