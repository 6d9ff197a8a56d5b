"""Settler: how runs ended, and what is recorded of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from orbiter.distributed.broker.records import Recorded
from orbiter.distributed.connection.deadlines import Deadlines
from orbiter.distributed.errors import ConfigurationError, TransientError
from orbiter.distributed.execution.endings import Completed, Delegated, Died, Failed, Requeued, StopReason
from orbiter.distributed.execution.slot import Slot
from orbiter.distributed.settings import WorkerSettings
from orbiter.distributed.worker.flow import SLOT_EXPECTED, ClaimFlow
from orbiter.distributed.worker.settler import AGAIN_AFTER, Settler
from tests.unit.scripted import ScriptedQueue, begun, claim, publisher, queue_name
from tests.unit.virtual_time import clock, never, turns

LEASE = 30.0
GONE = RedisConnectionError("gone")
READER: Any = object()


class Settling:
    """A settler at work for two slots, whose fetcher waits for one."""

    def __init__(self, concurrency: int = 2, **settings: Any) -> None:
        self.queue = ScriptedQueue()
        self.flow = ClaimFlow(concurrency, lease=LEASE, clock=clock)
        self.flow.recover, self.flow.full = False, True
        self.publisher = publisher(self.queue)
        wanted = WorkerSettings.of(concurrency=concurrency, queue=queue_name(), retry_backoff=0, **settings)
        self.settler = Settler(self.queue, self.publisher, self.flow, wanted, reader=READER, clock=clock)
        self.recorded: list[tuple[str, Recorded]] = []
        self.running = asyncio.create_task(self.settler.run())

    async def slot(self, ending: Any = None, task_id: str = "t1", *, lease: float = LEASE, **fields: Any) -> Slot:
        """A slot whose run has ended so."""

        async def run() -> Any:
            if isinstance(ending, Failed):
                raise ending.error
            return Completed('{"output":1}') if ending is None else ending

        entry = f"{task_id[1:]}-0"
        slot = Slot(claim(task_id, entry=entry, **fields), self.publisher.log(task_id, 1), clock() + lease, started=0)
        self.flow.runs.add(slot)
        slot.begin(run(), deadlines=Deadlines(clock), on_over=lambda _: None)
        while not slot._run.done():
            await asyncio.sleep(0)
        return slot

    def settle(self, slot: Slot) -> None:
        self.settler.settle(slot, self._done)

    def _done(self, slot: Slot, recorded: Recorded) -> None:
        self.flow.runs.remove(slot)
        self.recorded.append((slot.claim.task.task_id, recorded))

    async def end(self, ending: Any = None, task_id: str = "t1", **fields: Any) -> Slot:
        """Let a run end so, and settle it."""
        slot = await self.slot(ending, task_id, **fields)
        self.settle(slot)
        return slot


async def test_settler_records_a_completed_run() -> None:
    settling = Settling()
    await settling.end()
    await turns(20)
    [(rows, _, _)] = settling.queue.of("settle_and_claim")
    assert rows == [("t1", "completed")]
    assert settling.recorded == [("t1", Recorded.COMPLETED)]


async def test_settler_records_a_cancelled_run() -> None:
    settling = Settling()
    slot = await settling.slot()
    hung = Slot(slot.claim, slot.log, slot.leased_until)
    hung.begin(never(), deadlines=Deadlines(clock), on_over=lambda _: None)
    hung.stop(StopReason.CANCELLED)
    await turns()
    settling.settle(hung)
    await turns(20)
    [(rows, _, _)] = settling.queue.of("settle_and_claim")
    assert rows == [("t1", "cancelled")]


@pytest.mark.parametrize(
    ("error", "retries", "step"),
    [
        (ValueError("x"), 0, "retry"),
        (ValueError("x"), 1, "settle_and_claim"),
        (ConfigurationError("x"), 0, "settle_and_claim"),
    ],
    ids=["within the budget", "beyond the budget", "never worth it"],
)
async def test_failed_run_is_retried_by_its_budget(error: Exception, retries: int, step: str) -> None:
    settling = Settling(max_retries=1)
    await settling.end(Failed(error), retries=retries)
    await turns(20)
    assert [call[0] for call in settling.queue.calls if call[0] in {"retry", "settle_and_claim"}] == [step]
    assert settling.recorded == [("t1", Recorded.RETRYING if step == "retry" else Recorded.FAILED)]


async def test_retry_says_delay_and_error_and_adds_an_event() -> None:
    settling = Settling()
    slot = await settling.end(Failed(TransientError("busy", retry_after=12)))
    await turns(20)
    assert settling.queue.of("retry") == [["t1", 12.0, "busy", "TransientError"]]
    [(batch,)] = settling.queue.of("append_events")
    assert '"recoverable": true' in batch.events[0]
    assert slot.log.closed
    # The event arrives before the outcome.
    assert [call[0] for call in settling.queue.calls] == ["append_events", "retry"]


async def test_requeued_run_is_recorded_apart() -> None:
    settling = Settling()
    await settling.end(Requeued("no room"))
    await turns(20)
    assert settling.queue.of("requeue") == [["t1"]]
    assert settling.queue.of("settle_and_claim") == settling.queue.of("retry") == []
    assert settling.recorded == [("t1", Recorded.PENDING)]


async def test_delegated_run_is_recorded_apart() -> None:
    settling = Settling()
    await settling.end(Delegated("workflow"))
    await turns(20)
    assert settling.queue.of("delegate") == [["t1", "workflow"]]
    assert settling.queue.of("settle_and_claim") == []
    assert settling.recorded == [("t1", Recorded.DELEGATED)]


async def test_lost_run_records_nothing() -> None:
    settling = Settling()
    slot = await settling.slot()
    slot.stop(StopReason.LOST)
    settling.settle(slot)
    await turns(20)
    assert settling.queue.calls == []
    assert settling.recorded == [("t1", Recorded.LOST)]


async def test_outcome_is_dropped_where_the_lease_ended_before() -> None:
    settling = Settling()
    slot = await settling.slot(lease=5)
    await asyncio.sleep(5)
    settling.settle(slot)
    await turns(20)
    assert settling.queue.calls == []
    assert settling.recorded == [("t1", Recorded.LOST)]


@pytest.mark.parametrize("ending", [None, Requeued("")], ids=["in a batch", "apart"])
async def test_outcome_is_dropped_where_the_lease_ends_during_the_flush(ending: Any) -> None:
    settling = Settling()
    settling.queue.will("append_events", lambda: asyncio.sleep(6))
    slot = await settling.slot(ending, lease=5)
    slot.log.emit("hello")
    slot.log.closed = False
    settling.settle(slot)
    await asyncio.sleep(7)
    assert [call[0] for call in settling.queue.calls] == ["append_events"]
    assert settling.recorded == [("t1", Recorded.LOST)]


async def test_outcome_of_one_run_does_not_wait_for_a_lost_one() -> None:
    settling = Settling(4)
    settling.queue.will("append_events", lambda: asyncio.sleep(6))
    first, second = await settling.slot(lease=5), await settling.slot(None, "t2")
    first.log.emit("hello")
    settling.settle(first)
    settling.settle(second)
    await asyncio.sleep(7)
    [(rows, _, _)] = settling.queue.of("settle_and_claim")
    assert rows == [("t2", "completed")]
    assert settling.recorded == [("t1", Recorded.LOST), ("t2", Recorded.COMPLETED)]


@pytest.mark.parametrize(
    ("ending", "step"), [(None, "settle_and_claim"), (Requeued(""), "requeue")], ids=["in a batch", "apart"]
)
async def test_outcome_is_sent_again_after_an_error(ending: Any, step: str) -> None:
    settling = Settling()
    settling.queue.will(step, GONE, TimeoutError())
    began = clock()
    await settling.end(ending)
    await asyncio.sleep(AGAIN_AFTER * 2 + 0.01)
    assert len(settling.queue.of(step)) == 3
    assert len(settling.recorded) == 1
    assert clock() == pytest.approx(began + AGAIN_AFTER * 2 + 0.01)


async def test_outcome_is_given_up_when_the_lease_ends() -> None:
    settling = Settling()
    settling.queue.will("retry", *[GONE] * 1000)
    await settling.end(Failed(ValueError("x")), lease=3)
    await asyncio.sleep(4)
    assert settling.recorded == [("t1", Recorded.LOST)]
    assert 10 <= len(settling.queue.of("retry")) <= 16


async def test_settler_gives_up_what_is_recorded_apart_when_told() -> None:
    settling = Settling()
    settling.queue.will("requeue", never)
    await settling.end(Requeued(""))
    await turns(20)
    settling.settler.abandon()
    await turns()
    assert settling.recorded == [("t1", Recorded.LOST)]


async def test_claims_come_with_outcomes_while_the_fetcher_waits() -> None:
    settling = Settling()
    come = [begun("t9", "9-0")]
    settling.queue.will("settle_and_claim", (["completed"], come))
    other = await settling.slot(None, "t2")
    asked = clock()
    await settling.end()
    await turns(20)
    [(_, count, _)] = settling.queue.of("settle_and_claim")
    assert count == 1
    [arrival] = settling.flow.take_arrivals()
    assert (arrival.begun, arrival.asked) == (come, asked)
    other.stop(StopReason.LOST)


async def test_no_claims_come_with_outcomes_while_a_slot_is_free() -> None:
    settling = Settling()
    settling.flow.full = False
    await settling.end()
    await turns(20)
    [(_, count, _)] = settling.queue.of("settle_and_claim")
    assert count == 0
    assert not settling.flow.has_arrivals


async def test_lost_reply_marks_its_deliveries_unknown_and_sends_again() -> None:
    settling = Settling()
    settling.queue.will("settle_and_claim", GONE)
    await settling.slot(None, "t2")
    await settling.end()
    await turns(20)
    # What came with the reply is pending here; nothing more comes until it has been looked for.
    assert settling.flow.recover
    assert settling.flow.none_under_way.is_set()
    assert settling.flow.slot_expected_until == clock() + SLOT_EXPECTED
    await asyncio.sleep(AGAIN_AFTER + 0.01)
    assert [call[1] for call in settling.queue.of("settle_and_claim")] == [1, 0]
    assert settling.recorded == [("t1", Recorded.COMPLETED)]


async def test_lost_reply_that_brought_no_claims_looks_for_none() -> None:
    settling = Settling()
    settling.flow.full = False
    settling.queue.will("settle_and_claim", GONE)
    await settling.end()
    await turns(20)
    assert not settling.flow.recover


async def test_slots_never_look_free_between_an_end_and_a_delivery() -> None:
    settling = Settling(1)
    settling.queue.will("settle_and_claim", (["completed"], [begun("t9", "9-0")]))
    rooms: list[int] = []
    slot = await settling.slot()

    def done(slot: Slot, recorded: Recorded) -> None:
        settling.flow.runs.remove(slot)
        rooms.append(settling.flow.free)

    settling.settler.settle(slot, done)
    await turns(20)
    assert rooms == [0]


async def test_full_batch_behind_one_under_way_uses_the_readers_connection() -> None:
    settling = Settling(4)
    first = asyncio.get_running_loop().create_future()
    settling.queue.will("settle_and_claim", first)
    slots = [await settling.slot(None, f"t{number}") for number in range(4)]
    settling.settle(slots[0])
    await turns(20)
    settling.settle(slots[1])
    settling.settle(slots[2])
    await turns(20)
    assert [client for _, _, client in settling.queue.of("settle_and_claim")] == [None, READER]
    first.set_result((["completed"], []))
    settling.settle(slots[3])
    await turns(20)
    assert len(settling.recorded) == 4
    assert not settling.settler._reader_taken


async def test_fault_in_one_outcome_leaves_the_others() -> None:
    settling = Settling(4)
    odd = await settling.slot()
    odd.log.last = None  # type: ignore[assignment, method-assign]
    settling.settle(odd)
    await settling.end(None, "t2")
    await turns(20)
    assert settling.recorded == [("t1", Recorded.LOST), ("t2", Recorded.COMPLETED)]


async def test_outcome_that_cannot_be_sent_leaves_those_beside_it() -> None:
    settling = Settling(4)
    odd = UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
    settling.queue.will("settle_and_claim", odd, odd, (["completed"], []))
    slots = [await settling.slot(None, "t1"), await settling.slot(None, "t2")]
    for slot in slots:
        settling.settle(slot)
    await turns(40)
    assert sorted(settling.recorded) == [("t1", Recorded.LOST), ("t2", Recorded.COMPLETED)]
    assert not settling.running.done()


async def test_outcome_that_was_not_ours_any_more_is_lost() -> None:
    settling = Settling()
    settling.queue.will("settle_and_claim", (["lost"], []))
    await settling.end()
    await turns(20)
    assert settling.recorded == [("t1", Recorded.LOST)]


async def test_settler_that_is_cancelled_cancels_what_is_under_way() -> None:
    settling = Settling()
    settling.queue.will("settle_and_claim", never)
    await settling.end()
    await turns(20)
    [sent] = settling.settler._sent
    settling.running.cancel()
    await turns(20)
    assert sent.cancelled()


@pytest.mark.parametrize(("stands", "recorded"), [("pending", Recorded.PENDING), ("failed", Recorded.FAILED)])
async def test_run_whose_process_died_is_recorded_apart(stands: str, recorded: Recorded) -> None:
    settling = Settling()
    settling.queue.will("lose", GONE, stands)
    slot = await settling.end(Died("killed by signal 9", "ProcessDiedError", guilty=True, host=False))
    await asyncio.sleep(AGAIN_AFTER)
    await turns(20)
    assert settling.queue.of("lose") == [["t1", "killed by signal 9", "ProcessDiedError", True, False]] * 2
    assert settling.queue.of("settle_and_claim") == settling.queue.of("requeue") == []
    assert settling.recorded == [("t1", recorded)]
    # Whether the task has ended is the queue's to say: no event of ours does.
    assert slot.log.closed
    assert settling.queue.of("append_events") == []
