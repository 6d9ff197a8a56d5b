"""The caller's side: submit an agent run with ``distributed()``, then follow it through its ``TaskHandle``."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

from pydantic import ValidationError

from orbiter.distributed.broker import CancelOutcome, TaskBroker
from orbiter.distributed.events import EventSubscriber
from orbiter.distributed.models import (
    DEFAULT_QUEUE,
    InvalidPayloadError,
    TaskPayload,
    TaskResult,
    TaskStatus,
    validation_message,
)
from orbiter.distributed.redis_url import connect
from orbiter.distributed.store import TaskStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType

    from redis.asyncio import Redis

    from orbiter.distributed.models import Event

REDIS_URL_VARIABLE = "ORBITER_REDIS_URL"


class Agent(Protocol):
    """Anything that can describe itself as an ``agent_config``."""

    def to_dict(self) -> dict[str, Any]:
        """Return the ``agent_config``."""


async def distributed(
    agent: Agent | Mapping[str, Any],
    input: str,  # noqa: A002 - the name that callers of 0.1 use
    *,
    messages: Sequence[Mapping[str, Any]] | None = None,
    redis_url: str | None = None,
    detailed: bool = False,
    timeout: float = 300.0,  # noqa: ASYNC109 - the limit of the task's run, not of this call
    metadata: Mapping[str, Any] | None = None,
    queue: str = DEFAULT_QUEUE,
    task_id: str | None = None,
) -> TaskHandle:
    """Submit one agent run and return a handle on it.

    Args:
        agent: An agent with ``to_dict()``, or an ``agent_config`` itself.
        input: The user's prompt.
        messages: Earlier turns of the conversation.
        redis_url: Where the queue is; ``ORBITER_REDIS_URL`` unless given.
        detailed: Publish steps, usage and tool results beside text.
        timeout: Limit of one run, seconds.
        metadata: Free for the caller; must be JSON.
        queue: Queue name.
        task_id: Unique name of the task; submitting the same id twice is one task.

    Raises:
        ValueError: No Redis URL, a wrong one, or an argument breaks its rule.
        TypeError: ``agent`` is neither a mapping nor has ``to_dict()``.
    """
    url = redis_url or os.environ.get(REDIS_URL_VARIABLE)
    if not url:
        raise ValueError(f"redis_url is required: pass it or set the {REDIS_URL_VARIABLE} environment variable")
    values: dict[str, Any] = {
        "agent_config": _agent_config(agent),
        "input": input,
        "messages": [dict(message) for message in messages or ()],
        "detailed": detailed,
        "metadata": dict(metadata or {}),
        "created_at": time.time(),
        "timeout_seconds": timeout,
    }
    if task_id is not None:
        values["task_id"] = task_id
    try:
        payload = TaskPayload(**values)
    except ValidationError as error:
        raise InvalidPayloadError(validation_message(error)) from None

    client = connect(url, name="orbiter-client")
    try:
        broker = TaskBroker(url, queue_name=queue, client=client)
        store = TaskStore(url, client=client)
        subscriber = EventSubscriber(url, client=client)
        for part in (broker, store, subscriber):
            await part.connect()
        submitted = await broker.submit(payload)
    except BaseException:
        await client.aclose()
        raise
    return TaskHandle(submitted, broker=broker, store=store, subscriber=subscriber, client=client)


def _agent_config(agent: Agent | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(agent, Mapping):
        return dict(agent)
    to_dict = getattr(agent, "to_dict", None)
    if not callable(to_dict):
        raise TypeError(f"agent must be a dict or have to_dict(), not {type(agent).__name__}")
    return dict(to_dict())


class TaskHandle:
    """One submitted task. Close it with ``aclose()`` or ``async with``; the task itself goes on regardless.

    Attributes:
        task_id: The task's unique name.
    """

    def __init__(
        self,
        task_id: str,
        *,
        broker: TaskBroker,
        store: TaskStore,
        subscriber: EventSubscriber,
        client: Redis | None = None,
    ) -> None:
        self.task_id = task_id
        self._broker = broker
        self._store = store
        self._subscriber = subscriber
        self._client = client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def status(self) -> TaskResult | None:
        """Return what is known of the task, or ``None`` once its record has expired."""
        return await self._store.get_status(self.task_id)

    def stream(self) -> AsyncIterator[Event]:
        """Iterate over the task's events from its first one, live, until the task has ended."""
        return self._subscriber.subscribe(self.task_id)

    async def cancel(self) -> CancelOutcome:
        """Ask for the task's end and tell what became of the request."""
        return await self._broker.cancel(self.task_id)

    async def result(self, *, poll_interval: float = 0.5) -> dict[str, Any]:
        """Wait for the task's end and return its result.

        The end is learnt from the task's events. They may be lost (a restarted Redis, an 0.1 worker that publishes no
        final one), so the record is also read each ``poll_interval`` seconds.

        Raises:
            RuntimeError: The task failed, was cancelled, or its record has expired.
        """
        ended = asyncio.create_task(self._final_event())
        known = False
        try:
            while True:
                task = await self.status()
                if task is None and known:
                    raise RuntimeError(f"Task {self.task_id} is unknown: its record has expired")
                known = task is not None
                if task is not None and task.status.terminal:
                    return self._outcome(task)
                if ended.done():
                    await asyncio.sleep(poll_interval)
                else:
                    await asyncio.wait({ended}, timeout=poll_interval)
        finally:
            ended.cancel()
            # Limited: a cancelled Redis call may never return (redis-py on Python 3.11).
            await asyncio.wait({ended}, timeout=1.0)
            if ended.done() and not ended.cancelled():
                ended.exception()  # read, so that asyncio does not log it: the record has the last word

    async def aclose(self) -> None:
        """Release the connections."""
        if self._client is not None:
            await self._client.aclose()
            return
        for part in (self._subscriber, self._store, self._broker):
            await part.disconnect()

    async def _final_event(self) -> None:
        async for _ in self.stream():
            pass

    def _outcome(self, task: TaskResult) -> dict[str, Any]:
        if task.status is TaskStatus.CANCELLED:
            raise RuntimeError(f"Task {self.task_id} was cancelled")
        if task.status is TaskStatus.FAILED:
            raise RuntimeError(f"Task {self.task_id} failed: {task.error or 'unknown error'}")
        return task.result or {}
