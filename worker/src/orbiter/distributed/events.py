"""Events of tasks: a stream to replay, a channel to hear at once.

A worker's :class:`EventPublisher` writes behind: runs append to a buffer, one flush sends what has gathered. Deltas of
one agent's text that gather within a flush become one event.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from redis.exceptions import ConnectionError, RedisError  # noqa: A004 - redis' own, beside the builtin's OSError

from orbiter.distributed import keys
from orbiter.distributed.claims import Batch
from orbiter.distributed.connected import Connected
from orbiter.distributed.models import MAX_EVENT_BYTES, ErrorEvent, Event, TextEvent, event_from_json, is_final
from orbiter.distributed.store import TaskStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from redis.asyncio.client import PubSub

logger = logging.getLogger(__name__)

MERGE_WINDOW = 0.02
FLUSH_EVENTS = 1000
MERGED_TEXT = 100_000
# At most, as JSON, with what is around them: a character beyond the first 65 536 is written as two escapes.
BYTES_A_CHARACTER = 16
RESEND_AFTER = 0.5
LOOK_AGAIN = 5.0
RECONNECT_WITHIN = 60.0


class EventLog:
    """The events of one attempt of one task, numbered without gaps as they leave."""

    def __init__(self, publisher: EventPublisher, task_id: str, attempt: int, largest: int) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.seq = 0
        self._publisher = publisher
        self._largest = largest
        self.closed = False

    def emit(self, event: Event | str) -> None:
        """Add an event; a string is text. After :meth:`close` nothing is added any more."""
        if not self.closed:
            self._publisher.add(self, TextEvent(text=event) if isinstance(event, str) else event)

    def numbered(self, event: Event) -> str:
        """Give the event its number and return its JSON."""
        self.seq += 1
        try:
            text = event.to_json(seq=self.seq, attempt=self.attempt)
        except (TypeError, ValueError, RecursionError) as error:
            return self._instead(f"an event of type {event.type!r} is not JSON: {error}", type(error).__name__)
        if len(text) <= self._largest:
            return text
        # One that Redis does not take would keep back everything that is said here, and every outcome behind it.
        return self._instead(
            f"an event of type {event.type!r} was left out: {len(text)} bytes as JSON are more than the"
            f" {self._largest} of --max-event-bytes (ORBITER_MAX_EVENT_BYTES)",
            "EventTooLargeError",
        )

    def _instead(self, error: str, error_type: str) -> str:
        said = ErrorEvent(error=error, error_type=error_type, recoverable=True)
        return said.to_json(seq=self.seq, attempt=self.attempt)

    def last(self, status: str, agent_name: str, message: str) -> tuple[int, str]:
        """Return number and JSON of the final event, after everything that was flushed; asking again gives the same."""
        seq = self.seq + 1
        # Written out, as every task has one: a StatusEvent would cost five times as much.
        return seq, (
            f'{{"type": "status", "status": "{status}", "agent_name": {quoted(agent_name)}, '
            f'"message": {quoted(message)}, "seq": {seq}, "attempt": {self.attempt}}}'
        )

    def close(self, *, discard: bool = False) -> None:
        """Take no more events; ``discard`` also drops those not yet sent, as a lost claim must write nothing."""
        self.closed = True
        if discard:
            self._publisher.discard(self)


class EventPublisher:
    """Sends events in order, many a round trip.

    Args:
        say: Sends batches; sending one again must be harmless.
        max_event_bytes: Largest event, bytes of JSON. Longer text is sent in pieces, anything else is left out.
    """

    def __init__(
        self, say: Callable[[Sequence[Batch]], Awaitable[None]], *, max_event_bytes: int = MAX_EVENT_BYTES
    ) -> None:
        self._say = say
        self._largest = max_event_bytes
        self._piece = min(MERGED_TEXT, max_event_bytes // BYTES_A_CHARACTER)
        self._buffer: list[tuple[EventLog, Event]] = []
        self._unsent: list[Batch] = []
        self._something = asyncio.Event()
        self._sending = asyncio.Lock()
        self._loop = asyncio.get_running_loop()

    def log(self, task_id: str, attempt: int) -> EventLog:
        """Open the log of one attempt."""
        return EventLog(self, task_id, attempt, self._largest)

    def add(self, log: EventLog, event: Event) -> None:
        """Append to the buffer; callable from any thread."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._loop.call_soon_threadsafe(self._append, log, event)
        else:
            self._append(log, event)

    def _append(self, log: EventLog, event: Event) -> None:
        if log.closed:  # meanwhile: a thread's event comes a turn of the loop later
            return
        if isinstance(event, TextEvent) and len(event.text) > self._piece:
            for at in range(0, len(event.text), self._piece):
                piece = event.model_copy(update={"text": event.text[at : at + self._piece]})
                self._buffer.append((log, piece))
            self._something.set()
            return
        if self._buffer and isinstance(event, TextEvent):
            last_log, last = self._buffer[-1]
            if (
                last_log is log
                and isinstance(last, TextEvent)
                and last.agent_name == event.agent_name
                and len(last.text) + len(event.text) <= self._piece
            ):
                self._buffer[-1] = (log, last.model_copy(update={"text": last.text + event.text}))
                return
        self._buffer.append((log, event))
        self._something.set()

    def discard(self, log: EventLog) -> None:
        """Drop what one log has not sent yet."""
        self._buffer = [row for row in self._buffer if row[0] is not log]
        self._unsent = [batch for batch in self._unsent if (batch.task_id, batch.attempt) != (log.task_id, log.attempt)]

    async def flush(self) -> None:
        """Send everything that has gathered.

        Raises:
            RedisError: Redis did not take it; the events are kept, with the numbers they have, for the next flush.
        """
        if not self._buffer and not self._unsent and not self._sending.locked():
            return
        async with self._sending:
            self._something.clear()
            while self._buffer or self._unsent:
                # What was numbered stays as it is: it may have arrived, although the answer did not.
                self._unsent = self._unsent or self._numbered()
                await self._say(self._unsent)
                self._unsent = []

    def _numbered(self) -> list[Batch]:
        rows, self._buffer = self._buffer[:FLUSH_EVENTS], self._buffer[FLUSH_EVENTS:]
        texts: dict[EventLog, list[str]] = {}
        for log, event in rows:
            texts.setdefault(log, []).append(log.numbered(event))
        return [Batch(log.task_id, log.attempt, log.seq - len(said) + 1, said) for log, said in texts.items()]

    async def run(self) -> None:
        """Flush whenever something has gathered, until cancelled."""
        while True:
            await self._something.wait()
            await asyncio.sleep(MERGE_WINDOW)
            try:
                await self.flush()
            except (RedisError, OSError) as error:
                logger.warning("events wait for Redis: %s", error)
                await asyncio.sleep(RESEND_AFTER)
                self._something.set()


