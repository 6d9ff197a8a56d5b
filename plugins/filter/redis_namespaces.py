# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The users of Redis that further namespaces get."""

from __future__ import annotations

import json
import re

DOCUMENTATION = r"""
name: redis_namespaces
short_description: The users of Redis that further namespaces get
version_added: 0.1.0
description:
  - Makes users of C(redis_namespaces) of the role P(orbiter.fleet.redis#role), and tells what breaks a rule.
options:
  _input:
    description: The namespaces, each with its C(name), and with C(queues) and C(clients) if not one of each.
    type: list
    elements: dict
    required: true
  own:
    description: The namespace of the fleet itself, which is none of them.
    type: str
    default: orbiter
  queues:
    description: The queues of the fleet itself, none of which is in one of them.
    type: list
    elements: str
    default: []
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Show the users of a namespace
  ansible.builtin.debug:
    msg: "{{ ([{'name': 'acme', 'clients': ['app']}] | orbiter.fleet.redis_namespaces)['users'] | list }}"
"""

RETURN = r"""
_value:
  description: The C(users), each with C(rights), C(namespace) and C(queues), and the C(faults), a sentence each.
  type: dict
"""

# As workers and clients have it (orbiter.distributed.names).
NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}|\{[A-Za-z0-9_.-]{1,64}\}")
QUEUE = re.compile(r"[A-Za-z0-9_.:@-]{1,128}")
RESERVED = re.compile(r"fleet|deploys?|audit|(task|stream|workers):.*")
CLIENT = re.compile(r"[A-Za-z0-9_.-]+")
PURPOSES = ("worker", "monitor")


def bare(namespace):
    """Return a namespace without braces: they make no other name."""
    return namespace.strip("{}")


def users_of(namespace, queues, clients):
    """Return the users of one namespace by name."""
    purposes = dict.fromkeys(clients, "client") | {purpose: purpose for purpose in PURPOSES}
    return {
        f"{bare(namespace)}-{purpose}": {"rights": rights, "namespace": namespace, "queues": queues}
        for purpose, rights in purposes.items()
    }


def names(value, rule):
    """Tell whether a value is a list of names that follow a rule, each there once."""
    fit = isinstance(value, list) and all(isinstance(name, str) and rule.fullmatch(name) for name in value)
    return fit and len(set(value)) == len(value)


def fault(namespace, queues, clients):
    """Return what is wrong with one namespace by itself, or nothing."""
    if not isinstance(namespace, str) or not NAMESPACE.fullmatch(namespace):
        return (
            f"{namespace} is no name of a namespace: 1 to 64 letters (a to z, A to Z), digits, or any of _ . -; it "
            "may be in braces"
        )
    inside = [str(queue).removeprefix(f"{namespace}:") for queue in queues] if isinstance(queues, list) else queues
    if not inside or not names(inside, QUEUE) or any(RESERVED.fullmatch(queue) for queue in inside):
        return (
            f"the queues of {namespace} are {json.dumps(queues)} and must be a list of names, each 1 to 128 letters, "
            "digits, or any of _ . : @ -, and none that is fleet, deploy, or begins with task:, stream: or workers:"
        )
    if not names(clients, CLIENT) or set(PURPOSES) & set(clients):
        return (
            f"the clients of {namespace} are {json.dumps(clients)} and must be a list of names of letters, digits, "
            "or any of _ . -, each once, and none that is worker or monitor, who are there anyway"
        )
    return ""


def redis_namespaces(namespaces, own="orbiter", queues=()):
    """Return what the documentation promises."""
    if isinstance(namespaces, str):
        return {"users": {}, "faults": [f"{namespaces} is text, and must be a list, such as [{{name: acme}}]"]}
    users, faults, taken = {}, [], {bare(own)}
    for one in namespaces:
        namespace = one["name"]
        asked = one.get("queues", [f"{namespace}:tasks"]), one.get("clients", ["client"])
        wrong = fault(namespace, *asked)
        made = {} if wrong else users_of(namespace, *asked)
        if not wrong and bare(namespace) in taken:
            wrong = (
                f"{namespace} is there twice, or is the fleet itself (orbiter_namespace), whose users are worker, "
                "client and monitor; braces make no other name"
            )
        elif users.keys() & made.keys():
            both = ", ".join(sorted(users.keys() & made.keys()))
            wrong = f"users of {namespace} would be called as those of another namespace: {both}"
        elif not wrong and any(queue.partition(":")[0] == bare(namespace) for queue in queues):
            wrong = f"redis_queues has a queue that would be in {namespace}: name it in queues of that namespace"
        if wrong:
            faults.append(wrong)
        else:
            users.update(made)
            taken.add(bare(namespace))
    return {"users": users, "faults": faults}


class FilterModule:
    """The filter."""

    def filters(self):
        """Return it by its name."""
        return {"redis_namespaces": redis_namespaces}
