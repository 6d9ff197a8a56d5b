"""Deadlines: stops runs that take too long. One timer for all, as one for each would cost as much as a small task."""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orbiter.distributed.slot import Slot

TIMED_OUT = "timed out"


class Deadlines:
    """Knows when each run must have ended. Belongs to one event loop."""

    def __init__(self) -> None:
        self._ends: dict[Slot, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = inf

    def add(self, slot: Slot, seconds: float) -> None:
        """Stop a run when so many seconds have passed."""
        at = time.monotonic() + seconds
        self._ends[slot] = at
        if at < self._rings_at:
            self._set(at)

    def remove(self, slot: Slot) -> None:
        """Forget a run, as it is over; the timer is left as it is, and finds nothing to do."""
        self._ends.pop(slot, None)

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), self._ring)

    def _ring(self) -> None:
        self._timer, self._rings_at = None, inf
        now = time.monotonic()
        for slot, at in list(self._ends.items()):
            if at <= now:
                del self._ends[slot]
                slot.stop(TIMED_OUT)
        if self._ends:
            self._set(min(self._ends.values()))
