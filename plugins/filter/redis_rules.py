# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rights of a user of Redis, as rules of an ACL."""

from __future__ import annotations

DOCUMENTATION = r"""
name: redis_rules
short_description: The rights of a user of Redis, as rules of an ACL
version_added: 0.1.0
description:
  - Writes rights, as C(roles/redis/files/rights.yml) has them, as the rules that C(ACL SETUSER) and an ACL file take.
options:
  _input:
    description: The rights of one user.
    type: dict
    required: true
  queues:
    description: The queues that they are for; another namespace becomes their first word where it is missing.
    type: list
    elements: str
    default: ["orbiter:tasks"]
  namespace:
    description: The first word of all keys and channels.
    type: str
    default: orbiter
  scripts:
    description: SHA-1 hashes of the scripts that a client may run.
    type: list
    elements: str
    default: []
  cluster:
    description: Whether they are for a Redis Cluster.
    type: bool
    default: false
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Show what a client may do
  ansible.builtin.debug:
    msg: "{{ (lookup('ansible.builtin.file', 'rights.yml') | from_yaml).rights.client | orbiter.fleet.redis_rules }}"
"""

RETURN = r"""
_value:
  description: The rules, as one line.
  type: str
"""

DEFAULT = "orbiter"
# They begin as records do, and are none.
LISTS = ("by_time", "ended", "index")


def all_but(prefix, names):
    """Return glob patterns that together match what begins with the prefix, but for the names behind it.

    No two of the names begin with the same letter.
    """
    found = [f"{prefix}[^{''.join(name[0] for name in names)}]*"]
    for name in names:
        for at in range(1, len(name)):
            found += [f"{prefix}{name[:at]}[^{name[at]}]*", f"{prefix}{name[:at]}"]
        found.append(f"{prefix}{name}?*")
    return found


def whole(namespace, queue):
    """Return the name of a queue with its namespace, as workers and clients complete it."""
    if namespace == DEFAULT or queue.startswith(f"{namespace}:"):
        return queue
    return f"{namespace}:{'tasks' if queue == f'{DEFAULT}:tasks' else queue}"


def in_namespace(namespace, name):
    """Return a key or channel of the default namespace as it is called in another one."""
    return namespace + name.removeprefix(DEFAULT)


def beside(queue, key):
    """Return the pattern of what stands beside a queue, C({QUEUE}:…); a namespace in braces makes the slot itself."""
    if queue.startswith("{"):
        namespace, _colon, name = queue.partition(":")
        return f"{namespace}:{key.replace('QUEUE', name)}"
    return key.replace("QUEUE", queue)


def patterns(keys, queues, namespace):
    """Return the patterns of keys that a row of rights names."""
    found = []
    for key in keys.split():
        if key == "RECORD":
            found += all_but(f"{namespace}:task:", LISTS)
        elif key == "QUEUE":
            found += queues
        elif "QUEUE" in key:
            found += [beside(queue, key) for queue in queues]
        else:
            found.append(in_namespace(namespace, key))
    return found


def redis_rules(rights, queues=("orbiter:tasks",), scripts=(), cluster=False, namespace=DEFAULT):
    """Return what the documentation promises."""
    queues = [whole(namespace, queue) for queue in queues]
    channels = [f"&{in_namespace(namespace, channel)}" for channel in rights["channels"].split()]

    def allowed(row):
        words = [f"+evalsha|{sha}" for sha in scripts] if row["commands"] == "SCRIPTS" else row["commands"].split()
        return [word if word[0] == "+" else f"+{word}" for word in words]

    def wanted(rows):
        return [row for row in rows if cluster or not row.get("cluster", False)]

    rules = ["-@all", "resetchannels", *channels]
    for row in wanted(rights["anywhere"]):
        rules += allowed(row)
    for row in wanted(rights["rows"]):
        mark = "%R~" if row.get("read", False) else "~"
        words = [mark + pattern for pattern in patterns(row["keys"], queues, namespace)] + allowed(row)
        if len(words) > len(allowed(row)) and allowed(row):
            rules.append(f"({' '.join(words)})")
    return " ".join(rules)


class FilterModule:
    """The filter."""

    def filters(self):
        """Return it by its name."""
        return {"redis_rules": redis_rules}
