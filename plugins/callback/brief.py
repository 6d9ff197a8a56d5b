# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows what a run changes, says and refuses, and not what is as it should be."""

from __future__ import annotations

DOCUMENTATION = r"""
name: brief
type: stdout
short_description: Show what changes, what is said and what fails
version_added: 0.2.0
description:
  - Like P(ansible.builtin.default#callback), but results without a change are left out, so that a run that changes
    nothing fits on a screen. With C(-v) they are shown.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - Set as C(stdout_callback) in C(ansible.cfg), with C(display_skipped_hosts=false).
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
example: |
  # ansible.cfg
  [defaults]
  stdout_callback = orbiter.fleet.brief
  display_skipped_hosts = false
"""

from ansible import constants, context
from ansible.plugins.callback.default import CallbackModule as Default


def data_of(result):
    """Return what a task has answered: ansible-core 2.19 has another name for it."""
    return result.result if hasattr(result, "result") else result._result  # noqa: SLF001 - its only name


class CallbackModule(Default):
    """The callback."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "orbiter.fleet.brief"

    # A play that nothing was said of yet.
    _unnamed = None

    def v2_playbook_on_play_start(self, play):
        """Name a play when its first task begins; one that has nothing to do only to whoever asks for more."""
        self._unnamed = play
        if self._display.verbosity:
            self._name_play()

    def _name_play(self):
        """Name the play, once."""
        play, self._unnamed = self._unnamed, None
        if play is not None:
            super().v2_playbook_on_play_start(play)

    def v2_playbook_on_task_start(self, task, is_conditional):
        """Name the play of a first task."""
        self._name_play()
        super().v2_playbook_on_task_start(task, is_conditional)

    def _speaks(self, result):
        """Tell whether a result changes or says something."""
        data = data_of(result)
        return data.get("changed") or data.get("_ansible_verbose_always") or self._display.verbosity

    def v2_runner_on_ok(self, result):
        """Show a result that changes or says something, and warnings of any."""
        if self._speaks(result):
            super().v2_runner_on_ok(result)
        elif hasattr(self, "_handle_warnings_and_exception"):
            self._handle_warnings_and_exception(result)
        else:
            self._handle_warnings(data_of(result))

    def v2_runner_item_on_ok(self, result):
        """Show an item that changes or says something."""
        if self._speaks(result):
            super().v2_runner_item_on_ok(result)

    def v2_playbook_on_include(self, included_file):
        """Show which tasks are included only to whoever asks for more."""
        if self._display.verbosity:
            super().v2_playbook_on_include(included_file)

    def v2_playbook_on_stats(self, stats):
        """Name the hosts that could not be reached, also in the middle of a task."""
        super().v2_playbook_on_stats(stats)
        if away := sorted(stats.dark):
            self._display.display(
                f"{', '.join(away)} could not be reached: what runs there goes on as it is, and tasks of a worker that"
                " ends are taken over by others. See to it and run this again, or go on without it:"
                f" --limit '{(context.CLIARGS.get('subset') or 'all')}:!{':!'.join(away)}'",
                color=constants.COLOR_UNREACHABLE,
            )

    def v2_playbook_on_no_hosts_matched(self):
        """Show which plays have nothing to do only to whoever asks for more."""
        if self._display.verbosity:
            super().v2_playbook_on_no_hosts_matched()
