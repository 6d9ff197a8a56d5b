"""RunTable: what runs, and how it is waited for and stopped."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

import pytest

from orbiter.distributed.connection.deadlines import Deadlines
from orbiter.distributed.execution.endings import StopReason
from orbiter.distributed.execution.running import SETTLE_GRACE, RunTable
from orbiter.distributed.execution.slot import Slot
from tests.unit.scripted import claim, publisher
from tests.unit.virtual_time import clock, never


class Table:
    """A table with runs that are removed when they are over, unless their ends are not to be recorded."""

    def __init__(self, number: int, *, work: Any = never, recorded: bool = True) -> None:
        self.runs = RunTable(clock=clock)
        self.slots = []
        for at in range(number):
            slot = Slot(claim(f"t{at}", entry=f"{at}-0"), publisher().log(f"t{at}", 1), clock() + 30, started=clock())
            self.runs.add(slot)
            slot.begin(work(), deadlines=Deadlines(clock), on_over=self.runs.remove if recorded else (lambda _: None))
            self.slots.append(slot)
        self.hurry = asyncio.Event()

    @property
    def reasons(self) -> list[StopReason | None]:
        return [slot.reason for slot in self.slots]


async def test_table_lets_go_of_a_run_once() -> None:
    table = Table(1)
    [slot] = table.slots
    assert not table.runs.empty.is_set()
    assert table.runs.remove(slot)
    assert not table.runs.remove(slot)
    assert table.runs.empty.is_set()
    slot.stop(StopReason.LOST)


async def test_table_keeps_another_run_of_the_same_entry() -> None:
    table, other = Table(1), Table(1)
    assert not table.runs.remove(other.slots[0])
    assert list(table.runs.held) == ["0-0"]


async def test_table_stops_the_run_of_one_task() -> None:
    table = Table(3)
    assert table.runs.stop(StopReason.CANCELLED, "t1")
    assert table.reasons == [None, StopReason.CANCELLED, None]
    assert not table.runs.stop(StopReason.CANCELLED, "t9")


async def test_drain_returns_at_once_where_nothing_runs() -> None:
    table = Table(0)
    assert await table.runs.drain(inf, table.hurry) == 0


async def test_drain_lets_runs_end_before_the_deadline() -> None:
    async def ends_soon() -> Any:
        await asyncio.sleep(4)

    table, began = Table(2, work=ends_soon), clock()
    assert await table.runs.drain(began + 10, table.hurry) == 0
    assert clock() == pytest.approx(began + 4)
    assert table.reasons == [None, None]


async def test_drain_waits_without_end_where_there_is_no_deadline() -> None:
    async def ends_late() -> Any:
        await asyncio.sleep(50_000)

    table = Table(1, work=ends_late)
    assert await table.runs.drain(inf, table.hurry) == 0


async def test_drain_requeues_runs_that_outlive_the_deadline() -> None:
    table, began = Table(2), clock()
    assert await table.runs.drain(began + 10, table.hurry) == 2
    assert clock() == pytest.approx(began + 10)
    assert table.reasons == [StopReason.REQUEUED] * 2
    assert table.runs.held == {}


async def test_drain_requeues_at_once_when_told_to_hurry() -> None:
    table, began = Table(1), clock()
    asyncio.get_running_loop().call_later(3, table.hurry.set)
    assert await table.runs.drain(began + 10, table.hurry) == 1
    assert clock() == pytest.approx(began + 3)


async def test_drain_waits_a_grace_for_outcomes_to_be_recorded() -> None:
    table, began = Table(1, recorded=False), clock()
    assert await table.runs.drain(began + 10, table.hurry) == 1
    assert clock() == pytest.approx(began + 10 + SETTLE_GRACE)
    assert len(table.runs.held) == 1
