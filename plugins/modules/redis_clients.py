#!/usr/bin/python
# Copyright: the Orbiter Fleet authors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tell at which ports this host's Redis listens, and who is connected without TLS."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_clients
short_description: Who is connected to this host's Redis without TLS
version_added: 0.2.0
description:
  - Tells at which ports the Redis of this host listens, and who is connected by the one without TLS. Replicas and
    sentinels of a group, which leave it by themselves, do not count.
  - Runs on a Redis host of the role P(orbiter.fleet.redis#role), and asks over the Unix socket, as the operator's user.
author: Orbiter Fleet authors (@orbiter-fleet)
options:
  etc:
    description: The folder with the operator's password. Of Valkey it is C(/etc/valkey) by default.
    type: path
    default: /etc/redis
  socket:
    description: The server's Unix socket. Of Valkey it is C(/run/valkey/valkey-server.sock) by default.
    type: path
    default: /run/redis/redis-server.sock
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Wait until nobody is connected without TLS
  orbiter.fleet.redis_clients:
  register: found
  until: not found.connected
  retries: 5
"""

RETURN = r"""
port:
  description: The port without TLS, or 0 where it is closed.
  returned: always
  type: int
  sample: 6379
tls_port:
  description: The port with TLS, or 0.
  returned: always
  type: int
  sample: 6380
tls_replication:
  description: Whether it uses TLS as a member of a group.
  returned: always
  type: bool
  sample: false
connected:
  description: Who is connected by the port without TLS.
  returned: always
  type: list
  elements: str
  sample: [10.0.0.9 as client (3 connections)]
"""

import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils._redis import (
    ADMIN,
    ETC,
    SOCKET,
    NoAnswerError,
    RedisError,
    callers,
    local,
)


def is_member(client: dict[str, str]) -> bool:
    """Tell whether it is a replica, or a sentinel: by their login, as nobody else's says more than a name."""
    sentinel = re.fullmatch(r"sentinel-[0-9a-f]{8}-(cmd|pubsub)", client["name"])
    return client["user"] == ADMIN and ("S" in client["flags"] or sentinel is not None)


def main() -> None:
    """Look and tell."""
    module = AnsibleModule(
        argument_spec={
            "etc": {"type": "path", "default": str(ETC)},
            "socket": {"type": "path", "default": SOCKET},
        },
        supports_check_mode=True,
    )
    try:
        with local(etc=module.params["etc"], place=module.params["socket"]) as redis:
            ports = {name: int(value) for name, value in redis.settings("port", "tls-port").items()}
            within = redis.settings("tls-replication").get("tls-replication") == "yes"
            # Its own end of the connection; of a socket that is a path.
            plain = str(ports["port"] or "none")
            there = [client for client in redis.clients() if client.get("laddr", "").rpartition(":")[2] == plain]
            there = [client for client in there if not is_member(client)]
    except (NoAnswerError, RedisError) as error:
        module.fail_json(msg=f"{error}. A new fleet gets TLS at once, by orbiter.fleet.site")
    module.exit_json(
        changed=False,
        port=ports["port"],
        tls_port=ports["tls-port"],
        tls_replication=within,
        connected=callers(there),
    )


if __name__ == "__main__":
    main()
