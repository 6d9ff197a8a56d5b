#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has the locks of apt and dpkg."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: apt_locks_info
short_description: Tell who has the locks of apt and dpkg
version_added: 0.2.0
description:
  - Names the processes that keep others from installing packages. Needs the rights to open the locks, so root's.
options:
  paths:
    description: The locks.
    type: list
    elements: path
    default:
      - /var/lib/dpkg/lock-frontend
      - /var/lib/dpkg/lock
      - /var/lib/apt/lists/lock
      - /var/cache/apt/archives/lock
extends_documentation_fragment:
  - orbiter.fleet.info
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: See who installs
  orbiter.fleet.apt_locks_info:
  register: found

- name: Say it
  ansible.builtin.debug:
    msg: "{{ found.sentence }}"
"""

RETURN = r"""
holders:
  description: The processes. The id is 0 of one that is outside of this container.
  returned: always
  type: list
  elements: dict
  sample: [{pid: 812, command: apt-get install nginx, paths: [/var/lib/dpkg/lock-frontend]}]
sentence:
  description: The same for people.
  returned: always
  type: str
  sample: process 812 (apt-get install nginx) has /var/lib/dpkg/lock-frontend
"""

import fcntl
import os
import struct
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

# struct flock of a 64-bit Linux: type, whence, start, length, process.
FLOCK = "hhqqi"
LOCKS = [
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
]


def holder(path: str) -> int | None:
    """Return the process that has a lock, or None; 0 where it is outside of this container."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = struct.unpack(FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    finally:
        os.close(descriptor)
    return None if answer[0] == fcntl.F_UNLCK else max(answer[-1], 0)


def command(process: int) -> str:
    """Return the command line of a process, as far as it fits on a line."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return "outside of this container"
    return " ".join(b" ".join(words).decode(errors="replace").split())[:100]


def main() -> None:
    """Ask for each lock."""
    module = AnsibleModule(
        argument_spec={"paths": {"type": "list", "elements": "path", "default": LOCKS}}, supports_check_mode=True
    )
    held: dict[int, list[str]] = {}
    for path in module.params["paths"]:
        process = holder(path)
        if process is not None:
            held.setdefault(process, []).append(path)
    holders = [{"pid": pid, "command": command(pid), "paths": paths} for pid, paths in held.items()]
    said = [f"process {one['pid']} ({one['command']}) has {' and '.join(one['paths'])}" for one in holders]
    sentence = "; ".join(said) or "nobody, a moment after the last attempt"
    module.exit_json(changed=False, holders=holders, sentence=sentence)


if __name__ == "__main__":
    main()
