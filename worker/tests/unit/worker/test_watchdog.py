"""Watchdog: whether a worker makes progress."""

from __future__ import annotations

import asyncio

import pytest

from orbiter.distributed.worker import watchdog as module
from orbiter.distributed.worker.watchdog import TICK, Watchdog
from tests.unit.virtual_time import clock


class Seconds:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_watchdog_complains_of_a_step_that_takes_too_long() -> None:
    seconds = Seconds()
    watchdog = Watchdog(10, clock=seconds)
    with watchdog.step("fetch"):
        seconds.now += 10
        assert watchdog.complaint() is None
        watchdog._turned = seconds.now
        seconds.now += 1
        complaint = watchdog.complaint()
    assert complaint is not None
    assert "fetch" in complaint
    assert watchdog.complaint() is None


def test_watchdog_complains_of_a_loop_that_does_not_turn() -> None:
    seconds = Seconds()
    watchdog = Watchdog(10, clock=seconds)
    seconds.now += 10.5
    complaint = watchdog.complaint()
    assert complaint is not None
    assert "event loop" in complaint


def test_watchdog_ends_a_step_that_raises() -> None:
    seconds = Seconds()
    watchdog = Watchdog(10, clock=seconds)
    with pytest.raises(KeyError), watchdog.step("fetch"):
        raise KeyError
    assert watchdog._since == {}


@pytest.mark.parametrize(("interval", "tick"), [(None, TICK), (30.0, TICK), (1.5, 0.5)])
async def test_watchdog_turns_often_enough_for_systemd(
    interval: float | None, tick: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    monkeypatch.setattr(module, "watchdog_interval", lambda: interval)
    monkeypatch.setattr(module, "notify", lambda *_: told.append(clock()))
    watchdog = Watchdog(10, clock=clock)
    began = clock()
    running = asyncio.create_task(watchdog.run())
    await asyncio.sleep(tick * 3.5)
    assert watchdog._turned == pytest.approx(began + tick * 3)
    assert told == ([] if interval is None else [pytest.approx(began + tick * at) for at in range(4)])
    running.cancel()


async def test_watchdog_does_not_feed_systemd_while_a_step_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    monkeypatch.setattr(module, "watchdog_interval", lambda: 3.0)
    monkeypatch.setattr(module, "notify", lambda *_: told.append(clock()))
    watchdog = Watchdog(10, clock=clock)
    began = clock()
    running = asyncio.create_task(watchdog.run())
    with watchdog.step("fetch"):
        await asyncio.sleep(60)
    assert began + 9 <= told[-1] <= began + 10
    running.cancel()
