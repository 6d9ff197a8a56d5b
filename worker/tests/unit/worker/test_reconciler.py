"""Reconciler: ends tasks that nothing stands for any more."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ResponseError

from orbiter.distributed.models import StatusEvent, TextEvent
from orbiter.distributed.telemetry import metrics
from orbiter.distributed.worker.reconciler import HALF_WAY, PAGE, PAGES, WALK_STEPS, Reconciler
from tests.unit.scripted import ScriptedHousekeeping

LEASE = 30.0


class Reconciling:
    """A reconciler, some records, and rounds that are far enough from each other."""

    def __init__(self) -> None:
        self.store = ScriptedHousekeeping()
        self.store.round = True
        self.reconciler = Reconciler(self.store, lease=LEASE)

    def task(self, task_id: str = "t1", *, age: float = 600.0, **fields: str) -> None:
        """Put a task's record on the list of all."""
        self.store.rows.append((task_id, (self.store.time - age) * 1000))
        known = {"queue": self.store.queue_name, "status": "pending", "entry": "5-0"}
        self.store.fields[task_id] = {name: value for name, value in (known | fields).items() if value}

    async def rounds(self, number: int = 1) -> None:
        for _ in range(number):
            self.store.time += LEASE / 3
            await self.reconciler.round()

    @property
    def ended(self) -> list[str]:
        return [task_id for task_id, _ in self.store.of("end_lost")]


async def test_round_is_one_workers() -> None:
    reconciling = Reconciling()
    reconciling.store.round = False
    reconciling.task()
    await reconciling.rounds(3)
    assert reconciling.store.calls == [("begin_round", 8000)] * 3


async def test_round_ends_without_the_rights_for_it() -> None:
    reconciling = Reconciling()
    reconciling.store.will("relist", ResponseError("NOPERM"))
    await reconciling.rounds()
    assert reconciling.store.stored == ({}, {})


@pytest.mark.parametrize("status", ["pending", "running", "retrying"])
async def test_task_that_is_missing_in_two_rounds_is_ended(status: str) -> None:
    reconciling = Reconciling()
    reconciling.task(status=status, worker_id="w2")
    await reconciling.rounds()
    assert reconciling.ended == []
    await reconciling.rounds()
    [[_, lost]] = reconciling.store.of("end_lost")
    assert (lost.task_id, lost.entries) == ("t1", ("", "5-0"))
    assert lost.known["status"] == status
    assert metrics.DEAD_LETTERED.values()[reconciling.store.queue_name,] == 1
    # And it is forgotten.
    assert reconciling.store.stored[1] == {}


async def test_task_that_the_queue_holds_is_left() -> None:
    reconciling = Reconciling()
    reconciling.task()
    reconciling.store.queued = {"t1"}
    await reconciling.rounds(4)
    assert reconciling.ended == []
    assert reconciling.store.of("walk") == []


@pytest.mark.parametrize(
    "fields",
    [
        {"executor": "temporal"},
        {"queue": "another"},
        {"queue": ""},
        {"status": ""},
        {"status": "completed", "completed_at": "1"},
        {"age": 35.0},
    ],
    ids=["Temporal's", "of another queue", "of no queue", "expired", "ended", "young"],
)
async def test_task_that_is_not_ours_to_end_is_left(fields: dict[str, Any]) -> None:
    reconciling = Reconciling()
    reconciling.task(**fields)
    await reconciling.rounds(2)
    assert reconciling.ended == []


async def test_cancellation_of_0_1_is_not_an_end_by_itself() -> None:
    reconciling = Reconciling()
    reconciling.task(status="cancelled")
    await reconciling.rounds(2)
    assert reconciling.ended == ["t1"]


async def test_task_whose_record_changed_meanwhile_is_left() -> None:
    reconciling = Reconciling()
    reconciling.task()
    await reconciling.rounds()
    reconciling.store.fields["t1"]["attempt"] = "2"
    await reconciling.rounds()
    assert reconciling.ended == []
    await reconciling.rounds()
    assert reconciling.ended == ["t1"]


async def test_task_is_looked_for_by_the_entry_of_its_claim_too() -> None:
    reconciling = Reconciling()
    reconciling.task(fence="7-1 2 w2", entry="no entry")
    await reconciling.rounds()
    assert reconciling.store.of("held") == [[("t1", ("7-1", ""))]]


async def test_task_found_in_the_queue_is_noted_not_ended() -> None:
    reconciling = Reconciling()
    reconciling.task()
    reconciling.store.will("walk", ("9-0", [("8-0", "other"), ("9-0", "t1")]), ("", []))
    await reconciling.rounds(2)
    assert reconciling.store.of("note_entry") == [["t1", "9-0"]]
    assert reconciling.store.of("walk") == [["0-0"], ["9-0"]]
    assert reconciling.ended == []


async def test_search_of_a_long_queue_goes_on_in_the_next_round() -> None:
    reconciling = Reconciling()
    reconciling.task()
    reconciling.store.will("walk", *[(f"{at}-0", []) for at in range(1, WALK_STEPS + 1)])
    await reconciling.rounds(2)
    assert reconciling.ended == []
    await reconciling.rounds()
    assert reconciling.store.of("walk")[-1] == [f"{WALK_STEPS}-0"]
    assert reconciling.ended == ["t1"]


