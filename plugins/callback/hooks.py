# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the hooks at the end of a deploy, whichever way it ends."""

from __future__ import annotations

DOCUMENTATION = r"""
name: hooks
type: notification
short_description: Run the hooks at the end of a deploy
version_added: 0.2.0
description:
  - Runs the commands of C(orbiter_hooks_after_deploy) at the end of C(site), C(rolling_update) or C(rollback), or those
    of C(orbiter_hooks_after_failure) where a host has failed or could not be reached.
  - They learn about the run from C(ORBITER_*) of their environment. One that fails is a warning.
requirements:
  - C(callbacks_enabled=orbiter.fleet.hooks) in C(ansible.cfg).
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
example: |
  # ansible.cfg
  [defaults]
  callbacks_enabled = orbiter.fleet.hooks

  # group_vars/all/main.yml
  orbiter_hooks_after_failure:
    - ./tell.sh "$ORBITER_PLAYBOOK failed on $ORBITER_FAILED_HOSTS"
"""

from ansible.plugins.callback import CallbackBase
from ansible_collections.orbiter.fleet.plugins.plugin_utils import _hooks


class CallbackModule(CallbackBase):
    """The callback."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "orbiter.fleet.hooks"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._notes = _hooks.Notes()

    def v2_playbook_on_stats(self, stats):
        """Run what was noted."""
        found = self._notes.read()
        if "after" not in found:
            return
        failed = sorted({*stats.failures, *stats.dark})
        hook = "after_failure" if failed else "after_deploy"
        environment = found["environment"] | {
            "ORBITER_HOOK": hook,
            "ORBITER_OUTCOME": "failed" if failed else "ended",
            "ORBITER_FAILED_HOSTS": ",".join(failed),
        }
        if found.get("release"):
            environment["ORBITER_RELEASE"] = found["release"]
        for number, command in enumerate(found["after"][hook], 1):
            wrong, said = _hooks.run(command, environment, found["seconds"])
            named = _hooks.called(hook, number, command)
            if said:
                self._display.display("\n".join([f"{named}:", *(f"  {line}" for line in said)]))
            if wrong:
                self._display.warning(f"{named} {wrong}.")
