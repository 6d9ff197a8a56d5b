"""Slots: claims run, from their start to the record of their end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orbiter.distributed.broker.records import Recorded
from orbiter.distributed.execution.endings import Cancelled, Completed, Failed, Requeued
from orbiter.distributed.execution.metering import TaskMeter
from orbiter.distributed.execution.running import SETTLE_GRACE
from orbiter.distributed.execution.slot import TaskTimeoutError
from orbiter.distributed.models import InvalidPayloadError
from orbiter.distributed.telemetry import metrics
from orbiter.distributed.worker.flow import ClaimFlow
from orbiter.distributed.worker.slots import Slots
from tests.unit.scripted import ScriptedExecutor, ScriptedSettler, claim, completes, publisher, queue_name
from tests.unit.virtual_time import clock, never, turns

LEASE = 30.0


class Running:
    """Slots with a scripted executor and settler."""

    def __init__(self, work: Any = completes, slots: int = 2) -> None:
        self.queue = queue_name()
        self.flow = ClaimFlow(slots, lease=LEASE, clock=clock)
        self.executor, self.settler = ScriptedExecutor(work), ScriptedSettler()
        self.slots = Slots(
            self.flow,
            executor=self.executor,
            publisher=publisher(),
            settler=self.settler,  # type: ignore[arg-type]
            meter=TaskMeter(self.queue, "w1", clock=clock),
            lease=LEASE,
            clock=clock,
        )

    async def begin(self, task_id: str = "t1", problem: Any = None, **fields: Any) -> None:
        self.slots.begin(claim(task_id, entry=f"{task_id[1:]}-0", **fields), problem, clock())
        await turns()

    def record(self, *recorded: Recorded) -> None:
        for (slot, done), what in zip(self.settler.settling, recorded, strict=True):
            done(slot, what)


async def test_slot_is_taken_until_the_end_is_recorded() -> None:
    running = Running()
    await running.begin()
    [(slot, _)] = running.settler.settling
    assert slot.ending() == Completed('{"output":"done"}')
    assert slot.leased_until == clock() + LEASE
    assert running.flow.free == 1
    running.flow.news.clear()
    running.record(Recorded.COMPLETED)
    assert running.flow.free == 2
    assert running.flow.runs.completed == 1
    assert running.flow.news.is_set()
    assert running.flow.look_again.is_set()


@pytest.mark.parametrize(
    ("recorded", "completed", "failed", "given_up"),
    [
        (Recorded.FAILED, 0, 1, {}),
        (Recorded.RETRYING, 0, 1, {}),
        (Recorded.PENDING, 0, 0, {}),
        (Recorded.DELEGATED, 0, 0, {}),
        (Recorded.CANCELLED, 0, 0, {}),
        (Recorded.LOST, 0, 0, {"1-0": 4}),
    ],
    ids=lambda value: value.value if isinstance(value, Recorded) else "",
)
async def test_slots_count_an_end_by_what_stands(
    recorded: Recorded, completed: int, failed: int, given_up: dict[str, int]
) -> None:
    running = Running()
    await running.begin(deliveries=4)
    running.record(recorded)
    runs = running.flow.runs
    assert (runs.completed, runs.failed, running.flow.given_up) == (completed, failed, given_up)


async def test_end_of_a_run_is_logged_by_task_and_attempt(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    running = Running()
    await running.begin(attempt=3)
    caplog.clear()
    running.record(Recorded.COMPLETED)
    [record] = caplog.records
    assert (vars(record)["task_id"], vars(record)["attempt"], record.args[0]) == ("t1", 3, "completed")  # type: ignore[index]


async def test_end_of_a_run_that_failed_is_logged_with_type_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(*_: Any) -> Completed:
        raise LookupError("no such city")

    caplog.set_level("INFO")
    running = Running(fails)
    await running.begin()
    caplog.clear()
    running.record(Recorded.FAILED)
    [record] = caplog.records
    assert (vars(record)["error_type"], vars(record)["error"]) == ("LookupError", "no such city")


async def test_slots_count_an_end_once() -> None:
    running = Running()
    await running.begin()
    running.record(Recorded.COMPLETED)
    running.record(Recorded.COMPLETED)
    assert running.flow.runs.completed == 1
    assert metrics.RUNNING.values()[running.queue,] == 0


async def test_fault_in_settling_keeps_no_slot() -> None:
    running = Running()
    running.settler.fault = ZeroDivisionError()
    await running.begin()
    assert running.flow.free == 2
    assert running.flow.given_up == {"1-0": 1}


async def test_task_with_a_wrong_payload_fails_without_a_run() -> None:
    running, problem = Running(), InvalidPayloadError("input: must be a text")
    await running.begin(problem=problem)
    assert running.executor.executed == []
    [(slot, _)] = running.settler.settling
    assert slot.ending() == Failed(problem)


async def test_run_is_stopped_at_the_executors_time_limit() -> None:
    running = Running(never)
    running.executor.limit = 7.0
    await running.begin()
    await asyncio.sleep(6.9)
    assert running.settler.settling == []
    await asyncio.sleep(0.2)
    [(slot, _)] = running.settler.settling
    ending = slot.ending()
    assert isinstance(ending, Failed)
    assert isinstance(ending.error, TaskTimeoutError)


async def test_run_is_never_stopped_where_the_executor_sets_no_limit() -> None:
    running = Running(never)
    await running.begin(timeout_seconds=5)
    await asyncio.sleep(1000)
    assert running.settler.settling == []
    running.slots.cancel("t1")
    await turns()


async def test_cancel_reaches_the_slot_and_the_executor() -> None:
    running = Running(never)
    await running.begin("t1")
    await running.begin("t2")
    running.slots.cancel("t2")
    await turns()
    [(slot, _)] = running.settler.settling
    assert (slot.claim.task.task_id, slot.ending()) == ("t2", Cancelled())
    assert running.executor.cancelled == ["t2"]
    running.slots.cancel("t1")
    await turns()


async def test_drain_requeues_at_the_deadline_what_still_runs() -> None:
    running = Running(never)
    await running.begin()
    draining = asyncio.create_task(running.slots.drain(clock() + 10, asyncio.Event()))
    await asyncio.sleep(9.9)
    assert running.settler.settling == []
    await asyncio.sleep(0.2)
    [(slot, _)] = running.settler.settling
    assert isinstance(slot.ending(), Requeued)
    running.record(Recorded.PENDING)
    assert await draining == 1
    assert not running.settler.given_up


async def test_drain_gives_up_outcomes_that_redis_does_not_take() -> None:
    running = Running(never)
    await running.begin()
    began = clock()
    assert await running.slots.drain(began + 10, asyncio.Event()) == 1
    assert clock() == pytest.approx(began + 10 + SETTLE_GRACE)
    assert running.settler.given_up
