"""Sweeper: takes over what dead workers left, and removes what nobody needs."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ResponseError

from orbiter.distributed.broker.housekeeping import Consumer
from orbiter.distributed.limits import FLEET_TTL
from orbiter.distributed.telemetry import metrics
from orbiter.distributed.worker.sweeper import CONSUMER_KEPT, PRUNE_AFTER, PRUNE_BATCH, PRUNE_BATCHES, Sweeper
from tests.unit.scripted import ScriptedHousekeeping, entry

LEASE = 30.0


class Sweeping:
    """A sweeper whose clock the test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.store = ScriptedHousekeeping()
        self.sweeper = Sweeper(self.store, "w1", lease=LEASE, clock=lambda: self.seconds)

    async def sweep(self, room: int = 5) -> list[str]:
        """Sweep when it is this worker's turn; return the ids of the entries that were reclaimed."""
        self.seconds += LEASE
        return [entry.entry_id for entry in await self.sweeper.sweep(room)]

    @property
    def steps(self) -> list[str]:
        return [call[0] for call in self.store.calls]


def consumer(
    name: str = "w2",
    *,
    pending: int = 0,
    idle: float = 0.0,
    status: str | None = "running",
    version: str | None = "1",
    lease: str | None = None,
) -> Consumer:
    return Consumer(name, pending, idle, status, version, lease)


async def test_sweeper_takes_a_turn_about_every_third_of_a_lease() -> None:
    sweeping = Sweeping()
    for _ in range(600):
        await sweeping.sweeper.sweep(5)
        sweeping.seconds += 0.5
    turns = sweeping.store.of("acquire_sweep")
    assert 300 / 10.5 <= len(turns) <= 300 / 7.5
    assert turns[0] == ["w1", LEASE / 3 * 0.8]


async def test_sweeper_says_when_it_may_be_its_turn() -> None:
    sweeping = Sweeping()
    assert sweeping.sweeper.due_in == 0
    await sweeping.sweeper.sweep(5)
    assert LEASE / 3 * 0.8 <= sweeping.sweeper.due_in <= LEASE / 3


async def test_sweeper_does_nothing_in_another_workers_turn() -> None:
    sweeping = Sweeping()
    sweeping.store.turn = False
    assert await sweeping.sweep() == []
    await sweeping.sweeper.look()
    assert set(sweeping.steps) == {"acquire_sweep"}


@pytest.mark.parametrize(
    ("owner", "lease"),
    [
        (consumer(pending=1, lease="90"), 90.0),
        (consumer(pending=1, lease="soon"), LEASE),
        (consumer(pending=1, status=None, version=None), LEASE),
        (consumer(pending=1, version=None), None),
        (consumer(pending=0, lease="90"), None),
        (consumer("w1", pending=1, lease="90"), None),
    ],
    ids=["its own", "says none", "no heartbeat", "0.1 never renews", "holds nothing", "this worker"],
)
async def test_sweeper_reclaims_by_the_owners_lease(owner: Consumer, lease: float | None) -> None:
    sweeping = Sweeping()
    sweeping.store.owners = [owner]
    sweeping.store.will("reclaim", [entry(entry_id="1-0")])
    assert await sweeping.sweep() == ["1-0"]
    assert sweeping.store.of("reclaim") == [[5, {} if lease is None else {owner.name: lease}]]
    assert metrics.RECLAIMED.values()[sweeping.store.queue_name,] == 1


async def test_sweeper_lets_another_sweep_where_it_has_no_more_room() -> None:
    sweeping = Sweeping()
    sweeping.store.will("reclaim", [entry(entry_id="1-0"), entry(entry_id="2-0")])
    assert await sweeping.sweep(2) == ["1-0", "2-0"]
    assert sweeping.steps[-1] == "release_sweep"
    assert "tidy" not in sweeping.steps
    # It goes on at once itself, when it has room.
    assert sweeping.sweeper.due_in == 0


async def test_sweeper_removes_consumers_that_are_gone() -> None:
    sweeping = Sweeping()
    old = CONSUMER_KEPT + 1
    sweeping.store.owners = [
        consumer("gone", status=None, idle=old),
        consumer("lately", status=None, idle=CONSUMER_KEPT),
        consumer("alive", idle=old),
        consumer("holds", status=None, idle=old, pending=1),
    ]
    await sweeping.sweep()
    assert sweeping.store.of("tidy") == [[["gone"]]]
    assert sweeping.store.of("forget_workers") == [[sweeping.store.time - FLEET_TTL]]


async def test_sweeper_takes_readings_of_the_queue() -> None:
    sweeping = Sweeping()
    await sweeping.sweep()
    read = [gauge.values()[sweeping.store.queue_name,] for gauge in (metrics.DEPTH, metrics.PENDING, metrics.DELAYED)]
    assert read == [3, 2, 1]
    assert metrics.DEAD_LETTERS.values()[sweeping.store.queue_name,] == 4


