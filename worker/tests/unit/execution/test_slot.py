"""Slot: one run, the ways to stop it, and what it ended in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from orbiter.distributed.connection.deadlines import Deadlines
from orbiter.distributed.execution.endings import (
    Cancelled,
    Completed,
    Delegated,
    Ending,
    Failed,
    Lost,
    Requeued,
    StopReason,
)
from orbiter.distributed.execution.slot import ABANDON_AFTER, Slot, TaskTimeoutError
from tests.unit.scripted import claim, completes, publisher
from tests.unit.virtual_time import clock, never, turns


class Run:
    """A slot, and how often and when it was over."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, Any]], **task: Any) -> None:
        self.over_at: list[float] = []
        self.deadlines = Deadlines(clock)
        self.slot = Slot(claim(**task), publisher().log("t1", 1), clock() + 30, started=clock())
        self.slot.begin(work(), deadlines=self.deadlines, on_over=lambda _: self.over_at.append(clock()))

    async def ending(self) -> Ending:
        while not self.over_at:
            await asyncio.sleep(0.01)
        return self.slot.ending()


async def ignores_cancellation() -> Any:
    """As a synchronous tool in a thread does."""
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        await asyncio.sleep(3600)


async def fails() -> Any:
    raise ValueError("broken")


async def delegates() -> Any:
    return Delegated("w1")


@pytest.mark.parametrize(
    ("work", "kind"),
    [(completes, Completed), (fails, Failed), (delegates, Delegated)],
    ids=lambda value: value.__name__,
)
async def test_slot_ends_in_what_its_run_returned_or_raised(work: Any, kind: type) -> None:
    run = Run(work)
    assert isinstance(await run.ending(), kind)
    assert len(run.over_at) == 1


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (StopReason.CANCELLED, Cancelled),
        (StopReason.REQUEUED, Requeued),
        (StopReason.TIMED_OUT, Failed),
        (StopReason.LOST, Lost),
    ],
    ids=str,
)
async def test_slot_ends_by_the_reason_it_was_stopped_for(reason: StopReason, kind: type) -> None:
    run = Run(never)
    await turns()
    run.slot.stop(reason)
    assert run.slot.token.cancelled
    assert isinstance(await run.ending(), kind)


async def test_slot_times_out_when_its_deadline_passes() -> None:
    run = Run(never, timeout_seconds=5)
    began = clock()
    run.deadlines.add(run.slot, 5)
    ending = await run.ending()
    assert isinstance(ending, Failed)
    assert isinstance(ending.error, TaskTimeoutError)
    assert run.over_at == [pytest.approx(began + 5)]


async def test_slot_keeps_the_first_reason() -> None:
    run = Run(never)
    run.slot.stop(StopReason.CANCELLED)
    run.slot.stop(StopReason.REQUEUED)
    assert isinstance(await run.ending(), Cancelled)


async def test_slot_is_lost_whatever_it_was_stopped_for_before() -> None:
    run = Run(never)
    run.slot.stop(StopReason.CANCELLED)
    run.slot.stop(StopReason.LOST)
    assert isinstance(await run.ending(), Lost)
    assert run.slot.log.closed


async def test_slot_that_completed_is_lost_all_the_same() -> None:
    run = Run(completes)
    await run.ending()
    run.slot.stop(StopReason.LOST)
    assert isinstance(run.slot.ending(), Lost)


async def test_slot_that_completes_while_it_is_cancelled_completed() -> None:
    async def finishes() -> Any:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return Completed("null")

    run = Run(finishes)
    await turns()
    run.slot.stop(StopReason.CANCELLED)
    assert await run.ending() == Completed("null")


async def test_slot_that_fails_while_it_is_stopped_ends_by_the_reason() -> None:
    async def falls_over() -> Any:
        try:
            await asyncio.sleep(60)
        finally:
            raise OSError

    run = Run(falls_over)
    await turns()
    run.slot.stop(StopReason.REQUEUED)
    assert isinstance(await run.ending(), Requeued)


async def test_slot_abandons_a_run_that_ignores_its_stop() -> None:
    run = Run(ignores_cancellation)
    await turns()
    stopped = clock()
    run.slot.stop(StopReason.CANCELLED)
    assert isinstance(await run.ending(), Cancelled)
    assert run.over_at == [pytest.approx(stopped + ABANDON_AFTER)]


async def test_slot_fails_where_its_run_cancelled_itself() -> None:
    async def cancels_itself() -> Any:
        raise asyncio.CancelledError

    assert isinstance(await Run(cancels_itself).ending(), Failed)


async def test_slot_contains_what_would_end_the_process() -> None:
    async def exits() -> Any:
        raise SystemExit(3)

    ending = await Run(exits).ending()
    assert isinstance(ending, Failed)
    assert isinstance(ending.error.__cause__, SystemExit)


async def test_slot_names_the_agent_of_its_task() -> None:
    run = Run(completes, agent_config={"name": "writer"})
    assert run.slot.agent_name == run.slot.agent_name == "writer"
    await run.ending()
