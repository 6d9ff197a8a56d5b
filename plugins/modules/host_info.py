#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a deployment wants to know of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_info
short_description: Tell what a deployment wants to know of a host, in one exchange
version_added: 0.2.0
description:
  - Tells what a host is and has, so that a playbook decides from one answer before it changes anything.
  - Each option asks for one part; machine-id, Python and clock are always told.
  - It runs on any Python that Ansible runs on, so that a host whose Python is too old for the fleet can be told so.
options:
  runs_as:
    description: A user, whose service has to be able to run the Python that Ansible uses; anybody, if it is not there.
    type: str
  packages:
    description: Packages of Debian whose versions are wanted.
    type: list
    elements: str
    default: []
  users:
    description: Users whose home and shell are wanted.
    type: list
    elements: str
    default: []
  paths:
    description: Folders where free space is wanted. Of one that is not there yet, the first one above it that is.
    type: list
    elements: path
    default: []
  releases:
    description: Folder of the releases that are installed there whole, as M(orbiter.fleet.release_install) does it.
    type: path
  ports:
    description: TCP ports that somebody else may have.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: The port.
        type: int
        required: true
      address:
        description: Where somebody else would be in the way. Without it, at any address.
        type: str
      unit:
        description: A service or a socket of systemd that may have it.
        type: str
  docker:
    description: Whether Docker is wanted.
    type: bool
    default: false
  redis:
    description:
      - Asks for the host's Redis, with what the fleet's settings for it are going to say, as
        O(orbiter.fleet.redis_adopt#module:files) has it.
    type: dict
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
extends_documentation_fragment:
  - orbiter.fleet.info
"""

EXAMPLES = r"""
- name: Look at a host that is to have Redis
  orbiter.fleet.host_info:
    ports:
      - {port: 6379, unit: redis-server.service}
    paths: [/var/lib/redis]
    redis: {maxmemory: 1gb}
  register: seen

- name: Insist that neither the port nor a Redis there is somebody else's
  ansible.builtin.assert:
    that:
      - seen.taken | length == 0
      - seen.redis.foreign | length == 0

- name: Ask for the clock
  orbiter.fleet.host_info:
  register: clock
  failed_when: clock.asked - clock.now > 5 or clock.now - clock.answered > 5
"""

RETURN = r"""
machine_id:
  description: What C(/etc/machine-id) holds, empty where there is none. Two names with one of these are one host.
  returned: always
  type: str
  sample: 5f8b0c1f0e6c4b1c8a6f6d8e4d0f7a11
python:
  description: The version of the Python that Ansible uses there.
  returned: always
  type: str
  sample: 3.11.2
now:
  description: The host's clock.
  returned: always
  type: float
  sample: 1771327815.2
asked:
  description: The controller's clock when it asked, in seconds since 1970.
  returned: always
  type: float
  sample: 1771327815.0
answered:
  description: The controller's clock when it had the answer.
  returned: always
  type: float
  sample: 1771327815.4
interpreter:
  description: The Python that virtual environments are made from, and why a service of O(runs_as) cannot run it.
  returned: when O(runs_as) is given
  type: dict
  sample: {path: /usr/bin/python3.11, trouble: ""}
packages:
  description: The versions of those of O(packages) that are installed.
  returned: always
  type: dict
  sample: {redis-server: "5:7.0.15-1~deb12u5"}
users:
  description: Home and shell of those of O(users) that there are.
  returned: always
  type: dict
  sample: {orbiter: {home: /var/lib/orbiter, shell: /usr/sbin/nologin}}
disks:
  description: For each of O(paths), what exists of it and how many bytes are free there.
  returned: always
  type: dict
  sample: {/var/lib/redis: {path: /var/lib, free: 34359738368}}
releases:
  description: The releases in O(releases).
  returned: when O(releases) is given
  type: list
  elements: str
  sample: [0.2.0-1f2e3d4c]
taken:
  description: Who has one of O(ports); name and process id are empty and 0 of one that the host does not see.
  returned: always
  type: list
  elements: dict
  sample: [{port: 6379, name: python3, pid: 812}]
docker:
  description:
    - The versions of the engine (C(docker)) and of its plugin C(compose), why they cannot be used (C(trouble)), and
      whether the host runs workers by C(systemd), which would work beside a stack.
  returned: with O(docker=true)
  type: dict
  sample: {docker: 26.1.5, compose: 2.26.1, trouble: "", systemd: false}
redis:
  description: The host's Redis.
  returned: when O(redis) is given
  type: dict
  contains:
    members:
      description: Addresses of the group of Redis hosts that this one is in; none of a single one.
      type: list
      elements: str
      sample: [192.0.2.11, 192.0.2.12, 192.0.2.13]
    users:
      description: The users of Redis that the role P(orbiter.fleet.redis#role) made; null where it has made none.
      type: list
      elements: str
      sample: [default, admin, worker, client, monitor]
    ours:
      description: Whether it is one of the role.
      type: bool
    foreign:
      description:
        - What shows that it is somebody else's. Nothing of the role's, nor of the package's without data and clients.
      type: list
      elements: str
      sample: [redis-server (process 512) at port 6379, 3 keys in database 0]
    hurdles:
      description: Why M(orbiter.fleet.redis_adopt) could not adopt it.
      type: list
      elements: str
    within:
      description: What a group that runs here uses among its members, C(plain) or C(tls); empty where there is none.
      type: str
    port:
      description: The port by which the members of that group know each other; 0 where there is none.
      type: int
    ports:
      description: The ports that it listens at now, whatever its file says.
      type: list
      elements: int
    unsaved:
      description: Whether a start with these settings would not load what it holds.
      type: bool
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils import _docker, _history, _host, _redis_host


def main():
    """Run the module."""
    port = {"port": {"type": "int", "required": True}, "address": {"type": "str"}, "unit": {"type": "str"}}
    names = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "runs_as": {"type": "str"},
            "packages": names,
            "users": names,
            "paths": {"type": "list", "elements": "path", "default": []},
            "releases": {"type": "path"},
            "ports": {"type": "list", "elements": "dict", "default": [], "options": port},
            "docker": {"type": "bool", "default": False},
            "redis": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    seen = dict(
        _host.facts(),
        packages=_host.packages(wanted["packages"]),
        users=_host.users(wanted["users"]),
        disks={path: _host.disk(path) for path in wanted["paths"]},
        taken=[one for one in (_host.taken(**each) for each in wanted["ports"]) if one],
    )
    if wanted["runs_as"]:
        seen["interpreter"] = _host.interpreter(wanted["runs_as"])
    if wanted["releases"]:
        seen["releases"] = _history.installed(Path(wanted["releases"]))
    if wanted["docker"]:
        seen["docker"] = _docker.engine()
    if wanted["redis"] is not None:
        seen["redis"] = _redis_host.look(_redis_host.wanted_of(module, "redis"))
    module.exit_json(changed=False, **seen)


if __name__ == "__main__":
    main()
