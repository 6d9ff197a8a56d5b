"""Streams: pages as they change, made once however many look at them; a task's events, from where a browser was."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orbiter.dashboard.timeline import row_of
from orbiter.dashboard.view import shown
from orbiter.distributed.models import ReasoningEvent, TextEvent, is_final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from orbiter.dashboard.view import View
    from orbiter.distributed.models import Event

# Streams at once, and of them those of one address.
MOST = 300
OF_AN_ADDRESS = 100
EVERY = 0.5
# A page that takes long to make rests for so many times as long: it never has more than a fifth of the time.
RESTS = 4
# Seconds without news after which a line says that somebody is still there.
SILENCE = 15.0
# Seconds after which a stream ends; the browser opens it again.
LONGEST = 900.0
RETRY_MS = 1000
_EVENT_ID = re.compile(r"\d{1,20}-\d{1,20}")


class FullError(RuntimeError):
    """There are as many streams as there may be."""


class Seats:
    """Counts the streams that are open."""

    def __init__(self, most: int = MOST, of_an_address: int = OF_AN_ADDRESS) -> None:
        self._most, self._of_an_address = most, of_an_address
        self._taken: dict[str, int] = {}

    def take(self, address: str) -> None:
        """Count one more.

        Raises:
            FullError: There is no place for it.
        """
        if sum(self._taken.values()) >= self._most or self._taken.get(address, 0) >= self._of_an_address:
            raise FullError(
                f"Too many pages show events live: {self._most} may, {self._of_an_address} of them from one address."
                " Close some."
            )
        self._taken[address] = self._taken.get(address, 0) + 1

    def free(self, address: str) -> None:
        """Count one less."""
        self._taken[address] -= 1
        if not self._taken[address]:
            del self._taken[address]


@dataclass(slots=True)
class _Source:
    """A page that somebody looks at."""

    watchers: int = 0
    digest: str = ""
    text: str = ""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    making: asyncio.Task[None] | None = None


class Live:
    """Makes pages again, twice a second at most, while somebody looks at them.

    Args:
        make: Returns a page, by its name and query, as HTML; raises nothing.
    """

    def __init__(self, make: Callable[[str, str], Awaitable[str]]) -> None:
        self._make = make
        self._sources: dict[tuple[str, str], _Source] = {}

    async def follow(self, page: str, query: str, *, seen: str = "") -> AsyncGenerator[bytes]:
        """Yield a page whenever it is another one than the browser has seen."""
        began = time.monotonic()
        yield f"retry: {RETRY_MS}\n\n".encode()
        async with self._watched(page, query) as source:
            while time.monotonic() - began < LONGEST:
                if source.digest and source.digest != seen:
                    seen = source.digest
                    yield message(source.text, event="page", entry=seen)
                    continue
                try:
                    async with asyncio.timeout(SILENCE), source.changed:
                        await source.changed.wait_for(lambda: source.digest not in {"", seen})  # noqa: B023
                except TimeoutError:
                    yield b": still here\n\n"

    @asynccontextmanager
    async def _watched(self, page: str, query: str) -> AsyncIterator[_Source]:
        source = self._sources.setdefault((page, query), _Source())
        source.watchers += 1
        if source.making is None:
            source.making = asyncio.create_task(self._keep(page, query, source))
        try:
            yield source
        finally:
            source.watchers -= 1
            if not source.watchers:
                source.making.cancel()
                del self._sources[page, query]

    async def _keep(self, page: str, query: str, source: _Source) -> None:
        while True:
            began = time.monotonic()
            text = await self._make(page, query)
            took = time.monotonic() - began
            digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
            if digest != source.digest:
                async with source.changed:
                    source.digest, source.text = digest, text
                    source.changed.notify_all()
            await asyncio.sleep(max(EVERY, RESTS * took))


async def task_events(events: AsyncIterator[Event], view: View) -> AsyncGenerator[bytes]:
    """Yield a task's events as they come: text as JSON, everything else as a row of HTML, at last ``end``."""
    began = time.monotonic()
    yield f"retry: {RETRY_MS}\n\n".encode()
    async with aclosing(events):  # type: ignore[type-var]
        waiting = asyncio.ensure_future(anext(events, None))
        try:
            while time.monotonic() - began < LONGEST:
                done, _ = await asyncio.wait({waiting}, timeout=SILENCE)
                if not done:
                    yield b": still here\n\n"
                    continue
                event = waiting.result()
                if event is None:
                    break
                yield _encoded(event, view)
                if is_final(event):
                    break
                waiting = asyncio.ensure_future(anext(events, None))
            else:
                return
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
    yield message("", event="end")


async def until(stream: AsyncGenerator[bytes], over: asyncio.Event) -> AsyncGenerator[bytes]:
    """Yield what a stream yields until it ends, or the server does."""
    ending = asyncio.create_task(over.wait())
    try:
        while True:
            waiting = asyncio.ensure_future(anext(stream, None))
            try:
                await asyncio.wait({waiting, ending}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not waiting.done():
                    waiting.cancel()
                    await asyncio.gather(waiting, return_exceptions=True)
            if waiting.cancelled() or (chunk := waiting.result()) is None:
                return
            yield chunk
    finally:
        ending.cancel()
        await stream.aclose()


def _encoded(event: Event, view: View) -> bytes:
    if isinstance(event, TextEvent | ReasoningEvent):
        body = json.dumps({"text": shown(event.text), "attempt": event.attempt})
        return message(body, event=event.type, entry=event.entry_id)
    return message(view.text("_event.html", row=row_of(event)), event="row", entry=event.entry_id)


def message(text: str, *, event: str, entry: str = "") -> bytes:
    """Return a server-sent event."""
    lines = [f"event: {event}", *([f"id: {entry}"] if entry else []), *(f"data: {line}" for line in text.split("\n"))]
    return ("\n".join(lines) + "\n\n").encode("utf-8", "replace")


def place(text: str) -> str | None:
    """Return the entry id that a browser has seen last, ``None`` where that is none."""
    return text if _EVENT_ID.fullmatch(text) else None
