"""Loop lag: for how long an event loop did not turn, lately."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TICK = 0.5
LATELY = 60.0


class LoopLag:
    """Measures by how much a loop wakes late.

    Args:
        clock: Monotonic seconds, by the event loop's clock.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # When, and how late. Each is later than all behind it, as only the longest counts.
        self._late: deque[tuple[float, float]] = deque()
        self._due: float | None = None

    async def watch(self) -> None:
        """Measure until cancelled."""
        try:
            while True:
                self._due = self._clock() + TICK
                await asyncio.sleep(TICK)
                self._note(self._clock(), self._clock() - self._due)
        finally:
            self._due = None

    def _note(self, now: float, late: float) -> None:
        while self._late and self._late[-1][1] <= late:
            self._late.pop()
        self._late.append((now, late))

    def lately(self) -> float:
        """Return the longest delay of the last minute, seconds; also callable while the loop is late."""
        now = self._clock()
        while self._late and now - self._late[0][0] > LATELY:
            self._late.popleft()
        longest = self._late[0][1] if self._late else 0.0
        return max(longest, 0.0 if self._due is None else now - self._due, 0.0)
