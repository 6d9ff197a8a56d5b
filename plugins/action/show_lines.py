# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows lines on the screen as they are: the action of the module of this name, on the controller."""

from __future__ import annotations

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.orbiter.fleet.plugins.module_utils._command import inert

display = Display()


class ActionModule(ActionBase):
    """The action."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset(("lines", "prefix"))

    def run(self, tmp=None, task_vars=None):
        """Return what the documentation promises."""
        result = super().run(tmp, task_vars)
        lines = self._task.args.get("lines") or []
        prefix = self._task.args.get("prefix") or ""
        if not isinstance(lines, (list, tuple)):
            lines = str(lines).splitlines()
        if lines:
            # At once: other hosts show theirs at the same time.
            display.display("\n".join(inert(f"{prefix}{line}".replace("\t", "    ")) for line in lines))
        result.update(changed=False, shown=len(lines))
        return result
