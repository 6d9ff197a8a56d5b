"""The guide's rows on shutdown, heartbeats and health."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio import Redis

from orbiter.distributed.health import HealthStatus, WorkerHealthCheck, get_worker_fleet_status
from orbiter.distributed.models import TaskStatus
from tests import keys
from tests.fleet import QUEUE, Fleet, job_payload, working
from tests.servers import eventually, plain_server
from tests.support import PATIENCE, orbiter, wait_until, worker_process

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])

# -- Graceful Shutdown -------------------------------------------------------------------------------------------------


@pytest.mark.guide("Graceful Shutdown", "1. no new task is accepted")
@SIGNALS
async def test_shutdown_step_1_no_new_task_is_claimed(fleet: Fleet, tmp_path: Path, number: int) -> None:
    with worker_process(fleet.url, "w", tmp_path / "log", "--concurrency", "2", "--drain-timeout", "60") as process:
        until = tmp_path / "until"
        running = await fleet.submit("hold", metadata={"until": str(until)})
        await fleet.runs(running)
        process.send_signal(number)
        await wait_until(lambda: b"draining" in (tmp_path / "log").read_bytes())
        late = await fleet.submit("echo")
        until.touch()
        assert await asyncio.to_thread(process.wait, PATIENCE) == 0
    assert (await fleet.store.get_status(late)).status == TaskStatus.PENDING  # type: ignore[union-attr]
    assert (await fleet.client.xpending(QUEUE, keys.group(QUEUE)))["pending"] == 0


@pytest.mark.guide("Graceful Shutdown", "2. running tasks run to completion")
@SIGNALS
async def test_shutdown_step_2_running_tasks_run_to_completion(fleet: Fleet, tmp_path: Path, number: int) -> None:
    with worker_process(fleet.url, "w", tmp_path / "log", "--concurrency", "2", "--drain-timeout", "60") as process:
        tasks = await fleet.submit_many("sleep", 2, metadata={"seconds": 3})
        for task_id in tasks:
            await fleet.runs(task_id)
        process.send_signal(number)
        assert await asyncio.to_thread(process.wait, PATIENCE) == 0
    ended = [await fleet.store.get_status(task_id) for task_id in tasks]
    assert {(task.status, task.attempt, task.handoffs) for task in ended if task} == {("completed", 1, 0)}
    assert await fleet.is_empty()


@pytest.mark.guide("Graceful Shutdown", "3. the heartbeat stops")
async def test_shutdown_step_3_the_heartbeat_stops_once_the_tasks_have_ended(fleet: Fleet, tmp_path: Path) -> None:
    """It goes on for as long as a task runs: a worker that drains is not dead."""
    log, options = tmp_path / "log", ("--heartbeat-ttl", "3", "--drain-timeout", "60")
    with worker_process(fleet.url, "w", log, *options) as process:
        task_id = await fleet.submit("sleep", metadata={"seconds": 5})
        await fleet.runs(task_id)
        process.terminate()
        while (await fleet.store.get_status(task_id)).status == TaskStatus.RUNNING:  # type: ignore[union-attr]
            if await fleet.client.hget(keys.worker("w"), "state") is None:
                assert (await fleet.store.get_status(task_id)).status == TaskStatus.COMPLETED  # type: ignore[union-attr]
            await asyncio.sleep(0.05)
        assert await asyncio.to_thread(process.wait, PATIENCE) == 0
    assert not await fleet.client.exists(keys.worker("w"))
    assert await get_worker_fleet_status(fleet.url) == []


@pytest.mark.guide("Graceful Shutdown", "4. connections are closed")
async def test_shutdown_step_4_connections_are_closed(fleet: Fleet) -> None:
    async def connections() -> int:
        return [row["name"] for row in await fleet.client.client_list()].count("w")

    async with working(fleet, worker_id="w"):
        await fleet.ends(await fleet.submit("echo"))
        assert await connections() > 0

    async def closed() -> bool:
        return await connections() == 0

    await wait_until(closed)


@pytest.mark.guide("Graceful Shutdown", "`SIGKILL` leaves tasks `RUNNING`, unacknowledged")
async def test_sigkill_leaves_the_task_running_and_unacknowledged(fleet: Fleet, tmp_path: Path) -> None:
    with worker_process(fleet.url, "w", tmp_path / "log") as process:
        task_id = await fleet.submit("sleep", metadata={"seconds": 600})
        await fleet.runs(task_id)
        process.kill()
        process.wait()
    assert (await fleet.store.get_status(task_id)).status == TaskStatus.RUNNING  # type: ignore[union-attr]
    [row] = await fleet.client.xpending_range(QUEUE, keys.group(QUEUE), "-", "+", 10)
    assert row["consumer"] == "w"


# -- Heartbeat and Health Monitoring -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The hash of a worker that has completed two tasks, failed one and runs a fourth; with its TTL and its times."""
    directory = tmp_path_factory.mktemp("published")
    with plain_server(directory) as server:
        url, began = f"redis://127.0.0.1:{server.port}/0", time.time()
        client = redis.Redis.from_url(url, decode_responses=True)
        with client, worker_process(url, "web01", directory / "log", "--concurrency", "4") as process:
            tasks = [
                job_payload("echo"),
                job_payload("echo"),
                job_payload("fail", max_retries=0),
                job_payload("sleep", task_id="abc123def", metadata={"seconds": 600}),
            ]
            for task in tasks:
                client.xadd(QUEUE, {"payload": task.to_json()})

            def told() -> bool:
                fields = client.hmget("orbiter:workers:web01", "tasks_processed", "tasks_failed", "current_task_id")
                return fields == ["2", "1", "abc123def"]

            eventually(told, what="the heartbeat tells of all four tasks")
            fields: dict[str, Any] = client.hgetall("orbiter:workers:web01")  # type: ignore[assignment]
            yield {**fields, "ttl": client.pttl("orbiter:workers:web01"), "began": began, "read": time.time()}
            process.terminate()


