# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who deploys."""

from __future__ import annotations

DOCUMENTATION = r"""
name: deployer
short_description: Who deploys, for the deploy lock
version_added: 0.1.0
description:
  - Describes this run of C(ansible-playbook), as the role P(orbiter.fleet.lock#role) writes it into the deploy lock.
  - Given the record of another run, tells whether that has ended, as far as this machine can know.
options:
  _terms:
    description: Records of other runs.
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Say who deploys
  ansible.builtin.debug:
    msg: "{{ lookup('orbiter.fleet.deployer') }}"

- name: Say whether another run is over
  ansible.builtin.debug:
    msg: "{{ lookup('orbiter.fleet.deployer', holder) }}"
  vars:
    holder: {machine: 0123456789abcdef, pid: 4711, born: "123456"}
"""

RETURN = r"""
_raw:
  description:
    - Without terms one dictionary with C(user), C(controller), C(pid), C(playbook), and what the lock needs besides.
    - With terms a boolean for each of them, true if it was a run on this machine and is over.
  type: list
"""

from ansible import context
from ansible.plugins.lookup import LookupBase
from ansible_collections.orbiter.fleet.plugins.module_utils._deployer import describe, has_ended, main_pid


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms, variables=None, **kwargs):
        """Return what the documentation promises."""
        self.set_options(var_options=variables, direct=kwargs)
        if terms:
            return [has_ended(term) for term in terms]
        return [describe(main_pid(), context.CLIARGS.get("args", ()))]
