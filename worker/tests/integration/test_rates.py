"""Rates: what workers count is in Redis once, in a ring that never grows."""

from __future__ import annotations

import time
from typing import Any

import pytest
from redis.asyncio import Redis

from orbiter.distributed.broker.rates import WAIT_BOUNDS, Counts, Period, Rates
from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.broker.usage import UsageOfQueue
from orbiter.distributed.connection.connected import redis_time
from orbiter.distributed.limits import MINUTES, MINUTES_TTL, USAGE_TTL
from orbiter.distributed.models import TaskPayload
from tests.fleet import QUEUE, Fleet, working
from tests.keys import tagged

RING = tagged(QUEUE, "minutes")
WAITS = (1,) * (len(WAIT_BOUNDS) + 1)


@pytest.fixture
def broker(fleet: Fleet) -> TaskBroker:
    return fleet.broker


async def total(client: Redis, minutes: int = 3) -> Period:
    """Return what the last minutes have, all together."""
    now = await redis_time(client)
    found = await Rates("", client=client).last(QUEUE, minutes, now=now)
    assert len(found) == minutes
    assert found[-1].at == now // 60 * 60
    sums = [sum(getattr(period, name) for period in found) for name in ("started", "ended", "failed")]
    return Period(
        0, 0, max(period.depth for period in found), *sums, tuple(map(sum, zip(*(p.waits for p in found), strict=True)))
    )


async def beat(broker: TaskBroker, client: Redis, counts: Counts, **more: Any) -> None:
    await broker.beat(client, "w1", 30, {"state": "running"}, life="l", counts=counts, **more)


async def test_heartbeats_add_up(broker: TaskBroker, redis_client: Redis) -> None:
    await broker.ensure_group()
    await broker.submit_many([TaskPayload() for _ in range(5)])
    await broker.fetch("w1", 2)
    await beat(broker, redis_client, Counts(1, 3, 2, 1, WAITS))
    await beat(broker, redis_client, Counts(2, 10, 20, 0, WAITS))
    # Two of five are claimed.
    assert await total(redis_client) == Period(0, 0, 3, 13, 22, 1, tuple(2 * count for count in WAITS))
    assert 0 < await redis_client.ttl(RING) <= MINUTES_TTL


async def test_counts_that_come_twice_count_once(broker: TaskBroker, redis_client: Redis) -> None:
    for _ in range(2):
        await beat(broker, redis_client, Counts(1, 3, 2, 1, WAITS))
    await beat(broker, redis_client, Counts(2, 1, 1, 0, WAITS))
    assert (await total(redis_client)).started == 4
    await broker.deregister("w1", life="l", counts=Counts(2, 1, 1, 0, WAITS))
    assert (await total(redis_client)).started == 4


async def test_a_worker_that_stops_leaves_its_last_counts(broker: TaskBroker, redis_client: Redis) -> None:
    await beat(broker, redis_client, Counts(1, 3))
    await broker.deregister("w1", life="l", counts=Counts(2, 0, 3, 0))
    found = await total(redis_client)
    assert (found.started, found.ended) == (3, 3)


async def test_the_ring_keeps_a_day_and_forgets_the_day_before(broker: TaskBroker, redis_client: Redis) -> None:
    minute = int(await redis_time(redis_client) // 60)
    ring: Any = redis_client
    await ring.hset(RING, mapping={str(at % MINUTES): f"{at} 9 9 9 9" for at in range(minute - MINUTES, minute)})
    await ring.hset(RING, mapping={str((minute + 1) % MINUTES): f"{minute + 1 - MINUTES} 9 9 9 9"})
    await beat(broker, redis_client, Counts(1, 3, 2, 1, WAITS))
    assert await ring.hlen(RING) == MINUTES
    found = await Rates("", client=redis_client).last(QUEUE, MINUTES, now=await redis_time(redis_client))
    # A minute may have begun meanwhile.
    assert sum(period.started for period in found[-2:]) in {3, 12}
    assert sum(period.started for period in found[:-2]) >= 9 * (MINUTES - 4)


@pytest.mark.parametrize("spoilt", ["string", "text", "numbers"])
async def test_what_is_of_no_use_in_the_ring_is_replaced(broker: TaskBroker, redis_client: Redis, spoilt: str) -> None:
    minute = int(await redis_time(redis_client) // 60)
    places = [str(at % MINUTES) for at in (minute, minute + 1)]
    ring: Any = redis_client
    if spoilt == "string":
        await ring.set(RING, "x")
    else:
        text = "nonsense" if spoilt == "text" else f"{'9' * 400} {'9' * 400}"
        await ring.hset(RING, mapping=dict.fromkeys(places, text))
    assert (await total(redis_client)).started == 0
    await beat(broker, redis_client, Counts(1, 3))
    assert (await total(redis_client)).started == 3


async def test_usage_is_added_to_its_day_once(broker: TaskBroker, redis_client: Redis) -> None:
    rows = (("p:m", "a", 1, 3, 4), ("p:m", "b", 2, 30, 40))
    for _ in range(2):
        await beat(broker, redis_client, Counts(1, usage=rows))
    await broker.deregister("w1", life="l", counts=Counts(2, usage=rows[:1]))
    now = await redis_time(redis_client)
    found = await UsageOfQueue("", client=redis_client).last(QUEUE, 2, now=now)
    assert [(row.model, row.agent, row.requests, row.input, row.output) for row in found] == [
        ("p:m", "b", 2, 30, 40),
        ("p:m", "a", 2, 6, 8),
    ]
    day = tagged(QUEUE, f"usage:{found[0].day // 86_400}")
    assert 0 < await redis_client.ttl(day) <= USAGE_TTL


async def test_a_day_of_usage_has_an_end(broker: TaskBroker, redis_client: Redis) -> None:
    for at in range(11):
        rows = tuple(("p:m", f"agent {at} {number}", 1, 1, 1) for number in range(100))
        await beat(broker, redis_client, Counts(at + 1, usage=rows))
    found = await UsageOfQueue("", client=redis_client).last(QUEUE, 2, now=await redis_time(redis_client))
    assert len(found) <= 2 * 901
    assert sum(row.requests for row in found) == 1100
    assert "(other)" in {row.agent for row in found}


async def test_workers_count_what_they_run(fleet: Fleet, redis_client: Redis) -> None:
    async with working(fleet, max_retries=0, worker_id="w1"):
        await fleet.all_end([*await fleet.submit_many("echo", 20), await fleet.submit("fail")])
    # Also what was counted after the last heartbeat.
    found = await total(redis_client)
    assert (found.started, found.ended, found.failed, sum(found.waits)) == (21, 21, 1, 21)
    wait = found.wait(0.95)
    assert wait is not None
    assert wait < 30


async def test_a_task_costs_no_command_for_what_is_counted(fleet: Fleet, redis_client: Redis) -> None:
    await redis_client.config_resetstat()
    began = time.monotonic()
    async with working(fleet, worker_id="w1"):
        await fleet.all_end(await fleet.submit_many("echo", 100))
    stats = await redis_client.info("commandstats")
    # Nothing else asks for XLEN: it is one for each heartbeat, and these come each second where there is news.
    assert stats["cmdstat_xlen"]["calls"] < 15 + 2 * (time.monotonic() - began)
