"""LoopLag: for how long an event loop did not turn, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from orbiter.distributed.execution.loop_lag import LATELY, TICK, LoopLag


class Clock:
    """The loop's time, plus what it was blocked for."""

    def __init__(self) -> None:
        self.blocked = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.blocked


async def watched() -> tuple[Clock, LoopLag, asyncio.Task[None]]:
    clock = Clock()
    lag = LoopLag(clock=clock)
    watching = asyncio.create_task(lag.watch())
    await asyncio.sleep(TICK * 1.5)
    return clock, lag, watching


async def test_lag_is_that_of_the_longest_silence_of_the_last_minute() -> None:
    clock, lag, _ = await watched()
    assert lag.lately() == pytest.approx(0)
    for seconds in (3, 7, 2):
        clock.blocked += seconds
        await asyncio.sleep(10)
    assert lag.lately() == pytest.approx(7)
    await asyncio.sleep(LATELY - 15)
    assert lag.lately() == pytest.approx(2)
    await asyncio.sleep(LATELY)
    assert lag.lately() == pytest.approx(0)


async def test_lag_is_seen_while_the_loop_is_still_silent() -> None:
    clock, lag, _ = await watched()
    clock.blocked += 5
    assert lag.lately() == pytest.approx(5 - TICK / 2)


async def test_lag_grows_no_more_once_nobody_watches() -> None:
    clock, lag, watching = await watched()
    watching.cancel()
    await asyncio.wait({watching})
    clock.blocked += 5
    assert lag.lately() == pytest.approx(0)