async def test_sweeper_reclaims_although_the_depth_cannot_be_read() -> None:
    sweeping = Sweeping()
    sweeping.store.will("backlog", ResponseError("NOPERM"))
    sweeping.store.will("reclaim", [entry(entry_id="1-0")])
    assert await sweeping.sweep() == ["1-0"]


async def test_sweeper_without_room_reads_and_reconciles_only() -> None:
    sweeping = Sweeping()
    await sweeping.sweeper.look()
    assert sweeping.steps == ["acquire_sweep", "mend", "renew_stream", "backlog", "begin_round", "release_sweep"]


async def test_sweeper_reconciles_behind_a_sweep() -> None:
    sweeping = Sweeping()
    await sweeping.sweep()
    assert sweeping.steps[-1] == "begin_round"


# -- tasks whose records have expired --------------------------------------------------------------------------------


def _rows(sweeping: Sweeping, number: int, *, step: float = 1.0) -> list[tuple[str, float]]:
    old = (sweeping.store.time - PRUNE_AFTER) * 1000 - number * step
    return [(f"t{at}", old + at * step) for at in range(number)]


@pytest.mark.parametrize(
    ("fields", "pruned"),
    [
        ({}, [["t0"], []]),
        ({"status": "pending"}, [[], ["t0"]]),
        ({"status": "running"}, [[], ["t0"]]),
        ({"status": "retrying"}, [[], ["t0"]]),
        ({"status": "completed"}, [[], []]),
    ],
    ids=["expired", "pending", "running", "retrying", "ended"],
)
async def test_sweeper_prunes_a_task_by_its_record(fields: dict[str, str], pruned: list[list[str]]) -> None:
    sweeping = Sweeping()
    sweeping.store.rows = _rows(sweeping, 1)
    sweeping.store.fields = {"t0": fields}
    await sweeping.sweep()
    assert sweeping.store.of("prune") == [pruned]


async def test_sweeper_leaves_tasks_that_are_young() -> None:
    sweeping = Sweeping()
    sweeping.store.rows = [("t0", (sweeping.store.time - PRUNE_AFTER) * 1000 + 1)]
    await sweeping.sweep()
    assert sweeping.store.of("prune") == [[[], []]]


@pytest.mark.parametrize("step", [1.0, 0.0], ids=["each at its time", "all at one time"])
async def test_sweeper_prunes_page_by_page(step: float) -> None:
    sweeping = Sweeping()
    number = PRUNE_BATCH * 2 + 50
    sweeping.store.rows = _rows(sweeping, number, step=step)
    kept = {f"t{at}" for at in range(0, number, 2)}
    sweeping.store.fields = {task_id: {"status": "completed"} for task_id in kept}
    await sweeping.sweep()
    assert {task_id for task_id, _ in sweeping.store.rows} == kept


async def test_sweeper_prunes_a_few_pages_a_sweep_and_goes_on_then() -> None:
    sweeping = Sweeping()
    number = PRUNE_BATCH * (PRUNE_BATCHES + 3)
    sweeping.store.rows = _rows(sweeping, number)
    sweeping.store.fields = {f"t{at}": {"status": "completed"} for at in range(number - 1)}
    await sweeping.sweep()
    assert len(sweeping.store.of("prune")) == PRUNE_BATCHES
    await sweeping.sweep()
    assert len(sweeping.store.rows) == number - 1
    # A pass is over: the next one begins with the oldest.
    await sweeping.sweep()
    assert ["-inf", 0] in sweeping.store.of("tasks_by_time")[1:]


# -- tasks that only 0.1 knows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("started", "moment"),
    [("900.5", 900.5), (None, "now"), ("soon", "now"), ("-1", "now"), ("1e12", "now"), ("nan", "now")],
)
async def test_sweeper_adopts_a_task_of_0_1_at_its_moment(started: str | None, moment: Any) -> None:
    sweeping = Sweeping()
    sweeping.store.will("listed", (2, 1))
    sweeping.store.will("unordered", (7, ["t1", "gone"]))
    sweeping.store.fields = {"t1": {"status": "running", **({} if started is None else {"started_at": started})}}
    await sweeping.sweep()
    at = sweeping.store.time if moment == "now" else moment
    assert sweeping.store.of("adopt") == [[{"t1": at}, ["gone"]]]


async def test_sweeper_goes_on_adopting_where_it_left_off() -> None:
    sweeping = Sweeping()
    sweeping.store.will("listed", (2, 1), (2, 1), (2, 2))
    sweeping.store.will("unordered", (7, []), (0, []))
    for _ in range(3):
        await sweeping.sweep()
    assert sweeping.store.of("unordered") == [[0], [7]]
