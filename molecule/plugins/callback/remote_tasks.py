# Copyright: the Orbiter Fleet authors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Count the tasks that Ansible runs on each host over its connection: what a play's wall time is made of."""

from __future__ import annotations

DOCUMENTATION = """
name: remote_tasks
type: aggregate
short_description: Count the tasks that run on each host
description:
  - At the end, writes the names of the tasks that ran on each host, as JSON, to the file ORBITER_REMOTE_TASKS.
  - Not counted are tasks that were skipped, or ran on the controller because they were delegated or by their kind.
"""

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

# What never leaves the controller.
CONTROLLERS = {"add_host", "assert", "debug", "fail", "group_by", "import_role", "include_role", "include_tasks"}
CONTROLLERS |= {"include_vars", "meta", "pause", "set_fact", "set_stats", "validate_argument_spec"}


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Counts, and writes what it has counted."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "remote_tasks"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.ran: dict[str, list[str]] = defaultdict(list)

    def count(self, result: Any) -> None:
        """Count a task that has ended on a host, well or not."""
        task = result.task
        if task.action.rpartition(".")[2] not in CONTROLLERS and task.delegate_to is None:
            self.ran[result.host.get_name()].append(task.get_name())

    def v2_runner_on_ok(self, result: Any) -> None:
        """Ended well."""
        self.count(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Ended badly."""
        self.count(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Write what was counted."""
        Path(os.environ["ORBITER_REMOTE_TASKS"]).write_text(json.dumps(self.ran))
