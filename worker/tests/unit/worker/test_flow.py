"""ClaimFlow: what is claimed, what runs, and how many more may come."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orbiter.distributed.execution.slot import Slot
from orbiter.distributed.worker.flow import SLOT_EXPECTED, ClaimFlow
from tests.unit.scripted import begun, claim, publisher

LEASE = 30.0


class Flow(ClaimFlow):
    """A flow whose clock the test sets, with all slots taken, and a fetcher that waits for one."""

    def __init__(self, slots: int = 2, *, held: int | None = None) -> None:
        self.seconds = 100.0
        super().__init__(slots, lease=LEASE, clock=lambda: self.seconds)
        self.recover = False
        self.full = True
        for at in range(slots if held is None else held):
            self.runs.add(Slot(claim(entry=f"{at}-0"), publisher().log("t1", 1), 0, started=0))


@pytest.mark.parametrize("freed", [0, 1, 2])
async def test_flow_reserves_what_a_call_frees(freed: int) -> None:
    flow = Flow()
    assert flow.reserve(freed) == freed
    assert flow.none_under_way.is_set() is (freed == 0)


def _slot_is_free(flow: Flow) -> None:
    flow.full = False


def _is_paused(flow: Flow) -> None:
    flow.open = False


def _is_unavailable(flow: Flow) -> None:
    flow.available = False


def _is_overdue(flow: Flow) -> None:
    flow.seconds += LEASE


@pytest.mark.parametrize(
    "condition",
    [_slot_is_free, _is_paused, _is_unavailable, ClaimFlow.look_for_pending, _is_overdue],
    ids=lambda f: f.__name__.strip("_"),
)
async def test_flow_reserves_nothing_while(condition: Callable[[Flow], None]) -> None:
    flow = Flow()
    condition(flow)
    assert flow.reserve(2) == 0
    assert flow.none_under_way.is_set()


async def test_flow_reserves_nothing_for_slots_that_are_delegated() -> None:
    flow = Flow(3, held=2)
    flow.delegated = 2
    assert flow.reserve(1) == 0
    flow.delegated = 1
    assert flow.reserve(1) == 1


async def test_flow_reserves_nothing_for_slots_that_arrivals_take() -> None:
    flow = Flow(2, held=1)
    flow.reserve(1)
    flow.deliver([begun("t5"), begun("t6")], 100.0)
    assert flow.reserve(1) == 0


async def test_flow_counts_arrivals_until_they_are_taken() -> None:
    flow = Flow(2, held=0)
    flow.reserve(2)
    rows = [begun("t5"), begun("t6")]
    flow.deliver(rows, 99.0)
    assert flow.free == 0
    assert flow.has_arrivals
    assert flow.look_again.is_set()
    [arrival] = flow.take_arrivals()
    assert (arrival.begun, arrival.asked) == (rows, 99.0)
    assert not flow.has_arrivals
    assert flow.free == 2


async def test_flow_has_arrived_once_all_calls_have_answered() -> None:
    flow = Flow()
    flow.reserve(1)
    flow.reserve(1)
    flow.deliver([], 100.0)
    assert not flow.none_under_way.is_set()
    assert not flow.look_again.is_set()
    flow.mark_unknown()
    assert flow.none_under_way.is_set()


async def test_flow_wakes_a_paused_fetcher_when_a_call_brings_nothing() -> None:
    flow = Flow()
    flow.reserve(1)
    flow.open = False
    flow.deliver([], 100.0)
    assert flow.look_again.is_set()


async def test_flow_looks_for_pending_after_a_lost_reply() -> None:
    flow = Flow()
    flow.reserve(1)
    flow.mark_unknown()
    assert flow.recover
    assert flow.look_again.is_set()
    assert flow.slot_expected_until == flow.seconds + SLOT_EXPECTED


async def test_flow_has_no_room_where_the_heartbeat_is_overdue() -> None:
    flow = Flow(2, held=0)
    assert flow.free == 2
    flow.seconds += LEASE - 0.001
    assert not flow.heartbeat_overdue
    flow.seconds += 0.001
    assert flow.heartbeat_overdue
    assert flow.free == 0
    flow.heard = flow.seconds
    assert flow.free == 2


async def test_flow_has_no_room_while_the_executor_is_unavailable() -> None:
    flow = Flow(2, held=0)
    flow.available = False
    assert flow.free == 0


async def test_flow_tells_the_fetcher_of_a_change_only_with_room() -> None:
    flow = Flow(1, held=1)
    flow.changed()
    assert flow.news.is_set()
    assert not flow.look_again.is_set()
    flow.runs.remove(next(iter(flow.runs.held.values())))
    flow.changed()
    assert flow.look_again.is_set()


async def test_flow_remembers_the_claim_of_a_run_given_up() -> None:
    flow = Flow()
    flow.give_up(claim(entry="7-0", deliveries=3))
    assert flow.given_up == {"7-0": 3}
    assert flow.recover


async def test_flow_checks_for_pending_once_a_quarter_of_a_lease() -> None:
    flow = Flow()
    flow.check()
    assert flow.recover
    flow.recover = False
    flow.seconds += LEASE / 4 - 0.001
    flow.check()
    assert not flow.recover
    flow.seconds += 0.001
    flow.check()
    assert flow.recover
