"""TaskHandle: one task, as a client sees it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, Self

from orbiter.distributed.client.ends import (
    TaskCancelledError,
    TaskExpiredError,
    TaskFailedError,
    TaskUnreadableError,
)
from orbiter.distributed.connection.patience import patiently
from orbiter.distributed.models import TaskResult, TaskStatus
from orbiter.distributed.names import check_entry_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from orbiter.distributed.broker.records import CancelOutcome
    from orbiter.distributed.models import Event


def still_running(task_id: str, timeout: float) -> str:
    """Say that a task was not waited for any longer."""
    return f"Task {task_id} had not ended after {timeout:g} s and goes on; ask again, or cancel() it"


class Follower(Protocol):
    """Whoever a handle asks: its client."""

    async def status(self, task_id: str) -> TaskResult | None:
        """Return what is known of a task."""

    def stream(self, task_id: str, *, after: str | None = None) -> AsyncIterator[Event]:
        """Iterate over a task's events."""

    async def cancel(self, task_id: str) -> CancelOutcome:
        """Ask for a task's end."""


class TaskHandle:
    """One task. It holds no connection: its client does.

    Attributes:
        task_id: The task's unique name.
    """

    __slots__ = ("_client", "task_id")

    def __init__(self, task_id: str, client: Follower) -> None:
        self.task_id = task_id
        self._client = client

    def __repr__(self) -> str:
        return f"TaskHandle({self.task_id!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def status(self) -> TaskResult | None:
        """Return what is known of the task, or ``None`` once its record has expired."""
        return await self._client.status(self.task_id)

    def stream(self, *, after: str | None = None) -> AsyncIterator[Event]:
        """Iterate over the task's events, live, until the task has ended.

        Args:
            after: The ``entry_id`` of an event, to go on behind it; from the first one otherwise.

        Raises:
            InvalidNameError: ``after`` is no such id.
            RedisError: Redis has been away for a minute, or refused in a way that no waiting mends.
        """
        if after is not None:
            check_entry_id(after)
        return self._client.stream(self.task_id, after=after)

    async def cancel(self) -> CancelOutcome:
        """Ask for the task's end and tell what became of the request."""
        return await self._client.cancel(self.task_id)

    async def result(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as of SyncTaskHandle.result()
        *,
        poll_interval: float = 0.5,
    ) -> dict[str, Any]:
        """Wait for the task's end and return its result.

        The end is learnt from the task's final event. Where its record does not say so too (an 0.1 worker can be early
        with that event), the record is read each ``poll_interval`` seconds.

        Raises:
            TimeoutError: It had not ended after ``timeout`` seconds; it goes on, and one may ask again.
            TaskFailedError: The task failed; the error has its record.
            TaskCancelledError: It was cancelled.
            TaskExpiredError: Its record has expired.
            TaskUnreadableError: Its record is spoilt.
            RedisError: Redis has been away for a minute, or refused in a way that no waiting mends.
        """
        try:
            async with asyncio.timeout(timeout) as limit:
                return await self._result(poll_interval)
        except TimeoutError:
            if timeout is None or not limit.expired():
                raise
            raise TimeoutError(still_running(self.task_id, timeout)) from None

    async def _result(self, poll_interval: float) -> dict[str, Any]:
        async for _ in self.stream():
            pass
        while True:
            task = await patiently(self.status)
            if task is None:
                raise TaskExpiredError(
                    f"Task {self.task_id} is unknown: its record has expired, or no such task was submitted here",
                    task_id=self.task_id,
                )
            if task.status.lasting:
                return self._outcome(task)
            await asyncio.sleep(poll_interval)

    async def aclose(self) -> None:
        """Say that the handle is not needed any more. Its client stays open, and the task goes on regardless."""

    def _outcome(self, task: TaskResult) -> dict[str, Any]:
        known: dict[str, Any] = {"task_id": self.task_id, "record": task}
        if task.status is TaskStatus.UNREADABLE:
            raise TaskUnreadableError(f"Task {self.task_id} cannot be read: {task.unreadable}", **known)
        if task.status is TaskStatus.CANCELLED:
            raise TaskCancelledError(f"Task {self.task_id} was cancelled", **known)
        if task.status is TaskStatus.FAILED:
            raise TaskFailedError(f"Task {self.task_id} failed: {task.error or 'unknown error'}", **known)
        return task.result or {}