@pytest.mark.guide(
    "Health data", "`status`, `tasks_processed`, `tasks_failed`, `current_task_id`, `concurrency`, `hostname`"
)
@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("status", "running"),
        ("tasks_processed", "2"),
        ("tasks_failed", "1"),
        ("current_task_id", "abc123def"),
        ("concurrency", "4"),
        ("hostname", socket.gethostname()),
    ],
)
def test_health_field(published: dict[str, Any], field: str, expected: str) -> None:
    assert published[field] == expected


@pytest.mark.guide("Health data", "`started_at`, `last_heartbeat`")
@pytest.mark.parametrize("field", ["started_at", "last_heartbeat"])
def test_health_field_time(published: dict[str, Any], field: str) -> None:
    assert published["began"] <= float(published["started_at"]) <= float(published["last_heartbeat"])
    assert float(published[field]) <= published["read"]


@pytest.mark.guide("Health data", "`current_task_id`, empty if idle")
async def test_health_field_current_task_id_is_empty_if_idle(fleet: Fleet) -> None:
    async with working(fleet, worker_id="w"):
        assert await fleet.client.hget(keys.worker("w"), "current_task_id") == ""


@pytest.mark.guide("Health data", "TTL `heartbeat_ttl`, 30 s by default")
def test_the_heartbeat_key_has_a_ttl_of_30_seconds_by_default(published: dict[str, Any]) -> None:
    assert 15_000 < published["ttl"] <= 30_000


@pytest.mark.guide("Health data", "every `heartbeat_ttl / 3` seconds")
async def test_a_heartbeat_is_published_every_third_of_heartbeat_ttl(fleet: Fleet) -> None:
    async with working(fleet, worker_id="w", heartbeat_ttl=3):
        beats: list[float] = []

        async def eight() -> bool:
            beat = float(await fleet.client.hget(keys.worker("w"), "last_heartbeat") or 0)
            if beat not in beats:
                beats.append(beat)
            return len(beats) == 8

        await wait_until(eight)
    # The first ones tell of the start.
    gaps = [later - earlier for earlier, later in itertools.pairwise(beats)]
    # A busy machine can make some late, not all.
    assert 0.9 < min(gaps[2:]) < 1.3, gaps


@pytest.mark.guide("Health data", "a crashed worker's key expires, the worker is dead")
async def test_a_crashed_worker_s_key_expires_and_it_is_dead_in_list_and_check(fleet: Fleet, tmp_path: Path) -> None:
    with worker_process(fleet.url, "w", tmp_path / "log", "--heartbeat-ttl", "3") as process:
        assert WorkerHealthCheck(fleet.url, "w").check().status is HealthStatus.HEALTHY
        process.kill()
        process.wait()

    async def expired() -> bool:
        return not await fleet.client.exists(keys.worker("w"))

    await wait_until(expired)
    [worker] = await get_worker_fleet_status(fleet.url)
    assert (worker.worker_id, worker.alive, worker.status) == ("w", False, "dead")
    assert WorkerHealthCheck(fleet.url, "w").check().status is HealthStatus.UNHEALTHY


