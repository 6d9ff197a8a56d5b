"""TaskMeter: what becomes of tasks, as numbers."""

from __future__ import annotations

from typing import Any

import pytest

from orbiter.distributed.broker.rates import WAIT_BOUNDS
from orbiter.distributed.broker.records import Recorded, StartResult
from orbiter.distributed.connection.deadlines import Deadlines
from orbiter.distributed.execution.endings import Died
from orbiter.distributed.execution.metering import RECENT, Tally, TaskMeter
from orbiter.distributed.execution.slot import Slot
from orbiter.distributed.telemetry import metrics
from tests.unit.scripted import claim, completes, publisher, queue_name
from tests.unit.virtual_time import turns


class Meter:
    """A meter on a queue of its own, with clocks that the test sets."""

    def __init__(self) -> None:
        self.queue = queue_name()
        self.seconds, self.epoch = 100.0, 50.0
        self.meter = TaskMeter(self.queue, "w1", clock=lambda: self.seconds, now=lambda: self.epoch)

    def count(self, instrument: Any, *labels: str) -> float:
        value = instrument.values().get((self.queue, *labels), 0)
        return getattr(value, "count", value)

    async def slot(self, work: Any = completes, **fields: Any) -> Slot:
        """A slot whose run is over."""
        slot = Slot(claim(agent_config={"name": "a"}, **fields), publisher().log("t1", 1), 0, started=self.seconds)
        slot.begin(work(), deadlines=Deadlines(), on_over=lambda _: None)
        await turns()
        return slot


async def fails() -> Any:
    raise KeyError


async def dies() -> Any:
    return Died("killed by signal 9", "ProcessDiedError", guilty=False, host=False)


async def test_meter_counts_starts_and_how_long_tasks_waited() -> None:
    meter = Meter()
    slots = [await meter.slot(entry=f"{at}-0") for at in (10_000, 40_000, 99_000)]
    meter.meter.started(slots)
    assert meter.count(metrics.RUNNING) == 3
    waited = metrics.WAIT_TIME.values()[meter.queue, "a"]
    # The third one was put there by a clock that is ahead.
    assert (waited.count, waited.total) == (3, pytest.approx(40 + 10 + 0))
    assert meter.meter.recently() == Tally(0, 0, 3, 50.0)


async def test_meter_counts_no_wait_of_a_task_that_was_taken_over() -> None:
    meter = Meter()
    meter.meter.started([await meter.slot(deliveries=2)])
    assert meter.count(metrics.WAIT_TIME, "a") == 0
    assert meter.meter.recently().starts == 0


@pytest.mark.parametrize(
    ("recorded", "instrument", "labels"),
    [
        (Recorded.COMPLETED, metrics.COMPLETED, ("a",)),
        (Recorded.FAILED, metrics.FAILED, ("a",)),
        (Recorded.CANCELLED, metrics.CANCELLED, ("a",)),
        (Recorded.RETRYING, metrics.RETRIED, ()),
        (Recorded.LOST, metrics.LEASES_LOST, ()),
        (Recorded.PENDING, metrics.HANDED_BACK, ()),
    ],
    ids=lambda value: value.value if isinstance(value, Recorded) else "",
)
async def test_meter_counts_an_end_by_what_stands(recorded: Recorded, instrument: Any, labels: Any) -> None:
    meter = Meter()
    slot = await meter.slot(fails)
    meter.meter.started([slot])
    meter.seconds += 7
    meter.meter.ended(slot, recorded)
    assert meter.count(instrument, *labels) == 1
    assert meter.count(metrics.RUNNING) == 0
    seconds = sum(found.total for labels, found in metrics.DURATION.values().items() if labels[0] == meter.queue)
    timed = recorded in {Recorded.COMPLETED, Recorded.FAILED, Recorded.CANCELLED, Recorded.RETRYING}
    assert seconds == (7 if timed else 0)


async def test_meter_names_the_error_of_a_failed_run() -> None:
    meter = Meter()
    meter.meter.ended(await meter.slot(fails), Recorded.FAILED)
    # A run that returned what cannot be kept failed by its result.
    meter.meter.ended(await meter.slot(), Recorded.FAILED)
    meter.meter.ended(await meter.slot(dies), Recorded.FAILED)
    assert meter.count(metrics.DURATION, "a", "failed", "KeyError") == 1
    assert meter.count(metrics.DURATION, "a", "failed", "ConfigurationError") == 1
    assert meter.count(metrics.DURATION, "a", "failed", "ProcessDiedError") == 1
    assert meter.count(metrics.DEAD_LETTERED) == 3


