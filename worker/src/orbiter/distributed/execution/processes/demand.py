"""Demand: who waits for an executor process, and that one may be wanted."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Demand:
    """Those who wait for a process.

    Args:
        clock: Monotonic seconds.

    Attributes:
        wanted: Set where it may be that a process must be started.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.wanted = asyncio.Event()
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        # Since when claims wait that must run alone (monotonic).
        self._alone: list[float] = []

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def waiting_alone(self) -> int:
        """How many claims wait that must run alone."""
        return len(self._alone)

    def longest_alone(self) -> float:
        """Return for how long such a claim has waited at most, seconds; 0 where there is none."""
        now = self._clock()
        return now - min(self._alone, default=now)

    @contextmanager
    def counted_alone(self) -> Iterator[None]:
        """Count a claim among those that wait and must run alone."""
        since = self._clock()
        self._alone.append(since)
        try:
            yield
        finally:
            self._alone.remove(since)

    async def woken(self) -> None:
        """Return when it is worth while to look again."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiter)

    def wake(self) -> None:
        """Let those who wait look again."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()
