"""Runs that take too long, and the one timer that watches them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from orbiter.distributed.connection.deadlines import Deadlines, Limit


class Run:
    """Something that is stopped."""

    def __init__(self, stopped: list[Run]) -> None:
        self._stopped = stopped

    def time_out(self) -> None:
        self._stopped.append(self)


async def test_each_run_is_stopped_at_its_own_time_unless_it_is_over() -> None:
    stopped: list[Any] = []
    deadlines = Deadlines()
    late, early, over, last = runs = [Run(stopped) for _ in range(4)]
    for run, seconds in zip(runs, (0.06, 0.02, 0.04, 0.08), strict=True):
        deadlines.add(run, seconds)
    deadlines.remove(over)
    async with asyncio.timeout(10):
        while len(stopped) < 3:
            await asyncio.sleep(0.01)
    assert stopped == [early, late, last]


async def test_a_run_with_little_time_is_not_kept_waiting_by_those_with_much() -> None:
    stopped: list[Any] = []
    deadlines = Deadlines()
    long, short = Run(stopped), Run(stopped)
    deadlines.add(long, 3600)
    deadlines.remove(long)
    deadlines.add(short, 0.01)
    async with asyncio.timeout(10):
        while not stopped:
            await asyncio.sleep(0.01)
    assert stopped == [short]


async def test_a_block_that_takes_too_long_is_ended_with_a_timeout() -> None:
    deadlines = Deadlines()
    async with asyncio.timeout(10):
        with pytest.raises(TimeoutError), Limit(deadlines, 0.01):
            await asyncio.sleep(60)
        # Who was cancelled by it is not cancelled any more.
        await asyncio.sleep(0.01)
        with Limit(deadlines, 0.01):
            pass
        await asyncio.sleep(0.03)


async def test_a_block_that_was_cancelled_from_outside_as_well_stays_cancelled() -> None:
    ended: list[str] = []

    async def run() -> None:
        try:
            with Limit(Deadlines(), 0.01):
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    asyncio.current_task().cancel()  # type: ignore[union-attr]
                    await asyncio.sleep(60)
        except TimeoutError:
            ended.append("timed out")

    task = asyncio.create_task(run())
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert ended == []


async def test_a_block_with_an_error_of_its_own_keeps_it() -> None:
    with pytest.raises(KeyError), Limit(Deadlines(), 60):
        raise KeyError
