"""Deadlines: stops what takes too long. One timer for all, as one for each would cost as much as a small task."""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Limited(Protocol):
    """What can take too long."""

    def time_out(self) -> None:
        """End it: its time is over."""


class Deadlines:
    """Knows when each run must have ended. Belongs to one event loop.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: dict[Limited, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = inf

    def add(self, run: Limited, seconds: float) -> None:
        """Stop a run when so many seconds have passed."""
        at = self._clock() + seconds
        self._ends[run] = at
        if at < self._rings_at:
            self._set(at)

    def remove(self, run: Limited) -> None:
        """Forget a run, as it is over; the timer is left as it is, and finds nothing to do."""
        self._ends.pop(run, None)

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self._clock()), self._ring)

    def _ring(self) -> None:
        self._timer, self._rings_at = None, inf
        now = self._clock()
        for run, at in list(self._ends.items()):
            if at <= now:
                del self._ends[run]
                run.time_out()
        if self._ends:
            self._set(min(self._ends.values()))


class Limit:
    """A block that must end in time, as ``asyncio.timeout`` has it, for what is done with each task.

    Args:
        deadlines: Watches it.
        seconds: How long it may take.

    Raises:
        TimeoutError: At the end of the block, which was cancelled.
    """

    __slots__ = ("_deadlines", "_overdue", "_seconds", "_task")

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self._overdue = False

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._deadlines.add(self, self._seconds)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._deadlines.remove(self)
        # Where somebody else asked for the end as well, that stands.
        if self._overdue and self._task and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def time_out(self) -> None:
        """Cancel the block."""
        self._overdue = True
        if self._task:
            self._task.cancel("timed out")
