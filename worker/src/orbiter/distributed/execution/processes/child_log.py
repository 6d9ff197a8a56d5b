"""ChildLog: takes the events of a run in an executor process, and sends what the supervisor gives credit for."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import TYPE_CHECKING

from orbiter.distributed.errors import describe, kind_of
from orbiter.distributed.execution.processes.frames import Kind
from orbiter.distributed.limits import BYTES_A_CHARACTER, MERGED_TEXT
from orbiter.distributed.models import ErrorEvent, Event, TextEvent, emitted_event, is_final
from orbiter.distributed.telemetry.instruments import NAME_CAP

if TYPE_CHECKING:
    from orbiter.distributed.execution.processes.frames import Channel

# Bytes of events of one run that may be on their way; the supervisor gives them back as Redis takes the events.
CREDIT = 500_000
# Beyond the credit this much is kept for a coroutine, which cannot be made to wait; then events are left out.
KEPT = 4_000_000
# A coroutine or generator that never waits lets the loop turn this often, seconds.
TURN_EVERY = 0.005
LOOK_AGAIN = 0.5


class ChildLog:
    """The events of one run.

    A thread that emits beyond the credit waits; an async generator does so in :meth:`pace`.

    Args:
        channel: To the supervisor, on the loop.
        run: Number of the run.
        largest: Largest event, bytes of JSON.
        loop: The loop that runs tasks.
    """

    def __init__(self, channel: Channel, run: int, largest: int, loop: asyncio.AbstractEventLoop) -> None:
        self.closed = False
        self._channel = channel
        self._run = run
        self._largest = largest
        self._piece = min(MERGED_TEXT, largest // BYTES_A_CHARACTER)
        self._loop = loop
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._size = 0
        self._credit = CREDIT
        self._scheduled = False
        self._may_emit = threading.Event()
        self._may_emit.set()
        self._turned = time.monotonic()
        self._left_out = [0, 0]

    def emit(self, event: Event | str) -> None:
        """Add an event; a string is text. Callable from any thread: one that is not the loop's may have to wait.

        Raises:
            TypeError: It is neither.
        """
        if self.closed:
            return
        event = emitted_event(event)
        if is_final(event):
            return
        in_loop = asyncio._get_running_loop() is self._loop  # noqa: SLF001 - get_running_loop() without exception
        if not in_loop:
            while not self._may_emit.wait(LOOK_AGAIN) and not self.closed:
                pass
        with self._lock:
            self._append(event)
            if self._scheduled:
                return
            self._scheduled = True
        if in_loop:
            self._loop.call_soon(self.flush)
        else:
            self._loop.call_soon_threadsafe(self.flush)

    def spend(self, model: str, agent: str, tokens_in: int, tokens_out: int) -> None:
        """Tell the supervisor of an answer of a model. Callable from any thread."""
        body = json.dumps([model[:NAME_CAP], agent[:NAME_CAP], int(tokens_in), int(tokens_out)]).encode()
        if asyncio._get_running_loop() is self._loop:  # noqa: SLF001 - get_running_loop() without exception
            self._send_spent(body)
        else:
            self._loop.call_soon_threadsafe(self._send_spent, body)

    def _send_spent(self, body: bytes) -> None:
        if not self.closed:
            self._channel.send(Kind.SPENT, self._run, body)

    async def pace(self) -> None:
        """Return when more may be emitted; let others have their turn."""
        while not self._may_emit.is_set() and not self.closed:  # noqa: ASYNC110 - threads wait for the same
            await asyncio.sleep(0.01)
        now = time.monotonic()
        if now - self._turned > TURN_EVERY:
            await asyncio.sleep(0)
            self._turned = time.monotonic()

    def _append(self, event: Event) -> None:
        size = len(event.text) if isinstance(event, TextEvent) else 100
        if self._size + size > KEPT:
            self._left_out[0] += 1
            self._left_out[1] += size
            return
        events = self._events
        last = events[-1] if events else None
        if (
            isinstance(event, TextEvent)
            and isinstance(last, TextEvent)
            and last.agent_name == event.agent_name
            and len(last.text) + size <= self._piece
        ):
            events[-1] = last.model_copy(update={"text": last.text + event.text})
        else:
            events.append(event)
        self._size += size
        if self._size > self._credit:
            self._may_emit.clear()

    def flush(self) -> None:
        """Send what there is credit for; on the loop."""
        with self._lock:
            self._scheduled = False
            while self._events and self._credit > 0:
                event = self._events.pop(0)
                self._size -= len(event.text) if isinstance(event, TextEvent) else 100
                for text in self._texts(event):
                    self._credit -= len(text)
                    self._channel.send(Kind.EVENTS, self._run, text)
            if self._left_out[0] and self._credit > 0:
                number, size = self._left_out
                self._left_out = [0, 0]
                error = f"{number} events of {size} bytes were left out: they came faster than Redis took them"
                notice = ErrorEvent(error=error, error_type="EventsLeftOutError", recoverable=True)
                self._channel.send(Kind.EVENTS, self._run, notice.to_json().encode())
            if self._size <= self._credit:
                self._may_emit.set()

    def give(self, credit: int) -> None:
        """Take credit."""
        self._credit = min(CREDIT, self._credit + credit)
        self.flush()

    def close(self) -> None:
        """Take no more events, and send all there are: the frame of the run's end comes behind them."""
        self._credit = max(self._credit, KEPT * 20)
        self.flush()
        self.closed = True
        self._may_emit.set()

    def _texts(self, event: Event) -> list[bytes]:
        if isinstance(event, TextEvent) and len(event.text) > self._piece:
            piece = self._piece
            pieces = (event.text[at : at + piece] for at in range(0, len(event.text), piece))
            return [self._json(event.model_copy(update={"text": text})) for text in pieces]
        return [self._json(event)]

    def _json(self, event: Event) -> bytes:
        try:
            text = event.to_json().encode()
        except BaseException as error:  # noqa: BLE001 - what is in it is user code's
            return _instead(f"an event of type {event.type!r:.100} is not JSON: {describe(error)}", kind_of(error))
        if len(text) > self._largest:
            reason = (
                f"an event of type {event.type!r:.100} was left out: {len(text)} bytes as JSON are more than the"
                f" {self._largest} of --max-event-bytes (ORBITER_MAX_EVENT_BYTES)"
            )
            return _instead(reason, "EventTooLargeError")
        return text


def _instead(error: str, error_type: str) -> bytes:
    return ErrorEvent(error=error, error_type=error_type, recoverable=True).to_json().encode()
