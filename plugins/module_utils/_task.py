# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One task, from its submission to its end."""

from __future__ import annotations

import json

from ansible_collections.orbiter.fleet.plugins.module_utils._command import CommandError, TooLongError, inert

ENDED = ("completed", "failed", "cancelled")


def find_task(command, task_id):
    """Return what is known of a task, or None."""
    try:
        return command.ask("task", "status", "--json", "--", task_id)
    except CommandError as error:
        if str(error).startswith("Task not found"):
            return None
        raise


def submit(command, params, task_id, wait_timeout=None):
    """Submit a task; the same id twice is one task.

    Returns:
        Its record: at its end, if somebody waits for it and it ends in time, else as it is then.
    """
    words = ["task", "submit", "--json", "--agent", "-", "--task-id", task_id, *command.queue_words()]
    if params["run_timeout"] is not None:
        words += ["--timeout", str(params["run_timeout"])]
    if params["max_retries"] is not None:
        words += ["--max-retries", str(params["max_retries"])]
    for key, value in sorted((params["metadata"] or {}).items()):
        words += ["--metadata", f"{key}={json.dumps(value)}"]
    text = ["--", params["input"]]
    agent = json.dumps(params["agent"])
    if wait_timeout is None:
        command.ask(*words, *text, given=agent)
    else:
        try:
            task = command.ask(*words, "--wait", *text, given=agent, within=wait_timeout)
            if task.get("submitted") is False:
                task = command.ask(*words, "--exist-ok", "--wait", *text, given=agent, within=wait_timeout)
            return task
        except TooLongError:
            pass
    return find_task(command, task_id) or {"task_id": task_id, "status": "unknown"}


def complaint(command, task, wait_timeout):
    """Return what is wrong with a task that somebody waited for; nothing, if it completed."""
    task_id, status = task["task_id"], task["status"]
    if status == "completed":
        return ""
    if status == "failed":
        return inert(f"Task {task_id} failed in its attempt {task['attempt']}: {task['error']}")
    if status == "cancelled":
        return inert(f"Task {task_id} was cancelled.")
    queue = command.ask("queue", "info", "--json", *command.queue_words())
    if queue["workers"]:
        reason = (
            f"{queue['busy']} of {queue['slots']} slots of queue {queue['queue']} are busy, "
            f"and {queue['waiting']} tasks wait"
        )
    else:
        reason = f"no live worker reads queue {queue['queue']}"
    return inert(
        f"Task {task_id} has not ended within {wait_timeout} s: it is {status}, and {reason}. It stays in the queue."
    )
