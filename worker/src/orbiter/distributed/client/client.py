"""Client: submits tasks to one queue and follows them, on two connections however many tasks there are."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from orbiter.distributed.broker.cluster_broker import broker_for
from orbiter.distributed.broker.events import EventSubscriber
from orbiter.distributed.broker.store import TaskStore
from orbiter.distributed.client.batches import Batches
from orbiter.distributed.client.payloads import another, check_many, describe, epoch_seconds
from orbiter.distributed.client.task import TaskHandle
from orbiter.distributed.client.using import CLOSED, Using
from orbiter.distributed.connection.connected import redis_time
from orbiter.distributed.connection.redis_url import connect_shared
from orbiter.distributed.connection.subscriptions import Subscriptions
from orbiter.distributed.limits import variable
from orbiter.distributed.models import DEFAULT_QUEUE, TaskPayload, TaskResult
from orbiter.distributed.names import (
    DEFAULT_NAMESPACE,
    check_entry_id,
    check_namespace,
    check_queue_name,
    check_task_id,
)
from orbiter.distributed.telemetry import tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from types import TracebackType

    from orbiter.distributed.broker.records import CancelOutcome
    from orbiter.distributed.client.payloads import Agent
from orbiter.distributed.models import Event

REDIS_URL_VARIABLE = variable("redis_url")
NAMESPACE_VARIABLE = variable("namespace")
NAME = "orbiter-client"


class Client:
    """Submits tasks to one queue and follows them. Close it with ``aclose()`` or ``async with``.

    It has one connection for all commands, and one more for news of tasks once somebody waits for them; in a cluster,
    one to each node that it talks to, and one more to one of them. Both are opened when they are needed and kept until
    the client is closed. It belongs to the event loop in which it is first used, and to its process.

    Args:
        redis_url: Where the queue is; ``ORBITER_REDIS_URL`` unless given.
        queue: Queue name.
        namespace: First word of all keys in Redis; ``ORBITER_NAMESPACE`` unless given, or else ``orbiter``.
        name: What ``CLIENT LIST`` calls the connections.
        retries: How often a command is sent again after a lost connection.
        idle_after: Seconds without a call after which the connections are closed, until the next one. They stay open
            unless it is given.

    Raises:
        ValueError: No Redis URL, or a wrong one.
        InvalidNameError: No worker can read a queue of this name, or no namespace can have that one.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        queue: str = DEFAULT_QUEUE,
        namespace: str | None = None,
        name: str = NAME,
        retries: int = 3,
        idle_after: float | None = None,
    ) -> None:
        self.namespace = namespace_or_variable(namespace)
        self.queue = check_queue_name(queue, self.namespace)
        self.redis_url = url_or_variable(redis_url)
        # Asks Redis whatever this class has no method for; shared with the parts below.
        self.redis = connect_shared(self.redis_url, name=name, retries=retries)
        self.subscriptions = Subscriptions(self.redis, keep=True)
        self.broker = broker_for(self.redis_url, queue_name=self.queue, namespace=self.namespace, client=self.redis)
        self.store = TaskStore(self.redis_url, namespace=self.namespace, client=self.redis)
        self.events = EventSubscriber(
            self.redis_url, namespace=self.namespace, client=self.redis, subscriptions=self.subscriptions
        )
        self.using = Using(idle_after, self._disconnect)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # -- submitting ------------------------------------------------------------------------------------------------

    async def submit(
        self,
        agent: Agent | Mapping[str, Any],
        input: str,  # noqa: A002 - the name that callers of 0.1 use
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        detailed: bool = False,
        timeout: float = 300.0,  # noqa: ASYNC109 - the limit of the task's run, not of this call
        metadata: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        not_before: float | datetime | timedelta | None = None,
        max_retries: int | None = None,
    ) -> TaskHandle:
        """Submit one agent run and return a handle on it.

        Args:
            agent: An agent with ``to_dict()``, or an ``agent_config`` itself.
            input: The user's prompt.
            messages: Earlier turns of the conversation.
            detailed: Publish steps, usage and tool results beside text.
            timeout: Limit of one run, seconds.
            metadata: Free for the caller; must be JSON.
            task_id: Unique name of the task; submitting the same id twice is one task.
            not_before: When it may run at the earliest: epoch seconds, a datetime with a time zone, or a timedelta
                from now, which is by Redis' clock.
            max_retries: Runs repeated after an error; the worker's own limit unless given.

        Raises:
            ValueError: An argument breaks its rule.
            TypeError: ``agent`` is neither a mapping nor has ``to_dict()``.
            RedisError: Redis did not accept it. Where its answer was lost the task may have been accepted all the
                same; submitting it again under its ``task_id`` is safe.
        """
        payload = describe(
            agent,
            input,
            messages=messages,
            detailed=detailed,
            timeout=timeout,
            metadata=metadata,
            task_id=task_id,
            not_before=not_before,
            max_retries=max_retries,
        )
        with self.using:
            if isinstance(not_before, timedelta):
                payload = await self._due(payload, not_before)
            if tracing.active():
                with tracing.submitting(payload, self.queue) as linked:
                    await self.broker.submit(linked)
            else:
                await self.broker.submit(payload)
        return TaskHandle(payload.task_id, self)

    async def submit_many(
        self,
        agent: Agent | Mapping[str, Any],
        inputs: Iterable[str] | AsyncIterable[str],
        *,
        not_before: float | datetime | timedelta | None = None,
        **keywords: Any,
    ) -> list[TaskHandle]:
        """Submit one run of the agent for each input; return their handles in the same order, once all are accepted.

        Tasks are sent some hundreds at a time, while the next ones are read from ``inputs``: what is held is some
        batches, however many inputs there are. Where a batch fails its error is raised; tasks of batches that were
        accepted before run all the same.

        Args:
            agent: An agent with ``to_dict()``, or an ``agent_config`` itself.
            inputs: The users' prompts.
            not_before: As of :meth:`submit`.
            keywords: Those of :meth:`submit`, but ``task_id``.

        Raises:
            ValueError: As of :meth:`submit`, or ``task_id`` was given.
            TypeError: As of :meth:`submit`, or ``inputs`` is one text.
            RedisError: As of :meth:`submit`.
        """
        check_many(inputs, keywords)
        first = describe(agent, "", not_before=not_before, **keywords)
        if isinstance(not_before, timedelta):
            with self.using:
                first = await self._due(first, not_before)
        if isinstance(inputs, AsyncIterable):
            return await self.submit_payloads(another(first, text) async for text in inputs)
        return await self.submit_payloads(another(first, text) for text in inputs)

    async def submit_payloads(self, tasks: Iterable[TaskPayload] | AsyncIterable[TaskPayload]) -> list[TaskHandle]:
        """Submit tasks that are described already, as :meth:`submit_many` does; return their handles in order.

        Raises:
            ValueError: One of them is not JSON, or too large.
            RedisError: As of :meth:`submit`.
        """
        handles: list[TaskHandle] = []
        with self.using:
            async with Batches(self.broker) as batches:
                if isinstance(tasks, AsyncIterable):
                    async for task in tasks:
                        handles.append(self._add(batches, task))
                        if batches.full:
                            await batches.send()
                else:
                    for task in tasks:
                        handles.append(self._add(batches, task))
                        if batches.full:
                            await batches.send()
        return handles

    def _add(self, batches: Batches, task: TaskPayload) -> TaskHandle:
        if tracing.active():
            # The span ends here: a batch of hundreds has no place for one in each.
            with tracing.submitting(task, self.queue) as linked:
                batches.add(linked)
        else:
            batches.add(task)
        return TaskHandle(task.task_id, self)

    async def _due(self, payload: TaskPayload, delay: timedelta) -> TaskPayload:
        due = epoch_seconds(delay, now=await redis_time(self.redis))
        return payload.model_copy(update={"not_before": due})

    # -- following -------------------------------------------------------------------------------------------------

    def task(self, task_id: str) -> TaskHandle:
        """Return a handle on a task, whoever submitted it; nothing is asked.

        Raises:
            InvalidNameError: No task can have this id.
        """
        return TaskHandle(check_task_id(task_id), self)

    async def status(self, task_id: str) -> TaskResult | None:
        """Return what is known of a task, or ``None`` where it is unknown or expired."""
        with self.using:
            return await self.store.get_status(task_id)

    async def cancel(self, task_id: str) -> CancelOutcome:
        """Ask for a task's end and tell what became of the request."""
        with self.using:
            return await self.broker.cancel(task_id)

    async def stream(self, task_id: str, *, after: str | None = None) -> AsyncIterator[Event]:
        """Iterate over a task's events, as :meth:`TaskHandle.stream` does."""
        with self.using:
            if after is not None:
                check_entry_id(after)
            async with aclosing(self.events.subscribe(task_id, after=after)) as events:  # type: ignore[type-var]
                async for event in events:
                    yield event

    # -- closing ---------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the connections for good. Who still waits for a task gets a ``RuntimeError``; the tasks go on."""
        here = self.using.here
        await self.using.close()
        if here:
            failure = RuntimeError(CLOSED)
            await self.subscriptions.aclose(failure)
            await self.redis.shut(failure)

    async def _disconnect(self) -> None:
        await self.subscriptions.aclose()
        await self.redis.aclose()


def url_or_variable(redis_url: str | None) -> str:
    """Return the URL, or that of ``ORBITER_REDIS_URL``.

    Raises:
        ValueError: There is neither.
    """
    url = redis_url or os.environ.get(REDIS_URL_VARIABLE)
    if not url:
        raise ValueError(f"redis_url is required: pass it or set the {REDIS_URL_VARIABLE} environment variable")
    return url


def namespace_or_variable(namespace: str | None) -> str:
    """Return the namespace, or that of ``ORBITER_NAMESPACE``, or the default one.

    Raises:
        InvalidNameError: No namespace can have this name.
    """
    return check_namespace(namespace or os.environ.get(NAMESPACE_VARIABLE) or DEFAULT_NAMESPACE)
