"""LeaseKeeper: heartbeats, renewals, and what is stopped where these fail."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from orbiter.distributed.connection.deadlines import Deadlines
from orbiter.distributed.errors import WorkerIdTakenError
from orbiter.distributed.execution.counting import Counting
from orbiter.distributed.execution.endings import StopReason
from orbiter.distributed.execution.slot import Slot
from orbiter.distributed.worker.commands import Commands
from orbiter.distributed.worker.flow import ClaimFlow
from orbiter.distributed.worker.lease import MARGIN, NEWS_WITHIN, RENEW_BATCH, LeaseKeeper
from tests.unit.scripted import ScriptedQueue, claim, publisher, queue_name
from tests.unit.virtual_time import clock, never, turns

LEASE = 30
GONE = RedisConnectionError("gone")


class Keeping:
    """A lease keeper, and when it beat."""

    def __init__(self) -> None:
        self.store, self.commands, self.counting = ScriptedQueue(), Commands(), Counting()
        self.flow = ClaimFlow(4, lease=LEASE, clock=clock)
        self.flow.recover = False
        self.beats: list[float] = []
        self.began = clock()
        self.lease = LeaseKeeper(
            self.store,
            None,  # type: ignore[arg-type]
            flow=self.flow,
            commands=self.commands,
            worker_id="w1",
            queue=queue_name(),
            ttl=LEASE,
            describe=self._describe,
            counting=self.counting,
            clock=clock,
        )

    def _describe(self) -> dict[str, str]:
        self.beats.append(clock() - self.began)
        return {"state": "running"}

    def hold(self, number: int = 1) -> list[Slot]:
        slots = []
        for at in range(number):
            held = claim(f"t{at}", entry=f"{at}-0")
            slot = Slot(held, publisher().log(f"t{at}", 1), clock() + LEASE, started=clock())
            slot.begin(never(), deadlines=Deadlines(clock), on_over=self.flow.runs.remove)
            self.flow.runs.add(slot)
            slots.append(slot)
        return slots

    def run(self) -> asyncio.Task[None]:
        self.running = asyncio.create_task(self.lease.run())
        return self.running


async def test_lease_is_renewed_every_third_of_it() -> None:
    keeping = Keeping()
    [slot] = keeping.hold()
    keeping.run()
    await asyncio.sleep(300)
    assert len(keeping.beats) == 31
    assert keeping.beats[:3] == [0, pytest.approx(10), pytest.approx(20)]
    assert slot.reason is None
    assert slot.leased_until == pytest.approx(clock() + LEASE, abs=10.1)


async def test_lease_is_proven_from_the_moment_the_renewal_was_asked() -> None:
    keeping = Keeping()
    [slot] = keeping.hold()
    await asyncio.sleep(5)
    asked = clock()
    keeping.store.will("renew", lambda: asyncio.sleep(3, ["ok"]))
    await keeping.lease.beat()
    assert slot.leased_until == asked + LEASE


@pytest.mark.parametrize(
    ("verdict", "reason"), [("ok", None), ("lost", StopReason.LOST), ("cancel", StopReason.CANCELLED)]
)
async def test_renewal_stops_a_run_by_its_verdict(verdict: str, reason: StopReason | None) -> None:
    keeping = Keeping()
    [slot] = keeping.hold()
    keeping.store.will("renew", [verdict])
    await keeping.lease.beat()
    assert slot.reason is reason


async def test_renewal_stops_no_run_that_was_settled_meanwhile() -> None:
    keeping = Keeping()
    [slot] = keeping.hold()

    def settled() -> list[str]:
        keeping.flow.runs.remove(slot)
        return ["lost"]

    keeping.store.will("renew", settled)
    await keeping.lease.beat()
    assert slot.reason is None


async def test_renewals_go_in_batches() -> None:
    keeping = Keeping()
    keeping.hold(RENEW_BATCH + 2)
    await keeping.lease.beat()
    assert [len(ids) for ids in keeping.store.of("renew")] == [RENEW_BATCH, 2]


@pytest.mark.parametrize("how", ["errors", "hangs"])
async def test_run_is_stopped_before_a_lease_that_is_not_renewed_ends(how: str) -> None:
    keeping = Keeping()
    [slot] = keeping.hold()
    answer: Any = GONE if how == "errors" else never
    keeping.store.will("beat", *[answer] * 1000)
    keeping.run()
    await asyncio.sleep(LEASE * (1 - MARGIN) - 0.1)
    assert slot.reason is None
    await asyncio.sleep(LEASE * MARGIN)
    assert slot.reason is StopReason.LOST
    assert clock() < slot.leased_until


async def test_run_is_stopped_although_only_its_renewal_hangs() -> None:
    keeping = Keeping()
    [slot] = keeping.hold()
    keeping.store.will("renew", *[never] * 1000)
    keeping.run()
    await asyncio.sleep(LEASE - 0.1)
    assert slot.reason is StopReason.LOST


async def test_beat_is_tried_again_soon_after_an_error() -> None:
    keeping = Keeping()
    keeping.store.will("beat", GONE, OSError())
    keeping.run()
    await asyncio.sleep(2.5)
    assert keeping.beats == [0, pytest.approx(1), pytest.approx(2)]


async def test_beat_that_hangs_leaves_time_for_another() -> None:
    keeping = Keeping()
    [slot] = keeping.hold()
    keeping.store.will("beat", never, never)
    keeping.run()
    await asyncio.sleep(LEASE)
    assert keeping.beats[:3] == [0, pytest.approx(6), pytest.approx(17)]
    assert slot.reason is None


async def test_beats_that_take_longer_than_a_try_may_are_waited_for() -> None:
    """As on a busy host: each try was given up after half a period, and no lease was ever renewed."""
    keeping = Keeping()
    [slot] = keeping.hold()
    keeping.store.will("beat", *[lambda: asyncio.sleep(7)] * 40)
    keeping.run()
    await asyncio.sleep(6 * LEASE)
    assert slot.reason is None
    # Once it is quick again, a try that hangs is given up as soon as before.
    keeping.store.will("beat", *[None] * 3, never)
    await asyncio.sleep(60)
    assert slot.reason is None


async def test_flow_hears_when_redis_took_a_heartbeat() -> None:
    keeping = Keeping()
    await asyncio.sleep(12)
    assert keeping.lease.silent_for() == pytest.approx(12)
    asked = clock()
    keeping.store.will("beat", lambda: asyncio.sleep(2))
    await keeping.lease.beat()
    assert keeping.flow.heard == asked
    assert keeping.lease.silent_for() == pytest.approx(2)
    keeping.store.will("beat", GONE)
    with pytest.raises(RedisConnectionError):
        await keeping.lease.beat()
    assert keeping.flow.heard == asked


async def test_beat_looks_for_pending_now_and_then() -> None:
    keeping = Keeping()
    await keeping.lease.beat()
    assert keeping.flow.recover


async def test_beat_obeys_the_command_that_it_finds() -> None:
    keeping = Keeping()
    keeping.store.will("beat", "drain")
    await keeping.lease.beat()
    assert keeping.commands.stopping.is_set()


async def test_beat_replaces_a_life_that_is_over() -> None:
    keeping = Keeping()
    await keeping.lease.beat(replace="place/over")
    assert [replace for _, replace in keeping.store.of("beat")] == ["place/over"]


async def test_news_are_told_within_a_second() -> None:
    keeping = Keeping()
    keeping.run()
    await asyncio.sleep(2)
    keeping.flow.news.set()
    await asyncio.sleep(NEWS_WITHIN - 0.1)
    assert len(keeping.beats) == 1
    await asyncio.sleep(0.2)
    assert keeping.beats == [0, pytest.approx(2 + NEWS_WITHIN)]


async def test_news_shortly_before_a_beat_do_not_delay_it() -> None:
    keeping = Keeping()
    keeping.run()
    await asyncio.sleep(9.8)
    keeping.flow.news.set()
    await asyncio.sleep(0.3)
    assert keeping.beats == [0, pytest.approx(10)]


@pytest.mark.parametrize("news", [True, False], ids=["after news", "without news"])
async def test_beat_is_sent_at_once_on_command(news: bool) -> None:
    keeping = Keeping()
    keeping.run()
    await asyncio.sleep(2)
    if news:
        keeping.flow.news.set()
        await turns()
    keeping.commands.beat.set()
    await turns()
    assert keeping.beats == [0, pytest.approx(2)]


async def test_keeper_renews_nothing_once_the_id_is_anothers() -> None:
    keeping = Keeping()
    keeping.hold()
    keeping.store.will("beat", WorkerIdTakenError("w1", "other", "host", "1", "0"))
    keeping.run()
    await asyncio.sleep(20)
    assert keeping.commands.taken is not None
    assert keeping.commands.hurry.is_set()
    assert len(keeping.beats) == 1
    assert keeping.store.of("renew") == []
    # What runs is still stopped in time.
    await asyncio.sleep(LEASE)
    assert keeping.flow.runs.held == {}


async def test_heartbeat_brings_what_was_counted_once() -> None:
    keeping = Keeping()
    keeping.counting.start(2, [0.5, 5000])
    keeping.counting.end(failed=True)
    await keeping.lease.beat()
    keeping.counting.end()
    await keeping.lease.beat()
    first, second = keeping.store.counts
    assert first
    assert (first.started, first.ended, first.failed, sum(first.waits), first.waits[-1]) == (2, 1, 1, 2, 1)
    assert second
    assert (second.started, second.ended, second.failed, sum(second.waits)) == (0, 1, 0, 0)
    assert second.number > first.number


async def test_counts_of_a_heartbeat_without_an_answer_come_again_as_they_were() -> None:
    keeping = Keeping()
    keeping.counting.start(3)
    keeping.store.will("beat", GONE, None)
    with pytest.raises(RedisConnectionError):
        await keeping.lease.beat()
    # Redis may have taken the first: what is counted meanwhile must not be taken for a part of it.
    keeping.counting.start(4)
    await keeping.lease.beat()
    await keeping.lease.beat()
    first, again, rest = keeping.store.counts
    assert first == again
    assert rest
    assert rest.started == 4
