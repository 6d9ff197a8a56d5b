"""Fetcher: claims what can start now, and nothing more."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ResponseError

from orbiter.distributed.broker.records import Claim, Entry, Mended, StartResult
from orbiter.distributed.execution.metering import TaskMeter
from orbiter.distributed.execution.slot import Slot
from orbiter.distributed.models import InvalidPayloadError, PayloadTooLargeError
from orbiter.distributed.worker.fetcher import READ_WAIT, RECOVER_BATCH, SLOT_WITHIN, Fetcher
from orbiter.distributed.worker.flow import SLOT_EXPECTED, ClaimFlow
from orbiter.distributed.worker.troubles import Mender
from orbiter.distributed.worker.watchdog import Watchdog
from tests.unit.scripted import (
    ScriptedHousekeeping,
    ScriptedQueue,
    ScriptedReclaimer,
    begun,
    claim,
    entry,
    publisher,
    queue_name,
    unread,
)
from tests.unit.virtual_time import clock, never, turns

LEASE = 30.0
GONE = RedisConnectionError("gone")


class Fetching:
    """A fetcher with scripted surroundings; what it starts stays in its slot until the test frees it."""

    def __init__(self, slots: int = 2, *, recover: bool = False) -> None:
        self.queue, self.reclaimer = ScriptedQueue(), ScriptedReclaimer()
        self.flow = ClaimFlow(slots, lease=LEASE, clock=clock)
        self.flow.recover = recover
        self.begun: list[tuple[Claim, InvalidPayloadError | None, float]] = []
        self.watchdog = Watchdog(60, clock=clock)
        name = queue_name()
        self.fetcher = Fetcher(
            self.queue,
            None,  # type: ignore[arg-type]
            self.reclaimer,
            flow=self.flow,
            slots=self,
            meter=TaskMeter(name, "w1"),
            watchdog=self.watchdog,
            worker_id="w1",
            queue=name,
            lease=LEASE,
            clock=clock,
        )

    def begin(self, claim: Claim, problem: InvalidPayloadError | None, leased: float) -> None:
        self.begun.append((claim, problem, leased))
        self.hold(claim)

    def hold(self, held: Claim) -> None:
        self.flow.runs.add(Slot(held, publisher().log(held.task.task_id, 1), clock() + LEASE, started=0))

    def free(self, entry_id: str) -> None:
        self.flow.runs.remove(self.flow.runs.held[entry_id])
        self.flow.changed()

    async def run(self, seconds: float = 0.0) -> None:
        """Begin to fetch, and let some time pass."""
        self.running = asyncio.create_task(self.fetcher.run())
        await asyncio.sleep(seconds) if seconds else await turns(20)

    async def stop(self) -> None:
        await self.fetcher.stop(self.running)
        assert self.running.done()

    @property
    def started(self) -> list[str]:
        return [claim.task.task_id for claim, _, _ in self.begun]

    @property
    def steps(self) -> list[str]:
        return [call[0] for call in self.queue.calls]


async def test_fetcher_starts_what_the_queue_gives() -> None:
    fetching = Fetching()
    fetching.queue.will("fetch", [begun("t1", "1-0"), begun("t2", "2-0")])
    asked = clock()
    await fetching.run()
    assert fetching.started == ["t1", "t2"]
    assert [leased for _, _, leased in fetching.begun] == [asked, asked]
    assert fetching.queue.of("fetch") == [[2]]
    await fetching.stop()


async def test_fetcher_claims_as_many_as_there_are_slots_free() -> None:
    fetching = Fetching(3)
    fetching.hold(claim(entry="7-0"))
    await fetching.run()
    assert fetching.queue.of("fetch") == [[2]]
    assert fetching.reclaimer.of("sweep") == [[2]]
    await fetching.stop()


async def test_fetcher_starts_entries_that_were_claimed_only() -> None:
    fetching = Fetching()
    fetching.queue.will("fetch", [unread("t1", "1-0"), begun("t2", "2-0")])
    await fetching.run()
    assert fetching.queue.of("start") == [["t1"]]
    assert fetching.started == ["t2", "t1"]
    await fetching.stop()


async def test_claim_says_how_its_task_must_run() -> None:
    fetching = Fetching()
    alone = StartResult("run", 1, 2, 0, "worker")
    fetching.queue.will("fetch", [(begun("t1", "1-0")[0], alone), unread("t2", "2-0")])
    fetching.queue.will("start", [StartResult("run", 3, 2, 0, "child")])
    await fetching.run()
    assert [(claim.task.task_id, claim.alone) for claim, _, _ in fetching.begun] == [("t1", "worker"), ("t2", "child")]
    await fetching.stop()


async def test_fetcher_waits_on_the_queue_where_nothing_waits() -> None:
    fetching = Fetching()
    fetching.queue.will("fetch_blocking", lambda: asyncio.sleep(0.5, [begun("t1", "5-0")]))
    await fetching.run(0.6)
    assert fetching.started == ["t1"]
    # The next one is told what came last, and how much runs.
    await asyncio.sleep(1)
    reads = [call[1:] for call in fetching.queue.of("fetch_blocking")]
    assert reads[:2] == [[READ_WAIT, "0-0", 0], [READ_WAIT, "5-0", 1]]
    await fetching.stop()


async def test_fetcher_prefers_what_dead_workers_left() -> None:
    fetching = Fetching()
    fetching.reclaimer.will("sweep", [entry("t9", "9-0")])
    await fetching.run()
    assert fetching.steps[:2] == ["start", "fetch"]
    assert fetching.started == ["t9"]
    await fetching.stop()


async def test_fetcher_claims_nothing_while_every_slot_is_taken() -> None:
    fetching = Fetching(1)
    fetching.hold(claim(entry="7-0"))
    await fetching.run(5)
    assert fetching.queue.calls == fetching.reclaimer.calls == []
    assert fetching.flow.full
    fetching.free("7-0")
    await turns(20)
    assert fetching.queue.of("fetch") == [[1]]
    assert not fetching.flow.full
    await fetching.stop()


async def test_fetcher_looks_at_the_queue_while_all_slots_are_busy() -> None:
    fetching = Fetching(1)
    fetching.hold(claim(entry="7-0"))
    fetching.reclaimer.will("look", GONE)
    await fetching.run(fetching.reclaimer.due_in + SLOT_WITHIN + 0.01)
    assert len(fetching.reclaimer.of("look")) == 1
    await asyncio.sleep(fetching.reclaimer.due_in + SLOT_WITHIN)
    assert len(fetching.reclaimer.of("look")) == 2
    await fetching.stop()


async def test_fetcher_starts_arrivals_before_it_claims() -> None:
    fetching = Fetching(2)
    fetching.flow.full = True
    fetching.flow.reserve(2)
    asked = clock() - 1
    fetching.flow.deliver([begun("t1", "1-0"), unread("t2", "2-0")], asked)
    await fetching.run()
    assert fetching.started == ["t1", "t2"]
    assert fetching.begun[0][2] == asked
    assert fetching.queue.of("fetch") == []
    await fetching.stop()


async def test_fetcher_recovers_what_an_earlier_process_left_first() -> None:
    fetching = Fetching(recover=True)
    fetching.queue.will("recover", [entry("t1", "1-0")])
    await fetching.run()
    assert fetching.steps[:4] == ["now", "recover", "start", "fetch"]
    assert fetching.queue.of("recover") == [[[], {}, 5000.0]]
    assert fetching.started == ["t1"]
    await fetching.stop()


async def test_recovery_requeues_what_there_is_no_slot_for() -> None:
    fetching = Fetching(1, recover=True)
    fetching.queue.will("recover", [entry("t1", "1-0"), entry("t2", "2-0")])
    await fetching.run()
    assert fetching.started == ["t1"]
    assert fetching.queue.of("requeue") == [["t2"]]
    await fetching.stop()


async def test_recovery_says_what_runs_and_what_was_given_up() -> None:
    fetching = Fetching()
    fetching.hold(claim(entry="7-0"))
    fetching.flow.give_up(claim(entry="8-0", deliveries=2))
    await fetching.run()
    assert fetching.queue.of("recover") == [[["7-0"], {"8-0": 2}, 5000.0]]
    assert fetching.flow.given_up == {}
    await fetching.stop()


async def test_recovery_keeps_what_is_given_up_anew_meanwhile() -> None:
    fetching = Fetching(recover=True)
    fetching.flow.given_up["8-0"] = 1

    def meanwhile() -> list[Entry]:
        fetching.flow.give_up(claim(entry="8-0", deliveries=2))
        return []

    fetching.queue.will("recover", meanwhile)
    await fetching.run()
    assert [given_up for _, given_up, _ in fetching.queue.of("recover")] == [{"8-0": 1}, {"8-0": 2}]
    await fetching.stop()


async def test_recovery_goes_on_after_a_full_batch() -> None:
    fetching = Fetching(RECOVER_BATCH + 1, recover=True)
    fetching.flow.given_up["8-0"] = 1
    fetching.queue.will("recover", [entry(f"t{at}", f"{at}-0") for at in range(RECOVER_BATCH)])
    await fetching.run()
    assert [given_up for _, given_up, _ in fetching.queue.of("recover")] == [{"8-0": 1}, {"8-0": 1}]
    await fetching.stop()


async def test_recovery_waits_for_what_is_under_way() -> None:
    fetching = Fetching(recover=False)
    fetching.flow.full = True
    fetching.flow.reserve(1)
    fetching.flow.look_for_pending()
    await fetching.run(1)
    assert fetching.queue.of("recover") == []
    fetching.flow.mark_unknown()
    await turns(20)
    assert len(fetching.queue.of("recover")) == 1
    await fetching.stop()


async def test_recovery_starts_what_arrived_first_or_would_find_it() -> None:
    fetching = Fetching()
    fetching.flow.full = True
    fetching.flow.reserve(1)
    fetching.flow.look_for_pending()
    await fetching.run(1)
    fetching.flow.deliver([unread("t1", "1-0")], clock())
    await turns(20)
    assert fetching.steps[:3] == ["start", "now", "recover"]
    assert fetching.queue.of("recover")[0][0] == ["1-0"]
    await fetching.stop()


@pytest.mark.parametrize("lost", [True, False], ids=["after a lost reply", "otherwise"])
async def test_recovery_waits_for_a_slot_only(lost: bool) -> None:
    fetching = Fetching(1)
    fetching.hold(claim(entry="7-0"))
    if lost:
        fetching.flow.full = True
        assert fetching.flow.reserve(1) == 1
        fetching.flow.mark_unknown()
    else:
        fetching.flow.look_for_pending()
    await fetching.run()
    assert len(fetching.queue.of("recover")) == (0 if lost else 1)
    await asyncio.sleep(SLOT_EXPECTED + 0.01)
    assert len(fetching.queue.of("recover")) == 1
    await fetching.stop()


async def test_recovery_after_a_lost_reply_begins_once_a_slot_is_free() -> None:
    fetching = Fetching(1)
    fetching.hold(claim(entry="7-0"))
    fetching.flow.slot_expected_until = clock() + SLOT_EXPECTED
    fetching.flow.look_for_pending()
    fetching.queue.will("recover", [entry("t9", "9-0")])
    await fetching.run(0.5)
    fetching.free("7-0")
    await turns(20)
    assert fetching.started == ["t9"]
    assert fetching.queue.of("requeue") == []
    await fetching.stop()


async def test_overdue_heartbeat_starts_nothing() -> None:
    fetching = Fetching()
    fetching.flow.full = True
    fetching.flow.reserve(1)
    fetching.flow.deliver([unread("t1", "1-0")], clock())
    fetching.flow.heard = clock() - LEASE
    await fetching.run(60)
    assert fetching.queue.calls == fetching.reclaimer.of("sweep") == fetching.begun == []
    # The next heartbeat was taken: what is pending here is found.
    fetching.flow.heard = clock()
    fetching.flow.check()
    await turns(20)
    assert "recover" in fetching.steps
    await fetching.stop()


@pytest.mark.parametrize("arrives", [True, False], ids=["started by the queue", "started by the fetcher"])
async def test_claim_whose_lease_ran_out_on_the_way_does_not_run(arrives: bool) -> None:
    fetching = Fetching()
    late = LEASE * 0.9 + 0.1
    fetching.flow.heard = clock() + 1000
    if arrives:
        fetching.queue.will("fetch", lambda: asyncio.sleep(late, [begun("t1", "1-0")]))
    else:
        fetching.queue.will("fetch", [unread("t1", "1-0")])
        fetching.queue.will("start", lambda: asyncio.sleep(late, [StartResult("run", 1, 1, 0)]))
    await fetching.run(late + 0.1)
    assert fetching.begun == []
    assert fetching.queue.of("recover") != []
    await fetching.stop()


async def test_claim_that_runs_here_already_is_not_begun_again() -> None:
    fetching = Fetching()
    fetching.hold(claim(entry="1-0"))
    fetching.queue.will("fetch", [begun("t1", "1-0")])
    await fetching.run()
    assert fetching.begun == []
    await fetching.stop()


@pytest.mark.parametrize("verdict", ["drop", "dead"])
@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
async def test_claim_that_is_not_to_run_is_passed_over(verdict: Any, read: bool) -> None:
    fetching = Fetching()
    fetching.queue.will("fetch", [begun("t1", "1-0", verdict) if read else unread("t1", "1-0")])
    fetching.queue.will("start", [StartResult(verdict, 1, 0, 0)])
    await fetching.run()
    assert fetching.begun == []
    assert fetching.fetcher._meter.recently().failed == int(verdict == "dead")
    await fetching.stop()


@pytest.mark.parametrize(
    "payload",
    ["no json", "{}", "[" * 100_000, '{"task_id": ""}', '{"task_id": 7}', '["t1"]', None],
    ids=["no json", "no id", "too deep", "no valid id", "a number", "a list", "none"],
)
async def test_entry_that_names_no_task_is_dead_lettered(payload: str | None) -> None:
    fetching = Fetching()
    fetching.queue.max_payload_bytes = 1_000_000
    fields = {} if payload is None else {"payload": payload}
    fetching.queue.will("fetch", [(Entry("1-0", fields), unread()[1])])
    await fetching.run()
    if payload == "{}":
        # A task without an id is given one.
        assert len(fetching.begun) == 1
    else:
        assert fetching.queue.of("dead_letter") == [["1-0"]]
        assert fetching.begun == []
    await fetching.stop()


@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
async def test_invalid_task_that_has_an_id_fails_by_it(read: bool) -> None:
    fetching = Fetching()
    payload = Entry("1-0", {"payload": '{"task_id":"t1","input":["no text"]}'})
    fetching.queue.will("fetch", [(payload, begun()[1] if read else unread()[1])])
    await fetching.run()
    [(failing, problem, _)] = fetching.begun
    assert failing.task.task_id == "t1"
    assert isinstance(problem, InvalidPayloadError)
    await fetching.stop()


async def test_task_that_is_too_large_fails() -> None:
    fetching = Fetching()
    fetching.queue.will("fetch", [begun("t1", "1-0", input="x" * fetching.queue.max_payload_bytes)])
    await fetching.run()
    [(_, problem, _)] = fetching.begun
    assert isinstance(problem, PayloadTooLargeError)
    await fetching.stop()


async def test_task_that_names_two_ids_fails_by_the_one_it_was_started_by() -> None:
    fetching = Fetching()
    payload = Entry("1-0", {"payload": '{"task_id":"t1","task_id":"t2"}'})
    fetching.queue.will("fetch", [(payload, begun()[1])])
    await fetching.run()
    [(failing, problem, _)] = fetching.begun
    assert (failing.task.task_id, type(problem)) == ("t1", InvalidPayloadError)
    await fetching.stop()


async def test_fetcher_looks_for_pending_after_an_error() -> None:
    fetching = Fetching()
    fetching.queue.will("fetch", GONE, TimeoutError())
    await fetching.run(10)
    assert fetching.steps.count("recover") == 2
    await fetching.stop()


async def test_fetcher_pauses_longer_after_each_error() -> None:
    fetching = Fetching()
    fetching.queue.will("fetch", GONE)
    fetching.queue.will("recover", *[GONE] * 100)
    fetching.flow.heard = math.inf
    await fetching.run(60)
    # From 0.05 to 2 seconds.
    assert 30 <= fetching.steps.count("recover") <= 66
    await fetching.stop()


async def test_fetcher_makes_the_group_again_where_it_is_gone() -> None:
    fetching = Fetching()
    fetching.queue.will("fetch", ResponseError("NOGROUP No such key"))
    fetching.queue.will("ensure_group", GONE)
    await fetching.run(1)
    assert fetching.steps.count("ensure_group") == 1
    assert fetching.steps.count("fetch") == 2
    await fetching.stop()


async def test_fetcher_goes_on_after_a_fault_of_ours() -> None:
    fetching = Fetching()
    fetching.queue.will("fetch", KeyError("unheard-of"))
    await fetching.run(2.1)
    assert fetching.steps[:2] == ["fetch", "now"]
    assert "recover" in fetching.steps
    await fetching.stop()


async def test_fetcher_goes_on_after_a_fault_in_arrivals() -> None:
    fetching = Fetching()
    fetching.flow.full = True
    fetching.flow.reserve(1)
    fetching.flow.deliver([(Entry("1-0", {}), StartResult("run", 1, 1, 0))], clock())
    await fetching.run()
    assert fetching.steps[:2] == ["now", "recover"]
    await fetching.stop()


async def test_pause_ends_the_blocking_read() -> None:
    fetching = Fetching()
    await fetching.run(0.5)
    began = clock()
    await fetching.fetcher.pause()
    assert clock() - began < 0.1
    assert fetching.fetcher.paused.is_set()
    assert "hang_up" in fetching.steps
    fetching.queue.calls.clear()
    await asyncio.sleep(30)
    # What the read that was ended may have been given is looked for, and nothing is claimed.
    assert set(fetching.steps) <= {"now", "recover"}
    await fetching.stop()


async def test_resume_claims_again() -> None:
    fetching = Fetching()
    await fetching.run()
    await fetching.fetcher.pause()
    fetching.fetcher.resume()
    fetching.queue.calls.clear()
    await turns(20)
    assert "fetch" in fetching.steps
    assert not fetching.fetcher.paused.is_set()
    await fetching.stop()


async def test_pause_waits_for_what_is_under_way() -> None:
    fetching = Fetching(1)
    fetching.hold(claim(entry="7-0"))
    await fetching.run()
    assert fetching.flow.reserve(1) == 1
    pausing = asyncio.create_task(fetching.fetcher.pause())
    await asyncio.sleep(0.5)
    assert not fetching.fetcher.paused.is_set()
    fetching.flow.deliver([], clock())
    await pausing
    assert fetching.fetcher.paused.is_set()
    await fetching.stop()


async def test_stop_requeues_what_was_delivered_meanwhile() -> None:
    fetching = Fetching(1)
    fetching.hold(claim(entry="7-0"))
    await fetching.run()
    assert fetching.flow.reserve(1) == 1
    stopping = asyncio.create_task(fetching.stop())
    await asyncio.sleep(0.5)
    fetching.flow.deliver([unread("t1", "1-0")], clock())
    await stopping
    assert fetching.queue.of("requeue_unread") == [["1-0"]]
    assert fetching.begun == []


async def test_stop_requeues_what_is_pending_and_does_not_run() -> None:
    fetching = Fetching()
    await fetching.run(0.5)
    fetching.queue.will("recover", [entry("t1", "1-0")])
    await fetching.stop()
    assert fetching.queue.of("requeue") == [["t1"]]


async def test_stop_leaves_everything_where_the_heartbeat_is_overdue() -> None:
    fetching = Fetching()
    await fetching.run(0.5)
    fetching.flow.heard = clock() - LEASE
    await fetching.stop()
    assert fetching.queue.of("recover") == []


async def test_stop_ends_although_redis_does_not_answer() -> None:
    fetching = Fetching()
    fetching.queue.will("fetch", never)
    await fetching.run(1)
    began = clock()
    await fetching.stop()
    assert clock() - began <= READ_WAIT + 2.1


async def test_read_that_hangs_is_ended_within_its_limit() -> None:
    fetching = Fetching()
    fetching.queue.will("fetch_blocking", never)
    await fetching.run(READ_WAIT + 5.2)
    assert fetching.steps[:4] == ["fetch", "fetch_blocking", "now", "recover"]
    await fetching.stop()


async def test_watchdog_sees_a_fetch_that_hangs() -> None:
    fetching = Fetching()
    fetching.queue.will("fetch", never)
    await fetching.run(61)
    fetching.watchdog._turned = clock()
    complaint = fetching.watchdog.complaint()
    assert complaint is not None
    assert "fetch" in complaint
    await fetching.stop()


@pytest.mark.parametrize("error", [ResponseError("WRONGTYPE of one"), UnicodeEncodeError("utf-8", "", 0, 1, "half")])
async def test_entry_that_makes_a_start_fail_hurts_no_other(error: Exception) -> None:
    fetching = Fetching(3)
    fetching.flow.troubles.mender = Mender(ScriptedHousekeeping(), clock=clock)
    fetching.queue.will("fetch", [unread(f"t{n}", f"{n}-0") for n in (1, 2, 3)])
    run = [StartResult("run", 1, 1, 0)]
    fetching.queue.will("start", error, run, error, run)
    await fetching.run()
    assert fetching.started == ["t1", "t3"]
    [(entry_id, *_)] = fetching.queue.of("dead_letter")
    assert entry_id == "2-0"
    await fetching.stop()


async def test_entry_is_no_dead_letter_where_the_queue_was_to_be_mended() -> None:
    fetching, store = Fetching(3), ScriptedHousekeeping()
    fetching.flow.troubles.mender = Mender(store, clock=clock)
    store.will("mend", [Mended("queue", "aside")])
    fetching.queue.will("fetch", [unread("t1", "1-0")])
    fetching.queue.will("start", ResponseError("WRONGTYPE of the queue"))
    await fetching.run()
    assert fetching.queue.of("dead_letter") == []
    await fetching.stop()


async def test_missing_right_makes_no_dead_letters_and_is_told() -> None:
    fetching = Fetching(3)
    fetching.queue.will("fetch", [unread("t1", "1-0"), unread("t2", "2-0")])
    fetching.queue.will("start", NoPermissionError("no"))
    await fetching.run()
    assert fetching.queue.of("dead_letter") == []
    assert fetching.flow.troubles._failing.keys() == {"claim"}
    await fetching.stop()


# -- stopping ----------------------------------------------------------------------------------------------------------


async def after(seconds: float, answer: Any) -> Any:
    """Answer as a Redis does that is slow, or frozen for a while."""
    await asyncio.sleep(seconds)
    return answer


async def test_who_stops_waits_for_late_answers_as_long_as_it_may() -> None:
    """A claim whose answer nobody waits for is found as a lost worker's, once its lease has run out."""
    fetching = Fetching(slots=3)
    fetching.queue.will("fetch", lambda: after(8, [begun("t1", "1-0"), unread("t2", "2-0")]))
    fetching.queue.will("recover", lambda: after(8, [entry("t3", "3-0")]))
    await fetching.run()
    asked = clock()
    await fetching.fetcher.stop(fetching.running, by=asked + 25)
    assert fetching.running.done()
    assert not fetching.running.cancelled()
    assert fetching.started == ["t1"]
    assert [call[0] for call in fetching.queue.of("requeue_unread")] == ["2-0"]
    assert [call[0] for call in fetching.queue.of("requeue")] == ["t3"]
    assert clock() - asked < 17


@pytest.mark.parametrize(("by", "hurries"), [(0, False), (25, True)], ids=["no time", "hurry"])
async def test_who_has_no_time_left_leaves_late_answers_to_others(*, by: float, hurries: bool) -> None:
    fetching = Fetching()
    fetching.queue.will("fetch", lambda: after(8, [begun("t1", "1-0")]))
    await fetching.run()
    asked, hurry = clock(), asyncio.Event()
    if hurries:
        hurry.set()
    await fetching.fetcher.stop(fetching.running, by=asked + by, hurry=hurry)
    assert fetching.running.done()
    assert clock() - asked < 4
