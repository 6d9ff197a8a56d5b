# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the hooks before a deploy, and notes those of its end: the action of the module of this name."""

from __future__ import annotations

from ansible import context
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.orbiter.fleet.plugins.module_utils._deployer import describe, main_pid
from ansible_collections.orbiter.fleet.plugins.plugin_utils import _hooks

display = Display()
UNHEARD = (
    "orbiter_hooks_after_deploy or orbiter_hooks_after_failure is set, and nothing would run them at the end. Write "
    "callbacks_enabled = orbiter.fleet.hooks into the section [defaults] of your ansible.cfg."
)


class ActionModule(ActionBase):
    """The action."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset(("state", "before_deploy", "after_deploy", "after_failure", "timeout", "hosts", "release"))

    def run(self, tmp=None, task_vars=None):
        """Return what the documentation promises."""
        result = super().run(tmp, task_vars)
        args, check = self._task.args, self._task.check_mode
        result.update(changed=False, ran=0)
        try:
            if args.get("state", "began") == "known":
                if not check and _hooks.noted_in() is not None:
                    _hooks.note({"release": args.get("release") or ""})
                return result
            before, after, seconds = self._wanted(args)
        except ValueError as error:
            return result | {"failed": True, "msg": str(error)}
        if any(after.values()) and _hooks.noted_in() is None:
            return result | {"failed": True, "msg": UNHEARD}
        if check:
            return result
        environment = self._environment(args)
        if any(after.values()):
            _hooks.note({"after": after, "seconds": seconds, "environment": environment})
        for number, command in enumerate(before, 1):
            named = _hooks.called("before_deploy", number, command)
            wrong, said = _hooks.run(command, environment | {"ORBITER_HOOK": "before_deploy"}, seconds)
            if said:
                display.display("\n".join([f"{named}:", *(f"  {line}" for line in said)]))
            if wrong:
                reason = f"{named} {wrong}. Nothing was changed. See to what it says, or take it off the list."
                return result | {"failed": True, "msg": reason}
            result["ran"] = number
        return result

    def _wanted(self, args):
        """Return the commands before, those after, and how long each may take."""
        before = _hooks.commands("orbiter_hooks_before_deploy", args.get("before_deploy") or [])
        after = {name: _hooks.commands(f"orbiter_hooks_{name}", args.get(name) or []) for name in _hooks.AFTER}
        given = args.get("timeout", 60)
        try:
            seconds = int(given)
        except (TypeError, ValueError):
            seconds = 0
        if seconds < 1:
            raise ValueError(f"orbiter_hooks_timeout is {given!r}; it must be a whole number of seconds, 1 or more")
        return before, after, seconds

    def _environment(self, args):
        """Return what the environment of hooks says of the run."""
        run = describe(main_pid(), context.CLIARGS.get("args", ()))
        return {
            "ORBITER_PLAYBOOK": run["playbook"],
            "ORBITER_USER": run["user"],
            "ORBITER_CONTROLLER": run["controller"],
            "ORBITER_HOSTS": ",".join(args.get("hosts") or []),
            "ORBITER_RELEASE": str(args.get("release") or ""),
            "ORBITER_OUTCOME": "began",
            "ORBITER_FAILED_HOSTS": "",
        }