async def test_meter_leaves_a_delegated_task_to_whoever_runs_it() -> None:
    meter = Meter()
    slot = await meter.slot()
    meter.meter.started([slot])
    meter.meter.ended(slot, Recorded.DELEGATED)
    assert meter.count(metrics.RUNNING) == 0
    assert meter.count(metrics.COMPLETED, "a") == meter.count(metrics.HANDED_BACK) == 0


async def test_meter_counts_runs_that_temporal_gives() -> None:
    meter = Meter()
    meter.meter.run_began("a", 2.0, taken_over=False)
    meter.meter.run_began("a", -1.0, taken_over=False)
    meter.meter.run_began("a", None, taken_over=True)
    assert meter.count(metrics.RUNNING) == 3
    assert metrics.WAIT_TIME.values()[meter.queue, "a"].total == 2.0
    assert meter.count(metrics.RECLAIMED) == 1
    slot = await meter.slot()
    for kind in ("completed", "failed", "lost", "handed back"):
        meter.meter.run_ended(slot, kind, "E" if kind == "failed" else "")
    assert meter.count(metrics.RUNNING) == -1
    assert meter.count(metrics.DURATION, "a", "completed", "") == 1
    assert meter.count(metrics.DURATION, "a", "failed", "E") == 1
    assert meter.count(metrics.LEASES_LOST) == 1


def test_meter_counts_what_was_recorded_elsewhere_of_a_run() -> None:
    meter = Meter()
    for status in ("completed", "failed", "cancelled", "retrying", "pending", "lost"):
        meter.meter.recorded(status, "a")
    counted = [metrics.COMPLETED, metrics.FAILED, metrics.CANCELLED]
    assert [meter.count(instrument, "a") for instrument in counted] == [1, 1, 1]
    counted = [metrics.RETRIED, metrics.HANDED_BACK, metrics.DEAD_LETTERED]
    assert [meter.count(instrument) for instrument in counted] == [1, 1, 1]
    assert meter.meter.recently() == Tally(1, 1, 0, 0.0)


def test_meter_counts_a_task_that_lost_too_many_workers_as_failed() -> None:
    meter = Meter()
    meter.meter.not_run(StartResult("dead", 4, 0, 0))
    meter.meter.not_run(StartResult("drop", 1, 0, 0))
    assert meter.count(metrics.FAILED, "") == meter.count(metrics.DEAD_LETTERED) == 1
    assert meter.meter.recently().failed == 1


def test_meter_forgets_what_was_counted_longer_ago_than_recently() -> None:
    meter = Meter()
    meter.meter.recorded("completed", "a")
    for _ in range(3):
        meter.seconds += 10
        assert meter.meter.recently().completed == 1
    meter.seconds += RECENT - 15
    meter.meter.recorded("completed", "a")
    assert meter.meter.recently().completed == 1
    meter.seconds += RECENT
    meter.meter.recently()
    meter.seconds += RECENT
    assert meter.meter.recently() == Tally()


def test_meter_keeps_only_so_many_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orbiter.distributed.execution.metering.SERIES_LIMIT", 2)
    meter = Meter()
    for name in ("a", "b", "c", "c"):
        meter.meter.recorded("completed", name)
    assert list(meter.meter._agents) == ["a", "b"]
    assert meter.count(metrics.COMPLETED, "c") == 2


async def test_meter_counts_each_start_and_each_end_for_the_rates_of_the_queue() -> None:
    meter = Meter()
    slots = [await meter.slot(entry="40000-0"), await meter.slot(deliveries=2)]
    meter.meter.started(slots)
    for recorded in Recorded:
        meter.meter.ended(await meter.slot(fails if recorded is Recorded.FAILED else completes), recorded)
    meter.meter.not_run(StartResult("dead", 1, 1, 0))
    for status in ("completed", "failed", "retrying"):
        meter.meter.recorded(status, "a")
    meter.meter.run_began("a", None, taken_over=False)
    meter.meter.run_began("a", 1.0, taken_over=False)
    counts = meter.meter.counting.take()
    # Completed, failed, cancelled; one without a run; two by Temporal. The first run there was counted as a claim.
    assert (counts.started, counts.ended, counts.failed) == (3, 6, 3)
    # Ten seconds; of the one that was taken over nothing.
    assert [at for at, count in enumerate(counts.waits) if count] == [WAIT_BOUNDS.index(10.0)]
