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
    # Of one millisecond they may be: then they are in the order of their names.
    waiting, gone = [await fleet.submit("echo", task_id=name, not_before=4e9) for name in ("a-waiting", "b-gone")]
    elsewhere = await other.submit(TaskPayload(task_id="c-elsewhere"))
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
    # What a client may put there: no place of any task.
    odd = {"before": -5, "between": ended_score("failed", 9e12), "after": 4e13, "never": float("-inf")}
    await fleet.client.zadd(keys.ENDED, odd)
    await Sweeper(Housekeeping(fleet.broker), "w", lease=30).sweep(1)
    for name in (keys.tagged(QUEUE, "tasks"), keys.ENDED):
        assert sorted(await fleet.client.zrange(name, 0, -1)) == ["completed-0", "completed-2"]


async def test_many_that_have_expired_are_forgotten_by_one_sweep(fleet: Fleet) -> None:
    await many(fleet.client, 3_500)
    await fleet.client.delete(*[keys.task(f"completed-{at}") for at in range(3_000)])
    await Sweeper(Housekeeping(fleet.broker), "w", lease=30).sweep(1)
    for name in (keys.tagged(QUEUE, "tasks"), keys.ENDED):
        assert await fleet.client.zcard(name) <= 1_500


async def test_an_impossible_time_ends_no_round(fleet: Fleet) -> None:
    await many(fleet.client, 1)
    await fleet.client.zadd(keys.BY_TIME, {"completed-0": float("-inf")})
    await Sweeper(Housekeeping(fleet.broker), "w", lease=0.001).look()
    assert await listed(fleet) == ["completed-0"]


async def test_tasks_of_a_queue_come_in_the_order_of_their_end_from_either_list(fleet: Fleet) -> None:
    now = time.time()
    for number in range(3):
        task_id = f"t{number}"
        fields = {"task_id": task_id, "status": "failed", "queue": QUEUE, "completed_at": str(now - number)}
        await fleet.client.hset(keys.task(task_id), mapping=fields)
        await fleet.client.zadd(keys.tagged(QUEUE, "tasks"), {task_id: now * 1000 + number})
        await fleet.client.zadd(keys.ENDED, {task_id: ended_score("failed", (now - number) * 1000)})
    for more in range(2):  # the one list is shorter, then the other one
        assert await listed(fleet, "failed", QUEUE, limit=2) == ["t0", "t1"]
        await many(fleet.client, 5 * (more + 1), status="completed", queue=(OTHER, QUEUE)[more])


async def test_workers_of_0_1_are_seen_beside_one_of_ours_that_is_gone(fleet: Fleet) -> None:
    await fleet.client.zadd(keys.FLEET, {"gone": time.time() * 1000})
    beat = {"status": "running", "last_heartbeat": str(time.time()), "hostname": "h", "concurrency": "1"}
    await fleet.client.hset(keys.worker("old"), mapping=beat)
    found = {worker.worker_id: worker.status for worker in await get_worker_fleet_status(fleet.url)}
    assert found == {"gone": "dead", "old": "running"}


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
