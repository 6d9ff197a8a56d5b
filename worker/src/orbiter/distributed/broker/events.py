"""Events of tasks: a stream to replay, a channel to hear at once.

A worker's :class:`EventPublisher` writes behind: runs append, one flush sends what has gathered. The first event of a
log leaves at once and opens a window; what follows within it leaves at its end, and deltas of one agent's text become
one event. Nobody waits for Redis to emit, so what waits for Redis is limited: what is emitted beyond that is left out,
and an event says so.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from contextlib import aclosing
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from redis.exceptions import RedisError

from orbiter.distributed.broker.namespaced import Namespaced
from orbiter.distributed.broker.records import EVENT_STATUS, Batch
from orbiter.distributed.broker.store import TaskStore, read_record
from orbiter.distributed.connection.patience import FAILURES, Patience, answer
from orbiter.distributed.connection.subscriptions import Subscriptions
from orbiter.distributed.errors import describe, kind_of
from orbiter.distributed.limits import (
    BYTES_A_CHARACTER,
    BYTES_OF_AN_EVENT,
    MAX_BACKLOG,
    MAX_EVENT_BYTES,
    MAX_EVENTS,
    MAX_TOTAL_BACKLOG,
    MERGED_TEXT,
)
from orbiter.distributed.models import (
    ErrorEvent,
    Event,
    StatusEvent,
    TaskResult,
    TextEvent,
    emitted_event,
    event_from_json,
    is_final,
)
from orbiter.distributed.names import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

MERGE_WINDOW = 0.02
# Between two calls: events of many logs leave together, and a lone one leaves at once.
SPACING = 0.002
FLUSH_EVENTS = 1000
# Of text: as JSON it may be twelve times as long, and the connection copies it.
FLUSH_BYTES = 1_000_000
# What a row of the buffer takes beside its text.
ROW_BYTES = 200
# An event's JSON is made as it is emitted, its number is known as it leaves: the place for it is this large.
_PLACE = 10**10 - 1
RESEND_AFTER = 0.5
# A generator that never waits lets the loop turn this often, seconds.
TURN_EVERY = 0.005
LOOK_AGAIN = 5.0
# Events that a reader asks for at once. They may be large.
PAGE = 500
PAGE_WITHIN = 30.0


class _Row:
    """An event that waits, or its JSON up to its number; how much of its log's backlog it is; text that follows it."""

    __slots__ = ("event", "more", "size")

    def __init__(self, event: Event | str, size: int) -> None:
        self.event = event
        self.size = size
        self.more: list[str] | None = None

    def merged(self) -> Event | str:
        """Return the event with what follows it."""
        if self.more is None or not isinstance(self.event, TextEvent):
            return self.event
        return self.event.model_copy(update={"text": "".join((self.event.text, *self.more))})


