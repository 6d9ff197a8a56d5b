"""The client for scripts: ``SyncClient``, ``distributed_sync()`` and ``submit_many()``, without ``await``.

They are :class:`~orbiter.distributed.client.client.Client`: one background thread runs an event loop for the whole
process; every call hands its work to it and waits. So it works wherever one may block, also where this thread has a
running event loop of its own, as in Jupyter: that loop stands still meanwhile. Code that must not block uses
:class:`~orbiter.distributed.client.client.Client`.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Iterable
from contextlib import aclosing
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, TypeVar

from orbiter.distributed.client.client import Client, namespace_or_variable, url_or_variable
from orbiter.distributed.client.handle import distributed
from orbiter.distributed.client.payloads import check_many
from orbiter.distributed.client.sharing import shared_client
from orbiter.distributed.client.task import still_running
from orbiter.distributed.connection.redis_url import check
from orbiter.distributed.models import DEFAULT_QUEUE
from orbiter.distributed.names import check_queue_name, check_task_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
    from concurrent.futures import Future
    from types import TracebackType
    from typing import TypeAlias

    from orbiter.distributed.broker.records import CancelOutcome
    from orbiter.distributed.client.payloads import Agent
    from orbiter.distributed.client.task import TaskHandle
    from orbiter.distributed.models import Event, TaskResult

    # Gives the client, in the background loop.
    Source: TypeAlias = Callable[[], Awaitable[Client]]

T = TypeVar("T")

# Inputs that are read, and then submitted, at a time.
CHUNK = 1000


def distributed_sync(agent: Agent | Mapping[str, Any], input: str, **keywords: Any) -> SyncTaskHandle:  # noqa: A002
    """Submit one agent run and return a handle on it; the keywords are those of ``distributed()``.

    Raises:
        ValueError: No Redis URL, a wrong one, or an argument breaks its rule.
        TypeError: ``agent`` is neither a mapping nor has ``to_dict()``.
    """
    handle = _wait_for(distributed(agent, input, **keywords))
    where = {name: keywords[name] for name in ("queue", "namespace") if name in keywords}
    return SyncTaskHandle(handle.task_id, redis_url=url_or_variable(keywords.get("redis_url")), **where)


def submit_many(
    agent: Agent | Mapping[str, Any],
    inputs: Iterable[str],
    *,
    redis_url: str | None = None,
    queue: str = DEFAULT_QUEUE,
    namespace: str | None = None,
    **keywords: Any,
) -> list[SyncTaskHandle]:
    """Submit one run of the agent for each input; return their handles in the same order, once all are accepted.

    The keywords are those of ``distributed()`` without ``task_id``. Where one submission fails its error is raised;
    tasks that were submitted before it run all the same.

    Raises:
        ValueError: As of :func:`distributed_sync`, or ``task_id`` was given.
        TypeError: ``inputs`` is one text.
    """
    url = url_or_variable(redis_url)
    namespace = namespace_or_variable(namespace)
    queue = check_queue_name(queue, namespace)
    handle = partial(SyncTaskHandle, redis_url=url, queue=queue, namespace=namespace)
    return _submit_many(partial(shared_client, url, queue, namespace), handle, agent, inputs, keywords)


class SyncClient:
    """Submits tasks to one queue and follows them; :class:`Client` without ``await``. Any thread may use it.

    Close it with ``close()`` or ``with``. In a child made by fork it opens connections of its own.

    Args:
        redis_url: Where the queue is; ``ORBITER_REDIS_URL`` unless given.
        queue: Queue name.
        namespace: First word of all keys in Redis; ``ORBITER_NAMESPACE`` unless given, or else ``orbiter``.

    Raises:
        ValueError: No Redis URL, or a wrong one.
        InvalidNameError: No worker can read a queue of this name, or no namespace can have that one.
    """

    def __init__(
        self, redis_url: str | None = None, *, queue: str = DEFAULT_QUEUE, namespace: str | None = None
    ) -> None:
        self.namespace = namespace_or_variable(namespace)
        self.queue = check_queue_name(queue, self.namespace)
        self.redis_url = url_or_variable(redis_url)
        check(self.redis_url)
        # By process: a child leaves its parent's as it is.
        self._clients: dict[int, Client] = {}
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, agent: Agent | Mapping[str, Any], input: str, **keywords: Any) -> SyncTaskHandle:  # noqa: A002
        """Submit one agent run and return a handle on it; keywords and errors are those of :meth:`Client.submit`."""
        return self._handle(_wait_for(self._submit(agent, input, keywords)).task_id)

    def submit_many(
        self, agent: Agent | Mapping[str, Any], inputs: Iterable[str], **keywords: Any
    ) -> list[SyncTaskHandle]:
        """Submit one run of the agent for each input, as :meth:`Client.submit_many` does; ``inputs`` is read here."""
        return _submit_many(self._client, self._handle, agent, inputs, keywords)

    def task(self, task_id: str) -> SyncTaskHandle:
        """Return a handle on a task, whoever submitted it; nothing is asked.

        Raises:
            InvalidNameError: No task can have this id.
        """
        return self._handle(check_task_id(task_id))

    def close(self) -> None:
        """Close the connections for good. Who still waits for a task gets a ``RuntimeError``; the tasks go on."""
        self._closed = True
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            _wait_for(client.aclose())

    async def _submit(self, agent: Agent | Mapping[str, Any], text: str, keywords: dict[str, Any]) -> TaskHandle:
        return await (await self._client()).submit(agent, text, **keywords)

    async def _client(self) -> Client:
        process = os.getpid()
        if process not in self._clients:
            client = Client(self.redis_url, queue=self.queue, namespace=self.namespace)
            client.using.closed = self._closed
            if self._closed:
                return client
            self._clients[process] = client
        return self._clients[process]

    def _handle(self, task_id: str) -> SyncTaskHandle:
        where = {"queue": self.queue, "namespace": self.namespace}
        return SyncTaskHandle(task_id, redis_url=self.redis_url, client=self, **where)


class SyncTaskHandle:
    """One task. Any thread may use it; it holds no connection: its client does.

    Attributes:
        task_id: The task's unique name.
    """

    def __init__(
        self,
        task_id: str,
        *,
        redis_url: str,
        queue: str = DEFAULT_QUEUE,
        namespace: str | None = None,
        client: SyncClient | None = None,
    ) -> None:
        """Name a task; it may as well have been submitted elsewhere.

        Args:
            task_id: The task.
            redis_url: Where it is.
            queue: Its queue.
            namespace: First word of all keys in Redis; ``ORBITER_NAMESPACE`` unless given, or else ``orbiter``.
            client: Whose connections it uses; without one, those that such handles share.

        Raises:
            InvalidNameError: No task can have this id, or no queue this name.
        """
        self.task_id = check_task_id(task_id)
        namespace = namespace_or_variable(namespace)
        shared = partial(shared_client, redis_url, check_queue_name(queue, namespace), namespace)
        self._source: Source = shared if client is None else client._client  # noqa: SLF001
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
            TaskEndError: The task failed, was cancelled, or its record has expired: as of ``TaskHandle.result()``.
            RedisError: As of ``TaskHandle.result()``.
        """
        try:
            return _wait_for(self._result(), timeout)
        except TimeoutError:
            if timeout is None:
                raise
            raise TimeoutError(still_running(self.task_id, timeout)) from None

    def stream(self, **options: Any) -> Iterator[Event]:
        """Iterate over the task's events from its first one, live, until the task has ended.

        The options are those of ``TaskHandle.stream()``. Leaving the loop early ends the reading behind it.
        """
        stream = _Stream(self._task, options)
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

    async def _task(self) -> TaskHandle:
        return (await self._source()).task(self.task_id)

    async def _result(self) -> dict[str, Any]:
        return await (await self._task()).result()

    async def _cancel(self) -> CancelOutcome:
        return await (await self._task()).cancel()

    async def _status(self) -> TaskResult | None:
        return await (await self._task()).status()


