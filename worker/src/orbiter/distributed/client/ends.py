"""Errors that ``result()`` raises of a task that has no result, each with the task's record."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orbiter.distributed.models import TaskResult


class TaskEndError(RuntimeError):
    """A task has no result. Base of the errors below.

    A ``RuntimeError``, as clients of 0.1 know it, and no ``OrbiterError``: in a tool that waits for another task it is
    the tool's failure, not its own task's.

    Attributes:
        task_id: The task.
        record: What is known of it: status, error, error type, attempts; ``None`` where that has expired.
    """

    def __init__(self, message: str, *, task_id: str = "", record: TaskResult | None = None) -> None:
        super().__init__(message)
        self.task_id = task_id
        self.record = record


class TaskFailedError(TaskEndError):
    """The task failed for good; ``record.error`` and ``record.error_type`` say of what."""


class TaskCancelledError(TaskEndError):
    """The task was cancelled."""


class TaskExpiredError(TaskEndError):
    """Nothing is known of the task: its record has expired, or there never was one."""


class TaskUnreadableError(TaskEndError):
    """The task's record is spoilt; ``record.unreadable`` says what of it."""
