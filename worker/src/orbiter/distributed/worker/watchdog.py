"""Watchdog: tells whether a worker makes progress, to systemd and, from another thread, to the health port."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orbiter.distributed.worker.systemd import notify, watchdog_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TICK = 1.0


class Watchdog:
    """Notes what each part of a worker waits for, and that the event loop turns.

    Args:
        limit: Seconds after which a step, or a loop that does not turn, counts as stuck.
        clock: Monotonic seconds.
    """

    def __init__(self, limit: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._since: dict[str, float] = {}
        self._turned = self._clock()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Do something that must end in time."""
        self._since[name] = self._clock()
        try:
            yield
        finally:
            del self._since[name]

    def complaint(self) -> str | None:
        """Return what is stuck, or ``None``."""
        now = self._clock()
        if now - self._turned > self._limit:
            return f"the event loop has been blocked for {now - self._turned:.0f} s: a tool does not yield"
        for name, since in list(self._since.items()):
            if now - since > self._limit:
                return f"{name} has been stuck for {now - since:.0f} s"
        return None

    async def run(self) -> None:
        """Turn until cancelled; feed systemd's watchdog, where there is one, as long as there is no complaint."""
        period = watchdog_interval()
        tick = TICK if period is None else min(TICK, period / 3)
        while True:
            self._turned = self._clock()
            if period is not None and self.complaint() is None:
                notify("WATCHDOG=1")
            await asyncio.sleep(tick)
