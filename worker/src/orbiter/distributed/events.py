"""Events of tasks: a stream to replay, a channel to hear at once.

A worker's :class:`EventPublisher` writes behind: runs append to a buffer, one flush sends what has gathered. Deltas of
one agent's text that gather within a flush become one event.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from orbiter.distributed import keys
from orbiter.distributed.models import Event, TextEvent, event_from_json, is_final
from orbiter.distributed.redis_url import connect
from orbiter.distributed.store import TaskStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub

logger = logging.getLogger(__name__)

STREAM_TTL = 3600
STREAM_CAP = 10_000
MERGE_WINDOW = 0.02
POLL = 1.0


class EventLog:
    """The events of one attempt of one task, numbered without gaps as they leave."""

    def __init__(self, publisher: EventPublisher, task_id: str, attempt: int) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.seq = 0
        self._publisher = publisher
        self._closed = False

    def emit(self, event: Event | str) -> None:
        """Add an event; a string is text. After :meth:`close` nothing is added any more."""
        if not self._closed:
            self._publisher.add(self, TextEvent(text=event) if isinstance(event, str) else event)

    def numbered(self, event: Event) -> str:
        """Give the event its number and return its JSON."""
        self.seq += 1
        return event.model_copy(update={"seq": self.seq, "attempt": self.attempt}).to_json()

    def last(self, event: Event) -> str:
        """Return the final event's JSON, numbered after everything that was flushed; asking again gives the same."""
        return event.model_copy(update={"seq": self.seq + 1, "attempt": self.attempt}).to_json()

    def close(self, *, discard: bool = False) -> None:
        """Take no more events; ``discard`` also drops those not yet sent, as a lost claim must write nothing."""
        self._closed = True
        if discard:
            self._publisher.discard(self)


class EventPublisher:
    """Sends events in order, many a round trip.

    Args:
        client: The client to send with.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._buffer: list[tuple[EventLog, Event]] = []
        self._something = asyncio.Event()
        self._sending = asyncio.Lock()
        self._loop = asyncio.get_running_loop()

    def log(self, task_id: str, attempt: int) -> EventLog:
        """Open the log of one attempt."""
        return EventLog(self, task_id, attempt)

    def add(self, log: EventLog, event: Event) -> None:
        """Append to the buffer; callable from any thread."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._loop.call_soon_threadsafe(self._append, log, event)
        else:
            self._append(log, event)

    def _append(self, log: EventLog, event: Event) -> None:
        if self._buffer and isinstance(event, TextEvent):
            last_log, last = self._buffer[-1]
            if last_log is log and isinstance(last, TextEvent) and last.agent_name == event.agent_name:
                self._buffer[-1] = (log, last.model_copy(update={"text": last.text + event.text}))
                return
        self._buffer.append((log, event))
        self._something.set()

    def discard(self, log: EventLog) -> None:
        """Drop what one log has not sent yet."""
        self._buffer = [row for row in self._buffer if row[0] is not log]

    async def flush(self) -> None:
        """Send everything that has gathered.

        Raises:
            RedisError: Redis did not take it; the events stay in the buffer.
        """
        async with self._sending:
            rows, self._buffer = self._buffer, []
            self._something.clear()
            if not rows:
                return
            marks = {id(log): (log, log.seq) for log, _ in rows}
            try:
                async with self._client.pipeline(transaction=False) as pipeline:
                    for log, event in rows:
                        text = log.numbered(event)
                        pipeline.xadd(keys.stream(log.task_id), {"event": text}, maxlen=STREAM_CAP, approximate=True)
                        pipeline.publish(keys.events(log.task_id), text)
                    for log, _ in marks.values():
                        pipeline.expire(keys.stream(log.task_id), STREAM_TTL)
                    await pipeline.execute()
            except BaseException:
                self._buffer = rows + self._buffer
                for log, seq in marks.values():
                    log.seq = seq
                raise

    async def run(self) -> None:
        """Flush whenever something has gathered, until cancelled."""
        while True:
            await self._something.wait()
            await asyncio.sleep(MERGE_WINDOW)
            try:
                await self.flush()
            except RedisError as error:
                logger.warning("events wait for Redis: %s", error)
                await asyncio.sleep(POLL)
                self._something.set()


class EventSubscriber:
    """Reads a task's events: all there were, then all there will be, up to the final one.

    Args:
        redis_url: Where Redis is.
        client: A client to share; without one, :meth:`connect` makes one of its own.
    """

    def __init__(self, redis_url: str, *, client: Redis | None = None) -> None:
        self.redis_url = redis_url
        self._shared = client
        self._client = client

    @property
    def client(self) -> Redis:
        """The client in use.

        Raises:
            RuntimeError: :meth:`connect` has not been called.
        """
        if self._client is None:
            raise RuntimeError("EventSubscriber is not connected. Call connect() first.")
        return self._client

    async def connect(self) -> None:
        """Make a client, unless one is shared."""
        if self._client is None:
            self._client = connect(self.redis_url)

    async def disconnect(self) -> None:
        """Close the connection, if it is our own."""
        if self._client is not None and self._shared is None:
            await self._client.aclose()
        self._client = self._shared

    async def replay(self, task_id: str, from_id: str = "0") -> AsyncIterator[Event]:
        """Yield the events that are on the stream now, from an entry id on, that entry included."""
        async for _, event in self._pages(task_id, from_id):
            yield event

    async def _pages(self, task_id: str, start: str) -> AsyncIterator[tuple[str, Event]]:
        while rows := await self._read(task_id, start):
            for entry_id, fields in rows:
                yield entry_id, event_from_json(fields["event"])
                start = f"({entry_id}"

    async def _read(self, task_id: str, start: str) -> Any:
        return await self.client.xrange(keys.stream(task_id), min=start, count=500)

    async def subscribe(self, task_id: str, *, from_id: str = "0") -> AsyncIterator[Event]:
        """Yield a task's events until its final status event, however late the caller joins.

        The channel says that there is something to read, the stream says what: a message lost with a connection costs
        at most a second. Ends also where the task has ended and its stream has expired, or where the task is unknown.

        Args:
            task_id: The task.
            from_id: The stream entry to begin with.
        """
        start = from_id
        async with self.client.pubsub() as channel:
            await channel.subscribe(keys.events(task_id))
            while True:
                # Asked before looking at the stream: were the task to end in between, its last event is found.
                task = await TaskStore(self.redis_url, client=self.client).get_status(task_id)
                async with aclosing(self._pages(task_id, start)) as pages:  # type: ignore[type-var]
                    async for entry_id, event in pages:
                        yield event
                        start = f"({entry_id}"
                        if is_final(event):
                            return
                if task is None or task.status.terminal:
                    return
                await _something_said(channel)


async def _something_said(channel: PubSub) -> None:
    """Wait until the channel has a message, a second at most, and take what else is there."""
    message: Any = await channel.get_message(ignore_subscribe_messages=True, timeout=POLL)
    while message is not None:
        message = await channel.get_message(ignore_subscribe_messages=True, timeout=0)
