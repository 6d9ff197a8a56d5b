"""Runs that take too long, and the one timer that watches them."""

from __future__ import annotations

import asyncio
from typing import Any

from orbiter.distributed.deadlines import TIMED_OUT, Deadlines


class Run:
    """Something that is stopped."""

    def __init__(self, stopped: list[Run]) -> None:
        self._stopped = stopped

    def stop(self, reason: str) -> None:
        assert reason == TIMED_OUT
        self._stopped.append(self)


async def test_each_run_is_stopped_at_its_own_time_and_what_is_over_is_left_alone() -> None:
    stopped: list[Any] = []
    deadlines = Deadlines()
    late, early, over, last = runs = [Run(stopped) for _ in range(4)]
    for run, seconds in zip(runs, (0.06, 0.02, 0.04, 0.08), strict=True):
        deadlines.add(run, seconds)  # type: ignore[arg-type]
    deadlines.remove(over)  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        while len(stopped) < 3:
            await asyncio.sleep(0.01)
    assert stopped == [early, late, last]


async def test_a_run_with_little_time_is_not_kept_waiting_by_those_with_much() -> None:
    stopped: list[Any] = []
    deadlines = Deadlines()
    long, short = Run(stopped), Run(stopped)
    deadlines.add(long, 3600)  # type: ignore[arg-type]
    deadlines.remove(long)  # type: ignore[arg-type]
    deadlines.add(short, 0.01)  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        while not stopped:
            await asyncio.sleep(0.01)
    assert stopped == [short]