def _submit_many(
    source: Source,
    handle: Callable[[str], SyncTaskHandle],
    agent: Agent | Mapping[str, Any],
    inputs: Iterable[str],
    keywords: dict[str, Any],
) -> list[SyncTaskHandle]:
    """Read the inputs in this thread, some at a time, and submit these."""

    async def submit(texts: list[str]) -> list[TaskHandle]:
        return await (await source()).submit_many(agent, texts, **keywords)

    check_many(inputs, keywords)
    if not isinstance(inputs, Iterable):
        kind = type(inputs).__name__
        raise TypeError(f"inputs: a {kind} is read with await: use Client.submit_many(), or give a list or a generator")
    remaining = iter(inputs)
    found: list[SyncTaskHandle] = []
    while texts := list(islice(remaining, CHUNK)):
        found += [handle(task.task_id) for task in _wait_for(submit(texts))]
    return found


class _Stream:
    """Carries events from the background loop to the thread that iterates, which sleeps until there is one."""

    def __init__(self, task: Callable[[], Awaitable[TaskHandle]], options: dict[str, Any]) -> None:
        self._items: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
        self._reading: Future[None] = asyncio.run_coroutine_threadsafe(self._read(task, options), _loop())

    async def _read(self, task: Callable[[], Awaitable[TaskHandle]], options: dict[str, Any]) -> None:
        try:
            async with aclosing((await task()).stream(**options)) as events:  # type: ignore[type-var]
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
