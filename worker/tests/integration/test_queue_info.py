"""get_queue_info on a real Redis."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from orbiter.distributed.broker.queue_info import QueueInfo, get_queue_info
from orbiter.distributed.broker.records import Claim
from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.models import TaskPayload


@pytest.fixture
async def broker(redis_url: str, redis_client: Redis) -> TaskBroker:
    made = TaskBroker(redis_url, queue_name="q", client=redis_client)
    await made.connect()
    await made.ensure_group()
    return made


async def test_a_queue_that_does_not_exist_is_empty(redis_url: str) -> None:
    found = await get_queue_info(redis_url, "q")
    assert found == QueueInfo(queue="q", memory_used=found.memory_used, memory_max=0)
    assert found.memory_used


async def test_every_place_where_a_task_can_be_is_counted(
    broker: TaskBroker, redis_url: str, redis_client: Redis
) -> None:
    await broker.submit_many([TaskPayload(task_id=f"t{n}") for n in range(7)])
    [(entry, started), *_] = await broker.fetch("w1", 3)
    claim = Claim(entry.entry_id, TaskPayload.from_fields(entry.fields), started.deliveries, started.attempt, 0)
    await broker.retry("w1", claim, delay=60, error="e", error_type="E")
    await redis_client.xadd("{q}:dead", {"task_id": "x"})
    fields = {"version": "1", "concurrency": "4", "active": "2", "queue": "q", "state": "running"}
    await broker.beat(redis_client, "w1", 30, fields)
    await broker.beat(redis_client, "w2", 30, fields | {"queue": "another"})
    await redis_client.zadd("orbiter:fleet", {"dead": 1})

    found = await get_queue_info(redis_url, "q", client=redis_client)
    assert (found.waiting, found.running, found.delayed, found.dead) == (4, 2, 1, 1)
    assert (found.workers, found.slots, found.busy, found.consumers) == (1, 4, 2, 1)
    seconds, micros = await redis_client.time()
    assert found.next_due == pytest.approx(seconds + micros / 1e6 + 60, abs=5)


async def test_the_oldest_waiting_task_is_the_first_that_nobody_has_claimed(
    broker: TaskBroker, redis_url: str, redis_client: Redis
) -> None:
    seconds, _ = await redis_client.time()
    for age in (500, 100):
        await redis_client.xadd("q", {"payload": TaskPayload().to_json()}, id=f"{(seconds - age) * 1000}-0")
    both = await get_queue_info(redis_url, "q", client=redis_client)
    await broker.fetch("w1", 1)
    one = await get_queue_info(redis_url, "q", client=redis_client)
    assert both.oldest_waiting == pytest.approx(500, abs=10)
    assert one.oldest_waiting == pytest.approx(100, abs=10)
    await broker.fetch("w1", 1)
    assert (await get_queue_info(redis_url, "q", client=redis_client)).oldest_waiting is None


async def test_where_redis_has_lost_count_of_the_lag_the_length_tells(
    broker: TaskBroker, redis_url: str, redis_client: Redis
) -> None:
    await broker.submit_many([TaskPayload(task_id=f"t{n}") for n in range(5)])
    await broker.fetch("w1", 2)
    rows = await redis_client.xrange("q")
    await redis_client.xdel("q", rows[3][0])
    (group,) = await redis_client.xinfo_groups("q")
    assert group["lag"] is None, "this Redis still knows: the test proves nothing"
    found = await get_queue_info(redis_url, "q", client=redis_client)
    assert (found.waiting, found.running) == (2, 2)


async def test_without_a_group_everything_waits(redis_url: str, redis_client: Redis) -> None:
    await redis_client.xadd("q", {"payload": "{}"})
    found = await get_queue_info(redis_url, "q", client=redis_client)
    assert (found.waiting, found.consumers) == (1, 0)


async def test_a_user_who_may_not_ask_for_memory_sees_the_rest(redis_url: str, redis_client: Redis) -> None:
    await redis_client.acl_setuser("viewer", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-info"])
    try:
        found = await get_queue_info(redis_url.replace("redis://", "redis://viewer:pw@"), "q")
    finally:
        await redis_client.acl_deluser("viewer")
    assert (found.memory_used, found.memory_max, found.waiting) == (None, None, 0)