class EventLog:
    """The events of one attempt of one task, numbered without gaps as they leave.

    Attributes:
        on_sent: Called on the publisher's loop with the size of what no longer waits for Redis: it was taken, left out
            or discarded. In all it is told of every size that was emitted before :meth:`close`: the characters of a
            text, or those of another event's JSON.
        emitted: How many events have left, as they are on the stream; a large one counts as several.
        most: How many there may be.
        on_most: Called on the publisher's loop, once, when there are more: nothing is added from then on.
    """

    def __init__(self, publisher: EventPublisher, task_id: str, attempt: int, largest: int, most: int) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.seq = 0
        self.emitted = 0
        self.most = most
        self.on_most: Callable[[], None] | None = None
        self._publisher = publisher
        self._largest = largest
        self._turned = time.monotonic()
        self._tail = ""
        self._half: TextEvent | None = None
        self.closed = False
        self.on_sent: Callable[[int], None] | None = None
        # Kept by the publisher: the time from which on its next event may leave; when the first that waits was emitted;
        # what waits, each row with ROW_BYTES, and how many rows; the same of what threads have emitted and the loop has
        # not seen yet; what was left out and no event has said yet.
        self.due = self.opened = 0.0
        self.weight = self.rows = 0
        self.posted = self.posted_rows = 0
        self.left_out = self.left_out_size = 0

    @property
    def backlog(self) -> int:
        """The size of what was emitted and Redis has not taken yet."""
        return self.weight + self.posted - (self.rows + self.posted_rows) * ROW_BYTES

    def emit(self, event: Event | str) -> None:
        """Add an event; a string is text. After :meth:`close` nothing is added any more.

        A final status is passed over: the worker ends the stream. While too much waits for Redis, events are left out,
        and another event says so.

        Raises:
            TypeError: It is neither.
        """
        if self.closed:
            return
        event = emitted_event(event)
        whole: Event | None = event
        if isinstance(event, TextEvent):
            whole = self._joined(event)
        elif self._half is not None:
            self._let_half_go()
        if whole is not None and not is_final(whole):
            self._publisher.add(self, whole)

    def _joined(self, event: TextEvent) -> TextEvent | None:
        """Return text with the half of a character that came before it, and without the one that it ends with.

        Code that counts in UTF-16 cuts a character in two; each half alone is none, and is replaced as it leaves.
        Text that is half a character alone is kept for what comes next.
        """
        half, text = self._half, event.text
        if half is not None:
            if half.agent_name == event.agent_name:
                self._half, text = None, half.text + text
            else:
                self._let_half_go()
        if "\ud800" <= text[-1:] <= "\udbff":
            self._half, text = event.model_copy(update={"text": text[-1]}), text[:-1]
            if not text:
                return None
        return event if text is event.text else event.model_copy(update={"text": text})

    def _let_half_go(self) -> None:
        """Add the half of a character that nothing follows."""
        half, self._half = self._half, None
        if half is not None:
            self._publisher.add(self, half)

    def spend(self, model: str, agent: str, tokens_in: int, tokens_out: int) -> None:
        """Count an answer of a model, also of a run whose claim was lost: it was paid."""
        self._publisher.on_spent(model, agent, tokens_in, tokens_out)

    async def pace(self) -> None:
        """Let others have their turn, now and then."""
        now = time.monotonic()
        if now - self._turned > TURN_EVERY:
            await asyncio.sleep(0)
            self._turned = time.monotonic()

    def written(self, event: Event) -> tuple[Event | str, int, int]:
        """Return an event's JSON up to its number, its size, and the size of what it stands for."""
        text, size = self._json(event, _PLACE)
        tail = self._tail = self._tail or f', "seq": {_PLACE}, "attempt": {self.attempt}}}'
        # An event of somebody's own class may be written otherwise.
        return text[: -len(tail)] if text.endswith(tail) else event, len(text), size

    def numbered(self, row: Event | str) -> str:
        """Give an event, or what :meth:`written` returned of it, its number; return its JSON."""
        self.seq += 1
        if isinstance(row, str):
            return f'{row}, "seq": {self.seq}, "attempt": {self.attempt}}}'
        return self._json(row, self.seq)[0]

    def _json(self, event: Event, seq: int) -> tuple[str, int]:
        """Return an event as JSON, or an error in its place; and the size of the event."""
        try:
            text = event.to_json(seq=seq, attempt=self.attempt)
        except BaseException as error:  # noqa: BLE001 - what is in it is user code's, which must not end others' runs
            failure = f"an event of type {event.type!r} is not JSON: {describe(error)}"
            text = self._error(failure, kind_of(error), seq)
            return text, len(text)
        if len(text) <= self._largest:
            return text, len(text)
        # One that Redis does not take would keep back everything that is emitted here, and every outcome behind it.
        failure = (
            f"an event of type {event.type!r} was left out: {len(text)} bytes as JSON are more than the"
            f" {self._largest} of --max-event-bytes (ORBITER_MAX_EVENT_BYTES)"
        )
        return self._error(failure, "EventTooLargeError", seq), len(text)

    def _error(self, error: str, error_type: str, seq: int) -> str:
        return ErrorEvent(error=error, error_type=error_type, recoverable=True).to_json(seq=seq, attempt=self.attempt)

    def last(self, status: str, agent_name: str, message: str, error_type: str = "") -> tuple[int, str]:
        """Return number and JSON of the final event, after everything that was flushed; asking again gives the same."""
        seq = self.seq + 1
        of_type = f'"error_type": {quoted(error_type)}, ' if error_type else ""
        # Written out, as every task has one: a StatusEvent would cost five times as much.
        return seq, (
            f'{{"type": "status", "status": "{status}", "agent_name": {quoted(agent_name)}, '
            f'"message": {quoted(message)}, {of_type}"seq": {seq}, "attempt": {self.attempt}}}'
        )

    def close(self, last: Event | None = None, *, discard: bool = False) -> None:
        """Take no more events.

        Args:
            last: The worker's own last word, which is never left out.
            discard: Drop those not yet sent, too, as a lost claim must write nothing.
        """
        if discard:
            self.closed = True
            half, self._half = self._half, None
            if half is not None and self.on_sent is not None:
                self.on_sent(len(half.text))
            self._publisher.discard(self)
        elif not self.closed:
            self._let_half_go()
            self._publisher.conclude(self, last)
            self.closed = True


