# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A password that is derived from another one."""

from __future__ import annotations

DOCUMENTATION = r"""
name: derived_password
short_description: A password that is derived from another one
version_added: 0.1.0
description:
  - Gives each purpose a password of its own, from one secret that the inventory has. It is the same on every controller
    and for every host, is kept nowhere, and changes with the secret.
  - Who has such a password does not have the secret, and guesses at it slowly (PBKDF2).
options:
  _terms:
    description: Purposes, in any words.
    required: true
  secret:
    description: The secret that they are derived from.
    type: str
    required: true
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Use the password of the workers' user, where the inventory gives that none
  ansible.builtin.command:
    cmd: redis-cli --user worker ping
  environment:
    REDISCLI_AUTH: "{{ lookup('orbiter.fleet.derived_password', 'redis user worker', secret=orbiter_redis_password) }}"
"""

RETURN = r"""
_raw:
  description: A password of 48 hexadecimal digits for each purpose.
  type: list
  elements: str
"""

from functools import lru_cache
from hashlib import pbkdf2_hmac

from ansible.plugins.lookup import LookupBase

ROUNDS = 200_000  # a twentieth of a second


@lru_cache
def derive(purpose, secret):
    """Return the password for a purpose."""
    return pbkdf2_hmac("sha256", secret.encode(), purpose.encode(), ROUNDS, 24).hex()


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms, variables=None, **kwargs):
        """Return what the documentation promises."""
        self.set_options(var_options=variables, direct=kwargs)
        return [derive(str(term), str(self.get_option("secret"))) for term in terms]