@pytest.mark.guide("Checking worker health", "older than 60 s: `alive=False`")
@pytest.mark.parametrize(("age", "alive"), [(50, True), (62, False)])
async def test_a_heartbeat_older_than_60_seconds_is_alive_false(
    redis_url: str, redis_client: Redis, age: int, alive: bool
) -> None:
    fields = {"status": "running", "last_heartbeat": str(time.time() - age)}
    await redis_client.hset(keys.worker("w"), mapping=fields)
    [worker] = await get_worker_fleet_status(redis_url)
    assert worker.alive is alive


# -- Troubleshooting ---------------------------------------------------------------------------------------------------


@pytest.mark.guide("Worker not claiming tasks", "the queue's name matches")
async def test_troubleshooting_the_queue_s_name_does_not_match(fleet: Fleet, tmp_path: Path) -> None:
    await fleet.submit("echo")
    with worker_process(fleet.url, "w", tmp_path / "log", "--queue", "others"):
        seen = {
            queue: json.loads(orbiter("queue", "info", "--json", "--queue", queue, "--redis-url", fleet.url).stdout)
            for queue in ("orbiter:tasks", "others")
        }
    assert [(info["waiting"], info["workers"]) for info in seen.values()] == [(1, 0), (0, 1)]


@pytest.mark.guide("Tasks stuck in RUNNING", "dead workers show in red")
async def test_troubleshooting_dead_workers_show_in_red(fleet: Fleet, tmp_path: Path) -> None:
    with worker_process(fleet.url, "w", tmp_path / "log", "--heartbeat-ttl", "1") as process:
        process.kill()
        process.wait()

    async def red() -> bool:
        shown = await asyncio.to_thread(
            orbiter, "worker", "list", "--redis-url", fleet.url, FORCE_COLOR="1", TERM="xterm"
        )
        return "\x1b[31mdead" in shown.stdout

    await wait_until(red)


@pytest.mark.guide("Tasks stuck in RUNNING", "a dead worker's tasks can be reclaimed via `XCLAIM`")
async def test_troubleshooting_a_dead_worker_s_tasks_can_be_reclaimed_by_xclaim(fleet: Fleet, tmp_path: Path) -> None:
    """By hand, for who will not wait until the lease of half a minute is over."""
    until = tmp_path / "until"
    with worker_process(fleet.url, "dead", tmp_path / "log") as process:
        task_id = await fleet.submit("hold", metadata={"until": str(until)})
        await fleet.submit("sleep", metadata={"seconds": 600})
        await fleet.runs(task_id)
        process.kill()
        process.wait()
    until.touch()
    [row, *_] = await fleet.client.xpending_range(QUEUE, keys.group(QUEUE), "-", "+", 10)
    assert row["consumer"] == "dead"
    await fleet.client.xclaim(QUEUE, keys.group(QUEUE), "heir", 0, [row["message_id"]])
    with worker_process(fleet.url, "heir", tmp_path / "log"):
        task = await fleet.ends(task_id)
    assert (task.status, task.worker_id) == (TaskStatus.COMPLETED, "heir")


@pytest.mark.guide("Worker heartbeat expired", "a long-running synchronous operation")
async def test_troubleshooting_a_synchronous_tool_does_not_hold_up_the_heartbeat(fleet: Fleet, tmp_path: Path) -> None:
    with worker_process(fleet.url, "w", tmp_path / "log", "--heartbeat-ttl", "3"):
        task_id = await fleet.submit("block", metadata={"seconds": 5})
        await fleet.runs(task_id)
        task = await fleet.ends(task_id)
    assert (task.status, task.attempt, task.losses, task.crashes) == (TaskStatus.COMPLETED, 1, 0, 0)


@pytest.mark.guide("Worker heartbeat expired", "increase `heartbeat_ttl`")
async def test_troubleshooting_a_larger_heartbeat_ttl_outlives_code_that_blocks(fleet: Fleet, tmp_path: Path) -> None:
    with worker_process(fleet.url, "w", tmp_path / "log", "--heartbeat-ttl", "6"):
        task_id = await fleet.submit("hog", metadata={"seconds": 2})
        await fleet.runs(task_id)

        async def ended() -> bool:
            assert await fleet.client.exists(keys.worker("w")), "the heartbeat expired"
            task = await fleet.store.get_status(task_id)
            return task is not None and task.status.terminal

        await wait_until(ended)
    assert (await fleet.store.get_status(task_id)).attempt == 1  # type: ignore[union-attr]
