"""Listings look at what they show, not at all that there is: by status, by queue, and the workers."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from orbiter.distributed import TaskBroker, TaskPayload, TaskStore
from orbiter.distributed.broker.housekeeping import Housekeeping
from orbiter.distributed.broker.records import ended_score
from orbiter.distributed.broker.worker_health import WorkerHealth
from orbiter.distributed.health import get_worker_fleet_status
from orbiter.distributed.worker.sweeper import Sweeper
from tests import keys
from tests.fleet import QUEUE, Fleet, working
from tests.servers import plain_server
from tests.support import wait_until

OTHER = "other:tasks"


async def listed(fleet: Fleet, status: str | None = None, queue: str | None = None, limit: int = 100) -> list[str]:
    return [task.task_id for task in await fleet.store.list_tasks(status, limit, queue=queue)]


async def calls(client: Redis, *commands: str) -> int:
    """Return how often these commands were called."""
    stats = await client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in commands)


async def many(client: Redis, number: int, *, status: str = "completed", queue: str = QUEUE) -> None:
    """Write finished tasks, as workers leave them."""
    now = int(time.time() * 1000)
    for start in range(0, number, 5_000):
        async with client.pipeline(transaction=False) as pipeline:
            ids = [f"{status}-{at}" for at in range(start, min(start + 5_000, number))]
            for task_id in ids:
                fields = {"task_id": task_id, "status": status, "queue": queue, "completed_at": str(now / 1000)}
                pipeline.hset(keys.task(task_id), mapping=fields)
            pipeline.zadd(keys.BY_TIME, dict.fromkeys(ids, now))
            pipeline.zadd(keys.tagged(queue, "tasks"), dict.fromkeys(ids, now))
            pipeline.zadd(keys.ENDED, dict.fromkeys(ids, ended_score(status, now)))
            await pipeline.execute()


async def test_tasks_are_listed_by_status_and_queue(fleet: Fleet) -> None:
    other = TaskBroker(fleet.url, queue_name=OTHER)
    await other.connect()
    async with working(fleet, max_retries=0):
        done = [(await fleet.ends(await fleet.submit("echo"))).task_id for _ in range(2)]
        failed = (await fleet.ends(await fleet.submit("fail"))).task_id
    waiting, gone = [await fleet.submit("echo", not_before=4e9) for _ in range(2)]
    elsewhere = await other.submit(TaskPayload())
    await fleet.broker.cancel(gone)
    await other.disconnect()
    assert await listed(fleet, "completed") == done[::-1]
    assert await listed(fleet, "failed") == [failed]
    assert await listed(fleet, "cancelled") == [gone]
    assert await listed(fleet, "pending") == [elsewhere, waiting]
    assert await listed(fleet, queue=OTHER) == [elsewhere]
    assert await listed(fleet, queue=QUEUE) == [gone, waiting, failed, *done[::-1]]
    assert await listed(fleet, "completed", QUEUE, limit=1) == done[1:]
    assert await listed(fleet, "completed", OTHER) == []


@pytest.mark.parametrize(
    ("status", "queue"), [("failed", None), (None, OTHER), ("failed", OTHER), ("completed", OTHER)]
)
async def test_a_listing_does_not_look_at_what_it_does_not_show(
    fleet: Fleet, status: str | None, queue: str | None
) -> None:
    await many(fleet.client, 10_000)
    await many(fleet.client, 3, status="failed", queue=OTHER)
    before = await calls(fleet.client, "hmget", "hgetall", "zrange")
    assert len(await listed(fleet, status, queue)) == (0 if status == "completed" else 3)
    assert await calls(fleet.client, "hmget", "hgetall", "zrange") - before < 20


async def test_a_task_that_runs_again_leaves_the_list_of_failed_ones(fleet: Fleet) -> None:
    task_id = await fleet.submit("fail", max_retries=0)
    async with working(fleet):
        await fleet.ends(task_id)
    assert await listed(fleet, "failed") == [task_id]
    await fleet.client.hset(keys.task(task_id), "status", "pending")
    assert await listed(fleet, "failed") == []


async def test_tasks_that_0_1_or_an_earlier_release_recorded_are_listed_by_a_round(fleet: Fleet) -> None:
    ended = str(time.time() - 5)
    await fleet.client.hset(keys.task("old"), mapping={"task_id": "old", "status": "failed", "completed_at": ended})
    await fleet.client.sadd(keys.INDEX, "old")
    record = {"task_id": "before", "status": "completed", "completed_at": ended, "queue": QUEUE}
    await fleet.client.hset(keys.task("before"), mapping=record)
    await fleet.client.zadd(keys.BY_TIME, {"before": 1})
    async with working(fleet, heartbeat_ttl=1):

        async def found() -> bool:
            lists = [await listed(fleet, "failed"), await listed(fleet, "completed"), await listed(fleet, queue=QUEUE)]
            return lists == [["old"], ["before"], ["old", "before"]]

        await wait_until(found)


async def test_lists_forget_what_has_expired(fleet: Fleet) -> None:
    await many(fleet.client, 3)
    await fleet.client.delete(keys.task("completed-1"))
    # Kept for a day: this one ended before.
    await fleet.client.zadd(keys.ENDED, {"completed-2": ended_score("completed", (time.time() - 90_000) * 1000)})
    await Sweeper(Housekeeping(fleet.broker), "w", lease=30).sweep(1)
    assert sorted(await fleet.client.zrange(keys.tagged(QUEUE, "tasks"), 0, -1)) == ["completed-0", "completed-2"]
    assert "completed-2" not in await fleet.client.zrange(keys.ENDED, 0, -1)


@pytest.mark.parametrize("key", [keys.ENDED, keys.tagged(QUEUE, "tasks")])
async def test_a_list_that_cannot_be_used_costs_no_outcome_and_is_mended(fleet: Fleet, key: str) -> None:
    await fleet.client.set(key, "spoilt")
    task_id = await fleet.submit("fail")
    async with working(fleet, max_retries=0, heartbeat_ttl=1):
        assert (await fleet.ends(task_id)).status == "failed"

        async def mended() -> bool:
            return await fleet.client.type(key) == "zset" and await fleet.client.zscore(key, task_id) is not None

        await wait_until(mended)
    assert await listed(fleet, "failed", QUEUE) == [task_id]


async def test_who_may_not_read_a_list_is_shown_the_same(tmp_path: Path) -> None:
    with plain_server(tmp_path, "user narrow on nopass ~orbiter:task:[^e]* &* +@all") as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        async with Redis.from_url(url, decode_responses=True) as client:
            await many(client, 3, status="failed", queue=OTHER)
        store = TaskStore(url.replace("redis://", "redis://narrow:x@"))
        await store.connect()
        for status, queue in (("failed", None), (None, OTHER)):
            assert len(await store.list_tasks(status, queue=queue)) == 3
        await store.disconnect()


# -- workers -----------------------------------------------------------------------------------------------------------


def names(workers: Iterable[WorkerHealth]) -> list[str]:
    return sorted(worker.worker_id for worker in workers)


async def test_workers_are_read_from_their_list_and_no_key_is_scanned(fleet: Fleet) -> None:
    await many(fleet.client, 2_000)
    async with working(fleet, worker_id="w1", heartbeat_ttl=600):
        before = await calls(fleet.client, "scan")
        assert names(await get_worker_fleet_status(fleet.url)) == ["w1"]
        assert await calls(fleet.client, "scan") == before


async def test_workers_of_0_1_are_listed_alone_and_beside_ours(fleet: Fleet) -> None:
    await fleet.broker.ensure_group()
    await fleet.client.xgroup_createconsumer(QUEUE, keys.group(QUEUE), "old")
    beat = {"status": "running", "last_heartbeat": str(time.time()), "hostname": "h", "concurrency": "1"}
    await fleet.client.hset(keys.worker("old"), mapping=beat)
    assert names(await get_worker_fleet_status(fleet.url)) == ["old"]
    async with working(fleet, worker_id="w1", heartbeat_ttl=1):

        async def both() -> bool:
            return names(await get_worker_fleet_status(fleet.url)) == ["old", "w1"]

        await wait_until(both)
