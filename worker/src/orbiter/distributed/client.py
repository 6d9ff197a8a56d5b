"""The caller's side: submit an agent run with ``distributed()``, then follow it through its ``TaskHandle``."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, Self

from pydantic import ValidationError

from orbiter.distributed.broker_cluster import broker_for
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
from orbiter.distributed.tracing import submitting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType

    from redis.asyncio import Redis

    from orbiter.distributed.broker import TaskBroker
    from orbiter.distributed.claims import CancelOutcome
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
    not_before: float | datetime | None = None,
    max_retries: int | None = None,
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
        not_before: When it may run at the earliest: epoch seconds, or a datetime with a time zone.
        max_retries: Runs repeated after an error; the worker's own limit unless given.

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
        "not_before": _epoch_seconds(not_before),
        "max_retries": max_retries,
    }
    if task_id is not None:
        values["task_id"] = task_id
    try:
        payload = TaskPayload(**values)
    except ValidationError as error:
        raise InvalidPayloadError(validation_message(error)) from None

    client = connect(url, name="orbiter-client")
    try:
        broker = broker_for(url, queue_name=queue, client=client)
        store = TaskStore(url, client=client)
        subscriber = EventSubscriber(url, client=client)
        for part in (broker, store, subscriber):
            await part.connect()
        with submitting(payload, queue) as linked:
            submitted = await broker.submit(linked)
    except BaseException:
        await client.aclose()
        raise
    return TaskHandle(submitted, broker=broker, store=store, subscriber=subscriber, client=client)


def _epoch_seconds(moment: float | datetime | None) -> float | None:
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        raise ValueError(f"not_before: {moment!r} has no time zone; write datetime.now(UTC) + timedelta(...)")
    return moment.timestamp()


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

    def stream(self, *, after: str | None = None) -> AsyncIterator[Event]:
        """Iterate over the task's events, live, until the task has ended.

        Args:
            after: The ``entry_id`` of an event, to go on behind it; from the first one otherwise.
        """
        return self._subscriber.subscribe(self.task_id, after=after)

    async def cancel(self) -> CancelOutcome:
        """Ask for the task's end and tell what became of the request."""
        return await self._broker.cancel(self.task_id)

    async def result(self, *, poll_interval: float = 0.5) -> dict[str, Any]:
        """Wait for the task's end and return its result.

        The end is learnt from the task's final event. Where its record does not say so too (an 0.1 worker can be early
        with that event), the record is read each ``poll_interval`` seconds.

        Raises:
            RuntimeError: The task failed, was cancelled, or its record has expired.
        """
        async for _ in self.stream():
            pass
        while True:
            task = await self.status()
            if task is None:
                raise RuntimeError(f"Task {self.task_id} is unknown: its record has expired")
            if task.status.terminal:
                return self._outcome(task)
            await asyncio.sleep(poll_interval)

    async def aclose(self) -> None:
        """Release the connections."""
        if self._client is not None:
            await self._client.aclose()
            return
        for part in (self._subscriber, self._store, self._broker):
            await part.disconnect()

    def _outcome(self, task: TaskResult) -> dict[str, Any]:
        if task.status is TaskStatus.CANCELLED:
            raise RuntimeError(f"Task {self.task_id} was cancelled")
        if task.status is TaskStatus.FAILED:
            raise RuntimeError(f"Task {self.task_id} failed: {task.error or 'unknown error'}")
        return task.result or {}
