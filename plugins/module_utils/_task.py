# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One task, from its submission to its end; and the one that a gate tries."""

from __future__ import annotations

import json
import uuid

from ansible_collections.orbiter.fleet.plugins.module_utils._command import CommandError, TooLongError, inert

ENDED = ("completed", "failed", "cancelled")
STAYS = " It stays in the queue."
ANSWER = 20  # seconds that a cancellation may take


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
    return inert(f"Task {task_id} has not ended within {wait_timeout} s: it is {status}, and {reason}.{STAYS}")


def try_out(command, task, timeout):
    """Have the gate's task run by the host's queue, once.

    Args:
        command: The host's command.
        task: The agent, and what else the module `task` takes.
        timeout: Seconds that it may take.

    Returns:
        Its record, and what is wrong, or nothing. What has not ended is cancelled: it does not stay in the queue.
    """
    task_id, record = f"gate-{uuid.uuid4().hex[:12]}", None
    limits = {"run_timeout": timeout, "max_retries": 0, "metadata": task.get("metadata"), "input": ""}
    try:
        record = submit(command, limits | task, task_id, timeout)
        wrong = complaint(command, record, timeout)
        if wrong and record["status"] not in ENDED:
            command.ask("task", "cancel", "--json", "--", task_id, within=ANSWER)
    except (CommandError, TooLongError) as error:
        wrong = f"worker_gate_task: {error}"
    return record, wrong.removesuffix(STAYS)