class EventPublisher:
    """Sends events in order, many a round trip.

    What waits for Redis is limited, for one log and in all. Events beyond that are left out until half of it is free.

    Args:
        append_events: Sends batches; sending one again must be harmless.
        max_event_bytes: Largest event, bytes of JSON. Longer text is sent in pieces, anything else is left out.
        max_events: Events of one log, a large one counted as several.
        max_backlog: What may wait of one log, bytes.
        max_total_backlog: What may wait of all logs.

    Attributes:
        on_spent: Called with each answer of a model that a run got, from any thread.
    """

    def __init__(
        self,
        append_events: Callable[[Sequence[Batch]], Awaitable[None]],
        *,
        max_event_bytes: int = MAX_EVENT_BYTES,
        max_events: int = MAX_EVENTS,
        max_backlog: int = MAX_BACKLOG,
        max_total_backlog: int = MAX_TOTAL_BACKLOG,
    ) -> None:
        self._append_events = append_events
        self.on_spent: Callable[[str, str, int, int], None] = lambda *_: None
        self._largest = max_event_bytes
        self._most_events = max_events
        self._piece = min(MERGED_TEXT, max_event_bytes // BYTES_A_CHARACTER)
        self._most, self._most_in_all = max_backlog, max_total_backlog
        # By log, those first that have waited for longest.
        self._waiting: dict[EventLog, list[_Row]] = {}
        self._unsent: list[Batch] = []
        # Of what is in _unsent, by log: size and number of rows.
        self._leaving: dict[EventLog, tuple[int, int]] = {}
        self._weight = self._posted = 0
        # Taken by threads that emit and, where it meets them, by the loop; never for a text that is merged.
        self._lock = threading.Lock()
        self._left_out: set[EventLog] = set()
        self._something = asyncio.Event()
        self._sending = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def log(self, task_id: str, attempt: int) -> EventLog:
        """Open the log of one attempt, on the event loop that sends."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return EventLog(self, task_id, attempt, self._largest, self._most_events)

    def add(self, log: EventLog, event: Event) -> None:
        """Append to the buffer; callable from any thread."""
        # Not any loop: a plain function may run one of its own in its thread.
        loop = self._loop
        if loop is None or asyncio._get_running_loop() is loop:  # noqa: SLF001 - get_running_loop() without exception
            self._append(log, event)
        else:
            self._post(loop, log, event)

    # -- what is emitted on the loop -------------------------------------------------------------------------------

    def _append(self, log: EventLog, event: Event) -> None:
        if log.closed:
            return
        if isinstance(event, TextEvent):
            self._append_text(log, event)
            return
        self._append_written(log, *log.written(event))

    def _append_text(self, log: EventLog, event: TextEvent, *, accepted: bool = False) -> None:
        size = len(event.text)
        if log in self._waiting:
            last = self._waiting[log][-1]
            if (
                isinstance(last.event, TextEvent)
                and last.event.agent_name == event.agent_name
                and last.size + size <= self._piece
                and (
                    accepted
                    or (
                        log.weight + size <= self._most
                        and self._weight + size <= self._most_in_all
                        and not log.left_out
                    )
                )
            ):
                if last.more is None:
                    last.more = []
                last.more.append(event.text)
                last.size += size
                log.weight += size
                self._weight += size
                return
        if not accepted and not self._accepts(log, size):
            with self._lock:
                self._count_left_out(log, size)
        elif size <= self._piece:
            self._put(log, event, size)
        else:
            for at in range(0, size, self._piece):
                piece = event.model_copy(update={"text": event.text[at : at + self._piece]})
                self._put(log, piece, len(piece.text))

    def _append_written(self, log: EventLog, row: Event | str, size: int, emitted: int) -> None:
        if self._accepts(log, size):
            self._put_written(log, row, size, emitted)
        else:
            with self._lock:
                self._count_left_out(log, emitted)

    def _put_written(self, log: EventLog, row: Event | str, size: int, emitted: int) -> None:
        self._put(log, row, size)
        if emitted > size and log.on_sent is not None:
            log.on_sent(emitted - size)

    def _put(self, log: EventLog, row: Event | str, size: int) -> None:
        rows = self._waiting.get(log)
        if rows is None:
            self._waiting[log] = [_Row(row, size)]
            self._remind(log)
        else:
            rows.append(_Row(row, size))
        size += ROW_BYTES
        log.rows += 1
        log.weight += size
        self._weight += size

    def _remind(self, log: EventLog) -> None:
        """Have what waits of a log sent as soon as its window is over."""
        now = log.opened = 0.0 if self._loop is None else self._loop.time()
        if self._loop is None or log.due <= now:
            # The window is one of the time at which it was emitted: a call that was late once delays no other.
            log.due = now
            self._something.set()
        else:
            self._loop.call_at(log.due, self._something.set)

    # -- what is emitted in threads --------------------------------------------------------------------------------

    def _post(self, loop: asyncio.AbstractEventLoop, log: EventLog, event: Event) -> None:
        """Give the loop what a thread emits, unless too much waits already: the loop may be slower than the thread."""
        if isinstance(event, TextEvent):
            row: Event | str = event
            size = emitted = len(event.text)
        else:
            row, size, emitted = log.written(event)
        with self._lock:
            first = not log.left_out
            if fits := first and self._fits(log, size):
                log.posted += size + ROW_BYTES
                log.posted_rows += 1
                self._posted += size + ROW_BYTES
            else:
                self._count_left_out(log, emitted)
        if fits:
            loop.call_soon_threadsafe(self._take_posted, log, row, size, emitted)
        elif first:
            # What Redis took may just have passed.
            loop.call_soon_threadsafe(self._resume, log)

    def _take_posted(self, log: EventLog, row: Event | str, size: int, emitted: int) -> None:
        with self._lock:
            log.posted -= size + ROW_BYTES
            log.posted_rows -= 1
            self._posted -= size + ROW_BYTES
        if log.closed:  # meanwhile: a thread's event comes a turn of the loop later
            if log.on_sent is not None:
                log.on_sent(emitted)
        elif isinstance(row, TextEvent):
            self._append_text(log, row, accepted=True)
        else:
            self._put_written(log, row, size, emitted)
        self._resume(log)

    # -- what waits, and what is left out --------------------------------------------------------------------------

    def _fits(self, log: EventLog, size: int) -> bool:
        size += ROW_BYTES
        ours, in_all = log.weight + log.posted, self._weight + self._posted
        if ours + size <= self._most and in_all + size <= self._most_in_all:
            return True
        # Whatever its size, an event may be the only one that waits.
        return (not ours or ours + size <= self._most) and (not in_all or in_all + size <= self._most_in_all)

    def _accepts(self, log: EventLog, size: int) -> bool:
        if log.left_out and not self._resume(log):
            return False
        return self._fits(log, size)

    def _count_left_out(self, log: EventLog, size: int) -> None:
        if not log.left_out:
            self._left_out.add(log)
            logger.warning("events are left out: too many wait for Redis", extra={"task_id": log.task_id})
        log.left_out += 1
        log.left_out_size += size

    def _resume(self, log: EventLog) -> bool:
        """Take events of a log again, once half is free: by halves, as each time an event says what was left out."""
        if not log.left_out:
            return True
        # What threads emitted before comes first.
        if log.posted or log.weight > self._most // 2 or self._weight > self._most_in_all // 2:
            return False
        self._append_left_out(log)
        return True

    def _append_left_out(self, log: EventLog) -> None:
        with self._lock:
            count, size = log.left_out, log.left_out_size
            log.left_out = log.left_out_size = 0
            self._left_out.discard(log)
        if not count:
            return
        if not log.closed:
            error = f"{count} events ({size} bytes) were left out: more was emitted than Redis took meanwhile"
            event = ErrorEvent(error=error, error_type="EventsLeftOutError", recoverable=True)
            self._put(log, log.written(event)[0], 0)
        if log.on_sent is not None:
            log.on_sent(size)

    def _release(self, log: EventLog, size: int, rows: int) -> None:
        """Note that so much of a log does not wait any more."""
        log.rows -= rows
        log.weight -= size + rows * ROW_BYTES
        self._weight -= size + rows * ROW_BYTES
        if size and log.on_sent is not None:
            log.on_sent(size)

    def _resume_all(self) -> None:
        if self._left_out:
            with self._lock:
                logs = list(self._left_out)
            for log in logs:
                self._resume(log)

    # -- what leaves -----------------------------------------------------------------------------------------------

    def conclude(self, log: EventLog, last: Event | None) -> None:
        """Add what ends a log, whatever waits: what was left out of it, and the worker's last event."""
        if log.left_out:
            self._append_left_out(log)
        if last is not None:
            self._put(log, log.written(last)[0], 0)

    def discard(self, log: EventLog) -> None:
        """Drop what one log has not sent yet."""
        size, rows = self._leaving.pop(log, (0, 0))
        for row in self._waiting.pop(log, ()):
            size, rows = size + row.size, rows + 1
        self._unsent = [batch for batch in self._unsent if (batch.task_id, batch.attempt) != (log.task_id, log.attempt)]
        self._release(log, size, rows)
        self._append_left_out(log)
        self._resume_all()

    async def flush(self) -> None:
        """Send everything that waits.

        Raises:
            RedisError: Redis did not take it; the events are kept, with the numbers they have, for the next flush.
        """
        if self._waiting or self._unsent or self._sending.locked():
            async with self._sending:
                await self._send(math.inf)

    async def _send(self, until: float) -> None:
        """Send what waits of the logs whose windows are over by then."""
        while True:
            # What was numbered stays as it is: it may have arrived, although the answer did not.
            self._unsent = self._unsent or self._numbered(until)
            if not self._unsent:
                return
            await self._append_events(self._unsent)
            self._unsent = []
            leaving, self._leaving = self._leaving, {}
            for log, (size, rows) in leaving.items():
                self._release(log, size, rows)
            self._resume_all()

    def _numbered(self, until: float) -> list[Batch]:
        """Take what one call sends off what waits, and number it."""
        batches: list[Batch] = []
        left, in_all = FLUSH_EVENTS, 0
        for log in [log for log in self._waiting if log.due <= until]:
            rows, taken, size = self._waiting[log], 0, 0
            for row in rows[:left]:
                in_all += row.size
                if in_all > FLUSH_BYTES and (taken or batches):
                    break
                taken, size = taken + 1, size + row.size
            if not taken:
                break
            texts = [log.numbered(row.merged()) for row in rows[:taken]]
            log.emitted += sum(1 + len(text) // BYTES_OF_AN_EVENT for text in texts)
            batches.append(Batch(log.task_id, log.attempt, log.seq - taken + 1, texts))
            self._leaving[log] = (size, taken)
            left -= taken
            del self._waiting[log]
            if taken < len(rows):
                # Behind the others: one that emits much does not keep them waiting.
                self._waiting[log] = rows[taken:]
            else:
                # One alone opened its window as it was emitted: where it came late, the next one waits for that, and no
                # other does.
                log.due = (log.opened if taken == 1 and rows[0].more is None else log.due) + MERGE_WINDOW
        for log in self._leaving:
            if log.emitted > log.most:
                self._end(log)
        return batches

    @staticmethod
    def _end(log: EventLog) -> None:
        """Take no more events of a log that has had too many."""
        if not log.closed and log.on_most is not None:
            log.closed = True
            log.on_most()

    async def run(self) -> None:
        """Send what waits as the windows of its logs end, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._something.wait()
            self._something.clear()
            try:
                async with self._sending:
                    # A timer may fire a moment early.
                    await self._send(loop.time() + SPACING)
            except (RedisError, OSError) as error:
                logger.warning("events wait for Redis: %s", error)
                await asyncio.sleep(RESEND_AFTER)
                self._something.set()
            else:
                await asyncio.sleep(SPACING)


class EventSubscriber(Namespaced):
    """Reads a task's events: all there were, then all there will be, up to the final one.

    Args:
        redis_url: Where Redis is.
        namespace: The first word of all keys and channels.
        client: A client to share; without one, :meth:`connect` makes one of its own.
        subscriptions: Subscriptions to share; without them, readers share a connection while there are any.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        client: Redis | None = None,
        subscriptions: Subscriptions | None = None,
    ) -> None:
        super().__init__(redis_url, namespace=namespace, client=client)
        self._shared_subscriptions = subscriptions
        self._subscriptions = subscriptions

    async def disconnect(self) -> None:
        """Close the connections that are our own."""
        if self._subscriptions is not None and self._shared_subscriptions is None:
            await self._subscriptions.aclose()
        self._subscriptions = self._shared_subscriptions
        await super().disconnect()

    async def replay(self, task_id: str, from_id: str = "0") -> AsyncIterator[Event]:
        """Yield the events that there are now, from an entry id on, that entry included."""
        # Asked first: what is added until it ends is on the stream.
        store = TaskStore(self.redis_url, namespace=self._keys.namespace, client=self.client)
        task, last = await store.get_status(task_id), None
        async for last in self._pages(task_id, from_id):
            yield last
        if final := await self._final_event(task, from_id, last):
            yield final

    async def _final_event(self, task: TaskResult | None, start: str, last: Event | None) -> Event | None:
        """Return the final event of a task that has ended, by its record, where its stream does not have that.

        A task that has said nothing has no stream; and records are kept for longer than streams.

        Args:
            task: The record.
            start: Where the reader began, as ``XRANGE`` takes it.
            last: The last event that it has read since.
        """
        status = EVENT_STATUS.get(task.status) if task else None
        if task is None or status is None or (last is not None and is_final(last)):
            return None
        ended = max((int((task.completed_at or 0) * 1000), 0), _place(last.entry_id, 1) if last else (0, 0))
        if last is None and start not in {"0", "-"}:
            rows: Any = await answer(self.client.xrevrange(self._keys.event_stream(task.task_id), count=1))
            seen = ended <= _place(start.removeprefix("("), 0 if start.startswith("(") else -1)
            if seen or (rows and rows[0][1].get("at", "").endswith("!")):
                return None
        messages = {
            "completed": f"Agent '{task.agent_name or ''}' completed execution",
            "cancelled": f"Task {task.task_id} cancelled",
        }
        event = StatusEvent(
            status=status,
            agent_name=task.agent_name or "",
            message=messages.get(status, task.error or ""),
            error_type=(task.error_type or "") if status == "error" else "",
            seq=last.seq + 1 if last and last.attempt == task.attempt else 1,
            attempt=task.attempt,
        )
        event.entry_id = "{}-{}".format(*ended)
        return event

    async def _pages(self, task_id: str, start: str, rows: Any = None) -> AsyncIterator[Event]:
        """Yield the events from there on; ``rows`` are the first of them, where they were read already."""
        while True:
            if rows is None:
                rows = await answer(
                    self.client.xrange(self._keys.event_stream(task_id), start, count=PAGE), within=PAGE_WITHIN
                )
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
            if len(rows) < PAGE:
                return
            rows = None

    async def _look(self, task_id: str, start: str) -> tuple[TaskResult | None, Any]:
        """Return a task and the first of its events from there on, in one round trip: a reader of text waits for it."""
        async with self.client.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(self._keys.task(task_id))
            pipeline.xrange(self._keys.event_stream(task_id), start, count=PAGE)
            record, rows = await pipeline.execute(raise_on_error=False)
        if isinstance(rows, Exception):
            raise rows
        return read_record(task_id, record), rows

    async def subscribe(self, task_id: str, *, from_id: str = "0", after: str | None = None) -> AsyncIterator[Event]:
        """Yield a task's events until its final status event, however late the caller joins.

        The channel says that there is something to read, the stream says what: a message lost with a connection costs
        a few seconds, not an event. Where the stream does not have the final event, as of a task that has said nothing
        else, the record tells it. Ends also where the task is unknown.

        Args:
            task_id: The task.
            from_id: The stream entry to begin with.
            after: The ``entry_id`` of the last event seen; the one behind it comes first.

        Raises:
            RedisError: Redis has been away for a minute, or refused in a way that no waiting mends.
        """
        begin = start = from_id if after is None else f"({after}"
        last: Event | None = None
        patience = Patience()
        if self._subscriptions is None:
            self._subscriptions = Subscriptions(self.client)
        while True:
            try:
                async with self._subscriptions.listen(self._keys.events(task_id)) as channel:
                    while True:
                        task, rows = await answer(self._look(task_id, start), within=PAGE_WITHIN)
                        over = task is None or task.status.lasting
                        # In a cluster record and stream have servers of their own: where the task ended in between,
                        # its last events are found the second time.
                        for first in (rows, None) if over else (rows,):
                            async with aclosing(self._pages(task_id, start, first)) as pages:  # type: ignore[type-var]
                                async for last in pages:
                                    start = f"({last.entry_id}"
                                    patience.answered()
                                    yield last
                                    if is_final(last):
                                        return
                        patience.answered()
                        if over:
                            if final := await self._final_event(task, begin, last):
                                yield final
                            return
                        await channel.heard(LOOK_AGAIN)
            except FAILURES as error:
                await patience.wait(error)


def _place(entry_id: str, further: int) -> tuple[int, int]:
    """Return the two numbers of an entry id, the second one so much further."""
    milliseconds, _, number = entry_id.partition("-")
    return (int(milliseconds), int(number or 0) + further) if milliseconds.isdigit() else (0, further)
