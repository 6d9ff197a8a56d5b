# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file of Redis' users that lets in by what is new, and by what was before."""

from __future__ import annotations

DOCUMENTATION = r"""
name: redis_users_beside
short_description: A file of Redis' users that lets in by what is new, and by what was before
version_added: 0.2.0
description:
  - Adds to the users that are wanted what they may log in with now, and who is to be removed or turned off. It is what
    M(orbiter.fleet.redis_settings) makes of a running server with O(orbiter.fleet.redis_settings#module:beside).
options:
  _input:
    description: The users that are wanted, as lines of a file of users, with passwords as SHA-256.
    type: str
    required: true
  there:
    description: The lines of the file as it is, or nothing.
    type: str
    required: true
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Write the users beside those that there are
  ansible.builtin.copy:
    content: "{{ wanted | orbiter.fleet.redis_users_beside(file.content | b64decode) }}"
    dest: /etc/redis/users.acl
    mode: "0640"
"""

RETURN = r"""
_value:
  description: The lines of the file.
  type: str
"""


def by_name(text):
    """Return the lines of a file of users, each by its user."""
    lines = (line.strip() for line in text.splitlines())
    return {line.split()[1]: line for line in lines if line.startswith("user ")}


def redis_users_beside(wanted, there):
    """Return what the documentation promises."""
    new, old = by_name(wanted), by_name(there)
    for name, line in new.items():
        words, was = line.split()[2:], old.get(name, "").split()[2:]
        if "off" in words and "on" in was:
            new[name] = old[name]
        elif "off" not in words:
            new[name] = " ".join([line, *(word for word in was if word.startswith("#") and word not in words)])
    return "".join(f"{line}\n" for line in (old | new).values())


class FilterModule:
    """The filter."""

    def filters(self):
        """Return it by its name."""
        return {"redis_users_beside": redis_users_beside}