async def test_task_missing_since_the_search_began_waits_for_the_next() -> None:
    reconciling = Reconciling()
    reconciling.task()
    reconciling.store.will("walk", *[(f"{at}-0", []) for at in range(1, WALK_STEPS * 2 + 1)])
    await reconciling.rounds(2)
    reconciling.task("t2")
    await reconciling.rounds(2)
    assert reconciling.ended == ["t1"]
    await reconciling.rounds()
    assert reconciling.ended == ["t1", "t2"]


@pytest.mark.parametrize("mark", ["submitting", "resubmitting"])
async def test_submission_half_way_is_given_a_minute(mark: str) -> None:
    reconciling = Reconciling()
    reconciling.task(**{mark: "1"})
    while reconciling.ended == []:
        await reconciling.rounds()
    rounds = len(reconciling.store.of("begin_round")) - 1
    assert HALF_WAY / 1000 <= rounds * LEASE / 3 < HALF_WAY / 1000 + LEASE / 3
    [[_, lost]] = reconciling.store.of("end_lost")
    assert "never reached" in lost.reason


async def test_task_that_could_not_be_ended_stays_noted() -> None:
    reconciling = Reconciling()
    reconciling.task()
    reconciling.store.will("end_lost", "")
    await reconciling.rounds(2)
    assert list(reconciling.store.stored[1]) == ["t1"]
    await reconciling.rounds()
    assert reconciling.ended == ["t1", "t1"]
    assert metrics.DEAD_LETTERED.values()[reconciling.store.queue_name,] == 1


async def test_cancelled_task_is_no_dead_letter_when_it_ends() -> None:
    reconciling = Reconciling()
    reconciling.task()
    reconciling.store.will("end_lost", "cancelled")
    await reconciling.rounds(2)
    assert (reconciling.store.queue_name,) not in metrics.DEAD_LETTERED.values()


async def test_rounds_page_through_all_records() -> None:
    reconciling = Reconciling()
    number = PAGE * (PAGES + 1) + 10
    for at in range(number):
        # All at the same moment: the pages are told apart by how many were seen.
        reconciling.task(f"t{at}", age=600.0)
    reconciling.store.queued = {f"t{at}" for at in range(number)}
    await reconciling.rounds()
    assert reconciling.store.stored[0]["score"] != "-inf"
    seen = {row[0] for call in reconciling.store.of("held") for row in call}
    assert len(seen) == PAGE * PAGES
    await reconciling.rounds()
    assert reconciling.store.stored[0]["score"] == "-inf"
    seen = {row[0] for call in reconciling.store.of("held") for row in call}
    assert len(seen) == number


async def test_queue_that_reads_only_a_part_is_asked_for_the_rest() -> None:
    reconciling = Reconciling()
    for at in range(3):
        reconciling.task(f"t{at}")
    reconciling.store.will("held", [1], [1, 0])
    await reconciling.rounds()
    assert list(reconciling.store.stored[1]) == ["t2"]


async def test_broker_is_told_where_relisting_goes_on() -> None:
    reconciling = Reconciling()
    reconciling.store.will("relist", "1 77", "0 0")
    await reconciling.rounds(2)
    assert reconciling.store.of("relist") == [[""], ["1 77"]]


# -- final events ----------------------------------------------------------------------------------------------------

FINAL = StatusEvent(status="completed", agent_name="a").to_json(seq=1, attempt=1)
TEXT = TextEvent(text="x").to_json(seq=1, attempt=1)


@pytest.mark.parametrize(
    ("last", "added"),
    [
        (None, True),
        ({"event": TEXT, "at": "1-1"}, True),
        ({"event": "{}", "at": "1-1"}, True),
        ({}, True),
        ({"event": FINAL}, False),
        ({"event": TEXT, "at": "1-2!"}, False),
    ],
    ids=["none", "text", "unreadable", "empty", "final", "marked final"],
)
async def test_final_event_is_added_where_it_is_missing(last: dict[str, str] | None, added: bool) -> None:
    reconciling = Reconciling()
    ended = reconciling.store.time - 100
    reconciling.task(age=100.0, status="failed", completed_at=str(ended), error="why")
    if last is not None:
        reconciling.store.finals["t1"] = last
    await reconciling.rounds()
    assert reconciling.store.of("end_events") == ([["t1", "failed", "why"]] if added else [])


async def test_final_event_of_a_completed_task_tells_no_error() -> None:
    reconciling = Reconciling()
    reconciling.task(status="completed", completed_at=str(reconciling.store.time - 100), error="of an earlier run")
    reconciling.store.finals["t1"] = {"event": TEXT, "at": "1-1"}
    await reconciling.rounds()
    assert reconciling.store.of("end_events") == [["t1", "completed", ""]]


async def test_completed_task_that_said_nothing_needs_no_stream() -> None:
    reconciling = Reconciling()
    reconciling.task(status="completed", completed_at=str(reconciling.store.time - 100))
    await reconciling.rounds()
    assert reconciling.store.of("end_events") == []


@pytest.mark.parametrize("ago", [10.0, 3600.0], ids=["just now", "long ago"])
async def test_final_events_are_looked_for_of_tasks_that_ended_lately(ago: float) -> None:
    reconciling = Reconciling()
    reconciling.task(age=7200.0, status="completed", completed_at=str(reconciling.store.time - ago))
    await reconciling.rounds()
    assert reconciling.store.of("end_events") == []


async def test_record_with_an_unreadable_end_is_passed_over() -> None:
    reconciling = Reconciling()
    reconciling.task(age=7200.0, status="completed", completed_at="yesterday")
    await reconciling.rounds()
    assert reconciling.store.of("end_events") == []
