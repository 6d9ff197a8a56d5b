#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installs a release from its archive, all of it or nothing."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release_install
short_description: Install a release from its archive, without a network and without running any of it
version_added: 0.2.0
description:
  - Makes the virtual environment of a release from the archive that the controller has built and copied to the host.
    It is there whole, or not at all.
  - Nothing of the release runs, as its packages could tell every Python what to run at its start.
  - Removes the archive, and old releases, but never the one in use nor the one to go back to.
  - A release that is installed already stays as it is.
options:
  version:
    description: The release's name.
    type: str
    required: true
  src:
    description:
      - The archive on the host. It is removed.
      - Without it, a file in O(path) that is named as the release with a dot before and C(.tar) behind.
    type: path
  path:
    description:
      - Where releases are installed, each in a folder of its name.
      - The one in use is what the link C(current) beside this folder points to.
    type: path
    default: /opt/orbiter/releases
  checksum:
    description: SHA-256 that the archive must have, as the controller has verified it.
    type: str
    default: ""
  keep:
    description: How many releases stay, the newest ones.
    type: int
    default: 5
attributes:
  check_mode:
    description: Tells whether the release would be installed, and changes nothing.
    support: full
  diff_mode:
    description: Shows the installed releases before and after.
    support: full
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Copy the archive
  ansible.builtin.copy:
    src: dist/0.2.0-1f2e3d4c-3.13-x86_64.tar
    dest: /opt/orbiter/releases/.0.2.0-1f2e3d4c.tar
    mode: "0644"

- name: Install it
  orbiter.fleet.release_install:
    version: 0.2.0-1f2e3d4c
"""

RETURN = r"""
releases:
  description: The releases that are installed then.
  returned: success
  type: list
  elements: str
  sample: [0.1.0-9a8b7c6d, 0.2.0-1f2e3d4c]
removed:
  description: Old releases that were removed.
  returned: success
  type: list
  elements: str
  sample: []
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils import _history, _release


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "src": {"type": "path"},
            "path": {"type": "path", "default": str(_history.RELEASES)},
            "checksum": {"type": "str", "default": ""},
            "keep": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    version, place = module.params["version"], Path(module.params["path"])
    before, removed = _history.installed(place), []
    if version not in before and not module.check_mode:
        archive = Path(module.params["src"] or place / f".{version}.tar")
        try:
            _release.check(archive, version, module.params["checksum"])
            _release.install(archive, place / version)
        except _release.ReleaseError as error:
            module.fail_json(msg=str(error))
        finally:
            archive.unlink(missing_ok=True)
        removed = _release.prune(place, module.params["keep"], version)
    after = sorted({*before, version}) if module.check_mode else _history.installed(place)
    module.exit_json(
        changed=version not in before,
        releases=after,
        removed=removed,
        diff={name: "".join(f"{one}\n" for one in listed) for name, listed in (("before", before), ("after", after))},
    )


if __name__ == "__main__":
    main()
