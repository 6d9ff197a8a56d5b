# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds misspelt variables in an inventory: the action of the module of this name, on the controller."""

from __future__ import annotations

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.orbiter.fleet.plugins.plugin_utils._names import compare, known_names, listed

display = Display()


class ActionModule(ActionBase):
    """The action."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset(("ignore",))

    def run(self, tmp=None, task_vars=None):
        """Return what the documentation promises."""
        result = super().run(tmp, task_vars)
        ignore = listed(self._task.args.get("ignore") or [])
        if ignore is None:
            result.update(
                failed=True,
                msg=f"orbiter_ignore_variables is {self._task.args['ignore']} and must be a list of names, such as "
                "[redis_exporter_*], or a text with commas.",
            )
            return result
        hostvars = task_vars["hostvars"]
        # As they stand: nothing is templated, so that a name is found also where its value cannot be had.
        given = {host: list(hostvars.raw_get(host)) for host in task_vars["ansible_play_hosts_all"]}
        misspelt, unknown = compare(given, known_names(), ignore)
        result.update(changed=False, misspelt=misspelt, unknown=unknown)
        if unknown:
            display.warning(
                f"The inventory has variables that orbiter.fleet does not know: {', '.join(unknown)}. Where they are "
                "your own, name them in orbiter_ignore_variables (with * for any letters)."
            )
        if misspelt:
            said = "; ".join(
                f"{name} (of {of_hosts(one['hosts'])}): did you mean {' or '.join(one['meant'])}?"
                for name, one in misspelt.items()
            )
            result.update(
                failed=True,
                msg=f"The inventory has variables that nothing reads: {said} Correct them, or, where they are your "
                f"own, name them in orbiter_ignore_variables: {sorted(misspelt)}.",
            )
        return result


def of_hosts(hosts):
    """Return the names of up to three hosts as text, and how many more there are."""
    return ", ".join(hosts[:3]) + (f" and {len(hosts) - 3} more" if len(hosts) > 3 else "")
