# Copyright: the Orbiter Fleet authors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Count what a play's wall time is made of: exchanges with each host, and results, which cost the controller time."""

from __future__ import annotations

DOCUMENTATION = """
name: remote_tasks
type: aggregate
short_description: Count the tasks that run on each host
description:
  - At the end, writes the names of tasks as JSON to the file ORBITER_REMOTE_TASKS.
  - C(remote) has for each host those that ran there; not those that were skipped, or ran on the controller because they
    were delegated or by their kind. C(results) has all that ended for the host, also those that were skipped.
"""

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

# What never leaves the controller.
CONTROLLERS = {"add_host", "assert", "debug", "fail", "group_by", "import_role", "include_role", "include_tasks"}
CONTROLLERS |= {"include_vars", "meta", "pause", "preflight", "set_fact", "set_stats", "validate_argument_spec"}


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Counts, and writes what it has counted."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "remote_tasks"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.ran: dict[str, list[str]] = defaultdict(list)
        self.ended: dict[str, list[str]] = defaultdict(list)

    def count(self, result: Any) -> None:
        """Count a task that has ended on a host, well or not."""
        task = result.task
        self.ended[result.host.get_name()].append(task.get_name())
        if task.action.rpartition(".")[2] not in CONTROLLERS and task.delegate_to is None:
            self.ran[result.host.get_name()].append(task.get_name())

    def v2_runner_on_ok(self, result: Any) -> None:
        """Ended well."""
        self.count(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Ended badly."""
        self.count(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Not run there."""
        self.ended[result.host.get_name()].append(result.task.get_name())

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Write what was counted."""
        Path(os.environ["ORBITER_REMOTE_TASKS"]).write_text(json.dumps({"remote": self.ran, "results": self.ended}))
