#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells whether workers are about to leave a queue with tasks in it."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: left_queue
short_description: Tell whether workers are about to leave a queue with tasks in it
version_added: 0.2.0
description:
  - Compares the Redis that the workers of a host use now with the one that they are to use. Where it is another one,
    asks the old one how many tasks its queue holds.
  - One that only got another port, TLS, or more members is the same; so is one whose name has the address of the other.
options:
  redis_url:
    description: Where the workers of this host are to find Redis.
    type: str
    required: true
  settings:
    description: The file that their settings are in.
    type: path
    default: /etc/orbiter/worker.env
  executable:
    description: The fleet's command. Without it, the one that the role C(worker) has put on the host.
    type: path
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
extends_documentation_fragment:
  - orbiter.fleet.info
"""

EXAMPLES = r"""
- name: Look at the queue that would be left behind
  orbiter.fleet.left_queue:
    redis_url: "{{ worker_redis_url }}"
  register: old

- name: Insist that it is empty
  ansible.builtin.assert:
    that: old.tasks == 0
"""

RETURN = r"""
moved:
  description: Whether the workers are to use another Redis than now.
  returned: always
  type: bool
where:
  description: The hosts of the Redis that they use now, empty where they use none yet.
  returned: always
  type: list
  elements: str
  sample: [10.0.0.10]
tasks:
  description: Tasks that wait, run or are delayed there, 0 where nothing moves or nobody answers.
  returned: always
  type: int
  sample: 5
trouble:
  description: Why the old Redis could not be asked, or nothing.
  returned: always
  type: str
  sample: ""
"""

import re
import socket
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils._command import (
    CommandError,
    TooLongError,
    command_of,
)

# Of a Redis that is gone, an answer does not come.
PATIENCE = 60


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "redis_url": {"type": "str", "required": True, "no_log": True},
            "settings": {"type": "path", "default": "/etc/orbiter/worker.env"},
            "executable": {"type": "path"},
        },
        supports_check_mode=True,
    )
    old, new = hosts_of(current(module.params["settings"])), hosts_of(module.params["redis_url"])
    answer = {"changed": False, "moved": moved(old, new), "where": sorted(old), "tasks": 0, "trouble": ""}
    if answer["moved"]:
        # By the host's own settings: not by the URL that is to come.
        module.params.update(redis_url=None, queue=None, namespace=None)
        try:
            info = command_of(module).ask("queue", "info", "--json", within=PATIENCE)
            answer["tasks"] = sum(info[state] for state in ("waiting", "running", "delayed"))
        except (CommandError, TooLongError) as error:
            answer["trouble"] = str(error)
    module.exit_json(**answer)


def current(settings):
    """Return the URL that the workers of this host use now, or nothing."""
    try:
        text = Path(settings).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    found = re.search(r'^ORBITER_REDIS_URL="((?:[^"\\]|\\.)*)"$', text, re.MULTILINE)
    return re.sub(r"\\(.)", r"\1", found[1]) if found else ""


def hosts_of(url):
    """Return the hosts that a URL of Redis names, one or several."""
    place = re.split("[/?]", url.partition("://")[2].rpartition("@")[2])[0]
    return {re.sub(r":\d*$", "", one).strip("[]").lower() for one in place.split(",") if one}


def addresses(hosts):
    """Return hosts with their addresses, as this host resolves them."""
    found = set(hosts)
    for host in hosts:
        try:
            found |= {entry[4][0] for entry in socket.getaddrinfo(host, None)}
        except (OSError, UnicodeError):
            continue
    return found


def moved(old, new):
    """Tell whether none of the hosts that were is any of those that are to be."""
    return bool(old and new) and not (old & new or addresses(old) & addresses(new))


if __name__ == "__main__":
    main()