class EventSubscriber(Connected):
    """Reads a task's events: all there were, then all there will be, up to the final one.

    Args:
        redis_url: Where Redis is.
        client: A client to share; without one, :meth:`connect` makes one of its own.
    """

    async def replay(self, task_id: str, from_id: str = "0") -> AsyncIterator[Event]:
        """Yield the events that are on the stream now, from an entry id on, that entry included."""
        async for event in self._pages(task_id, from_id):
            yield event

    async def _pages(self, task_id: str, start: str) -> AsyncIterator[Event]:
        while rows := await self._read(task_id, start):
            for entry_id, fields in rows:
                start = f"({entry_id}"
                try:
                    event = event_from_json(fields["event"])
                except (KeyError, ValidationError) as error:
                    # A later release may say what this one does not know: its readers still get the rest.
                    logger.debug("passing over an event that cannot be read: %s", error, extra={"task_id": task_id})
                    continue
                event.entry_id = entry_id
                yield event

    async def _read(self, task_id: str, start: str) -> Any:
        return await self.client.xrange(keys.stream(task_id), min=start, count=500)

    async def subscribe(self, task_id: str, *, from_id: str = "0", after: str | None = None) -> AsyncIterator[Event]:
        """Yield a task's events until its final status event, however late the caller joins.

        The channel says that there is something to read, the stream says what: a message lost with a connection costs
        a few seconds, not an event. Ends also where the task has ended and its stream has expired, or where the task
        is unknown.

        Args:
            task_id: The task.
            from_id: The stream entry to begin with.
            after: The ``entry_id`` of the last event seen; the one behind it comes first.

        Raises:
            RedisError: Redis has been away for a minute.
        """
        start = from_id if after is None else f"({after}"
        away_since: float | None = None
        while True:
            try:
                async with self.client.pubsub() as channel:
                    await channel.subscribe(keys.events(task_id))
                    while True:
                        # Asked before looking at the stream: were the task to end in between, its last event is found.
                        task = await TaskStore(self.redis_url, client=self.client).get_status(task_id)
                        away_since = None
                        async with aclosing(self._pages(task_id, start)) as pages:  # type: ignore[type-var]
                            async for event in pages:
                                start = f"({event.entry_id}"
                                yield event
                                if is_final(event):
                                    return
                        if task is None or task.status.terminal:
                            return
                        await _something_said(channel)
            except (ConnectionError, OSError) as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > RECONNECT_WITHIN:
                    raise
                logger.debug("events of a task: %s; connecting again", error, extra={"task_id": task_id})
                await asyncio.sleep(RESEND_AFTER)


async def _something_said(channel: PubSub) -> None:
    """Wait until the channel has a message, some seconds at most, and take what else is there."""
    message: Any = await channel.get_message(ignore_subscribe_messages=True, timeout=LOOK_AGAIN)
    while message is not None:
        message = await channel.get_message(ignore_subscribe_messages=True, timeout=0)
