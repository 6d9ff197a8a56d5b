#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds a release on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release_build
short_description: Build on the controller what worker hosts install offline
version_added: 0.2.0
description:
  - Builds, for each kind of host, one archive of wheels pinned by hash, as the role P(orbiter.fleet.release#role) does.
  - The version stands for everything that goes in. What is in the cache under it is not built again.
options:
  program:
    description: The folder of the role's program, its C(files).
    type: path
    required: true
  targets:
    description: The kinds of hosts, each a Python and a machine such as C(3.11-x86_64).
    type: list
    elements: str
    required: true
  extras:
    description: Extras of C(orbiter-distributed) that go in.
    type: list
    elements: str
    default: []
  apps:
    description: Your own code, as C(release_app) of the role names it.
    type: list
    elements: str
    default: []
  source:
    description: The folder of the project C(orbiter-distributed). Without it the one that the collection carries.
    type: path
  cache:
    description: The folder for what was built. Without it C(.cache/release) of the checkout, or else of the user.
    type: path
  signing_key:
    description: The path of a key of OpenSSH that signs each archive when it is built.
    type: path
attributes:
  check_mode:
    description: Tells which version would be built, and complains of what cannot be; builds nothing.
    support: full
  diff_mode:
    description: Shows the version that is new.
    support: full
requirements:
  - Python 3.11 or newer with packaging, as ansible-core brings it.
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Build a release
  orbiter.fleet.release_build:
    program: roles/release/files
    targets: [3.11-x86_64, 3.13-x86_64]
    extras: [temporal]
  delegate_to: localhost
  run_once: true
  register: built
"""

RETURN = r"""
version:
  description: The version, the worker's with a digest of everything that goes in.
  returned: success
  type: str
  sample: 0.1.0-1f2e3d4c
archives:
  description: The path of each target's archive.
  returned: success
  type: dict
  sample: {3.11-x86_64: /home/deploy/.cache/orbiter-fleet/release/0.1.0-1f2e3d4c/3.11-x86_64.tar}
"""

import importlib
import sys
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    names = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "program": {"type": "path", "required": True},
            "targets": {"type": "list", "elements": "str", "required": True},
            "extras": names,
            "apps": names,
            "source": {"type": "path"},
            "cache": {"type": "path"},
            "signing_key": {"type": "path", "no_log": False},  # where it is, which is no secret
        },
        supports_check_mode=True,
    )
    params = module.params
    folders = {name: Path(params[name]) for name in ("source", "cache") if params[name]}
    # The program itself, which tools of the checkout run too.
    sys.path.insert(0, params["program"])
    program = importlib.import_module("build_release")
    try:
        done = program.release(
            [program.Target.parse(target) for target in params["targets"]],
            extras=params["extras"],
            given=params["apps"],
            key=Path(params["signing_key"]) if params["signing_key"] else None,
            dry_run=module.check_mode,
            **folders,
        )
    except program.BuildError as error:
        module.fail_json(msg=str(error))
    after = f"{done['version']}\n"
    module.exit_json(diff={"before": "" if done["changed"] else after, "after": after}, **done)


if __name__ == "__main__":
    main()
