"""The caller's side for scripts: ``distributed_sync()`` and its handle, without ``await``.

One background thread runs an event loop for the whole process; every call hands its work to it and waits. So it works
wherever one may block, also where this thread has a running event loop of its own, as in Jupyter: that loop stands
still meanwhile. Code that must not block uses :func:`orbiter.distributed.distributed`.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from orbiter.distributed.broker_cluster import broker_for
from orbiter.distributed.client import REDIS_URL_VARIABLE, TaskHandle, distributed
from orbiter.distributed.events import EventSubscriber
from orbiter.distributed.models import DEFAULT_QUEUE
from orbiter.distributed.redis_url import connect
from orbiter.distributed.store import TaskStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
    from concurrent.futures import Future
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from orbiter.distributed.claims import CancelOutcome
    from orbiter.distributed.client import Agent
    from orbiter.distributed.models import Event, TaskResult

T = TypeVar("T")

SUBMITTED_AT_ONCE = 16


def distributed_sync(agent: Agent | Mapping[str, Any], input: str, **keywords: Any) -> SyncTaskHandle:  # noqa: A002
    """Submit one agent run and return a handle on it; the keywords are those of ``distributed()``.

    Raises:
        ValueError: No Redis URL, a wrong one, or an argument breaks its rule.
        TypeError: ``agent`` is neither a mapping nor has ``to_dict()``.
    """
    return _wait_for(_submit(agent, input, keywords))


def submit_many(agent: Agent | Mapping[str, Any], inputs: Iterable[str], **keywords: Any) -> list[SyncTaskHandle]:
    """Submit one run of the agent for each input, several at a time; return their handles in the same order.

    The keywords are those of ``distributed()`` without ``task_id``. Where one submission fails its error is raised;
    tasks that were submitted before it run all the same.

    Raises:
        ValueError: As of :func:`distributed_sync`, or ``task_id`` was given.
    """
    if "task_id" in keywords:
        raise ValueError("task_id names one task: submit_many() makes one for each input")
    return _wait_for(_submit_all(agent, list(inputs), keywords))


class SyncTaskHandle:
    """One submitted task. Any thread may use it; no connection is held between calls.

    Attributes:
        task_id: The task's unique name.
    """

    def __init__(self, task_id: str, *, redis_url: str, queue: str = DEFAULT_QUEUE) -> None:
        """Name a task; it may as well have been submitted elsewhere."""
        self.task_id = task_id
        self._redis_url = redis_url
        self._queue = queue
        self._streams: set[_Stream] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the task's end and return its result.

        Raises:
            TimeoutError: It had not ended after ``timeout`` seconds; it goes on, and one may ask again.
            RuntimeError: The task failed, was cancelled, or its record has expired.
        """
        try:
            return _wait_for(self._result(), timeout)
        except TimeoutError:
            if timeout is None:
                raise
            raise TimeoutError(f"Task {self.task_id} had not ended after {timeout:g} s") from None

    def stream(self, **options: Any) -> Iterator[Event]:
        """Iterate over the task's events from its first one, live, until the task has ended.

        The options are those of ``TaskHandle.stream()``. Leaving the loop early ends the reading behind it.
        """
        stream = _Stream(self._open(), options)
        self._streams.add(stream)
        try:
            yield from stream.events()
        finally:
            self._streams.discard(stream)
            stream.close()

    def cancel(self) -> CancelOutcome:
        """Ask for the task's end and tell what became of the request."""
        return _wait_for(self._cancel())

    def status(self) -> TaskResult | None:
        """Return what is known of the task, or ``None`` once its record has expired."""
        return _wait_for(self._status())

    def close(self) -> None:
        """End the streams that are still being read, in whatever thread; the task itself goes on regardless."""
        for stream in list(self._streams):
            stream.close()

    async def _result(self) -> dict[str, Any]:
        async with self._open() as handle:
            return await handle.result()

    async def _cancel(self) -> CancelOutcome:
        async with self._open() as handle:
            return await handle.cancel()

    async def _status(self) -> TaskResult | None:
        async with self._open() as handle:
            return await handle.status()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[TaskHandle]:
        url = self._redis_url
        client = connect(url, name="orbiter-client")
        async with AsyncExitStack() as stack:
            stack.push_async_callback(client.aclose)
            broker = broker_for(url, queue_name=self._queue, client=client)
            store = TaskStore(url, client=client)
            subscriber = EventSubscriber(url, client=client)
            for part in (broker, store, subscriber):
                await part.connect()
            yield TaskHandle(self.task_id, broker=broker, store=store, subscriber=subscriber, client=client)


async def _submit(agent: Agent | Mapping[str, Any], text: str, keywords: dict[str, Any]) -> SyncTaskHandle:
    handle = await distributed(agent, text, **keywords)
    await handle.aclose()
    url = keywords.get("redis_url") or os.environ[REDIS_URL_VARIABLE]
    return SyncTaskHandle(handle.task_id, redis_url=url, queue=keywords.get("queue", DEFAULT_QUEUE))


async def _submit_all(
    agent: Agent | Mapping[str, Any], inputs: list[str], keywords: dict[str, Any]
) -> list[SyncTaskHandle]:
    handles: dict[int, SyncTaskHandle] = {}
    numbered = iter(enumerate(inputs))

    async def submit_next() -> None:
        for number, text in numbered:
            handles[number] = await _submit(agent, text, keywords)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(SUBMITTED_AT_ONCE, len(inputs))):
                group.create_task(submit_next())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [handles[number] for number in range(len(inputs))]


class _Stream:
    """Carries events from the background loop to the thread that iterates, which sleeps until there is one."""

    def __init__(self, opening: AbstractAsyncContextManager[TaskHandle], options: dict[str, Any]) -> None:
        self._items: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
        self._reading: Future[None] = asyncio.run_coroutine_threadsafe(self._read(opening, options), _loop())

    async def _read(self, opening: AbstractAsyncContextManager[TaskHandle], options: dict[str, Any]) -> None:
        try:
            async with opening as handle, aclosing(handle.stream(**options)) as events:  # type: ignore[type-var]
                async for event in events:
                    self._items.put(event)
        except Exception as error:  # noqa: BLE001 - raised again where the events are read
            self._items.put(error)
        finally:
            self._items.put(None)

    def events(self) -> Iterator[Event]:
        while (item := self._items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        self._reading.cancel()
        # Cancelled before its first line the reading says nothing any more.
        self._items.put(None)


_starting = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}


def _loop() -> asyncio.AbstractEventLoop:
    """Return the loop behind every call. Its thread is a daemon: a script that has ended need not say so."""
    with _starting:
        # After a fork the child has the loop, but not the thread that runs it.
        process = os.getpid()
        if process not in _loops:
            _loops[process] = asyncio.new_event_loop()
            threading.Thread(target=_loops[process].run_forever, name="orbiter-sync", daemon=True).start()
        return _loops[process]


def _wait_for(work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
    """Return what the work returns; giving up, by Ctrl-C too, cancels it."""
    waiting = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return waiting.result(timeout)
    except BaseException:
        waiting.cancel()
        raise
