# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds misspelt variables in an inventory: the action of the module of this name, on the controller."""

from __future__ import annotations

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.orbiter.fleet.plugins.plugin_utils._names import look

display = Display()


class ActionModule(ActionBase):
    """The action."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset(("ignore",))

    def run(self, tmp=None, task_vars=None):
        """Return what the documentation promises."""
        result = super().run(tmp, task_vars)
        hosts = task_vars["ansible_play_hosts_all"]
        found = look(task_vars["hostvars"], hosts, self._task.args.get("ignore") or [])
        if found.warning:
            display.warning(found.warning)
        result.update(changed=False, misspelt=found.misspelt, unknown=found.unknown)
        if found.error:
            result.update(failed=True, msg=found.error)
        return result
