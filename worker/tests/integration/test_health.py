"""Heartbeats as others read them."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from orbiter.distributed.health import (
    HealthStatus,
    WorkerHealth,
    WorkerHealthCheck,
    get_worker_fleet_status,
)
from tests.support import free_port

OLD = {
    "status": "running",
    "tasks_processed": "42",
    "tasks_failed": "2",
    "current_task_id": "",
    "concurrency": "4",
    "hostname": "web01",
}


async def _beat(client: Redis, worker_id: str, *, age: float = 0.0, **fields: Any) -> None:
    times = {"started_at": str(time.time() - 1000), "last_heartbeat": str(time.time() - age)}
    await client.hset(f"orbiter:workers:{worker_id}", mapping=OLD | times | fields)


@pytest.mark.guide("Software of 0.1 in the same fleet", "our listings read its tasks and workers")
async def test_a_worker_of_0_1_is_read_with_defaults_for_what_it_does_not_say(
    redis_url: str, redis_client: Redis
) -> None:
    await _beat(redis_client, "web01-1-aaaaaaaa")
    (worker,) = await get_worker_fleet_status(redis_url)
    assert worker.alive
    assert (worker.worker_id, worker.status, worker.hostname) == ("web01-1-aaaaaaaa", "running", "web01")
    assert (worker.tasks_processed, worker.tasks_failed, worker.concurrency) == (42, 2, 4)
    assert (worker.current_task_id, worker.version, worker.state, worker.pid) == (None, "", "", None)


@pytest.mark.guide("Checking worker health", "`get_worker_fleet_status`")
async def test_our_workers_say_more(redis_url: str, redis_client: Redis) -> None:
    fields = {"version": "0.1.0", "queue": "q", "state": "draining", "active": "3", "pid": "77", "instance": "2"}
    await _beat(redis_client, "w", **fields)
    (worker,) = await get_worker_fleet_status(redis_url)
    assert (worker.version, worker.queue, worker.state) == ("0.1.0", "q", "draining")
    assert (worker.active, worker.pid, worker.instance) == (3, 77, "2")


async def test_a_beat_older_than_60_seconds_is_a_dead_worker(redis_url: str, redis_client: Redis) -> None:
    await _beat(redis_client, "fresh", age=55)
    await _beat(redis_client, "stale", age=65)
    await _beat(redis_client, "patient", age=65, heartbeat_ttl="300")
    fleet = {worker.worker_id: worker for worker in await get_worker_fleet_status(redis_url)}
    assert (fleet["fresh"].alive, fleet["fresh"].status) == (True, "running")
    assert (fleet["stale"].alive, fleet["stale"].status) == (False, "dead")
    assert fleet["patient"].alive


async def test_a_worker_whose_hash_expired_stays_in_the_list_as_dead(redis_url: str, redis_client: Redis) -> None:
    beat = time.time() - 100
    await redis_client.zadd("orbiter:fleet", {"web02-5678-e5f6a7b8": beat * 1000, "web01-1-aaaaaaaa": beat * 1000})
    await _beat(redis_client, "web01-1-aaaaaaaa")
    alive, dead = await get_worker_fleet_status(redis_url)
    assert alive.alive
    assert dead == WorkerHealth(
        worker_id="web02-5678-e5f6a7b8",
        status="dead",
        alive=False,
        recorded=False,
        hostname="web02",
        last_heartbeat=dead.last_heartbeat,
    )
    assert dead.last_heartbeat == pytest.approx(beat, abs=0.01)


async def test_one_odd_key_does_not_hide_the_fleet(redis_url: str, redis_client: Redis) -> None:
    await redis_client.set("orbiter:workers:text", "not a hash")
    await redis_client.hset("orbiter:workers:odd", mapping={"concurrency": "many", "last_heartbeat": "nan"})
    await _beat(redis_client, "web")
    fleet = await get_worker_fleet_status(redis_url)
    unreadable = {worker.worker_id: bool(worker.unreadable) for worker in fleet}
    assert unreadable == {"odd": True, "text": True, "web": False}


async def test_a_fleet_larger_than_one_scan_page(redis_url: str, redis_client: Redis) -> None:
    for number in range(1500):
        await redis_client.hset(f"orbiter:workers:w{number}", mapping=OLD)
    assert len(await get_worker_fleet_status(redis_url)) == 1500


async def test_an_empty_redis_has_no_workers(redis_url: str) -> None:
    assert await get_worker_fleet_status(redis_url) == []


@pytest.mark.guide("Checking worker health", "`WorkerHealthCheck(…).check()`: status and message")
@pytest.mark.parametrize(
    ("age", "status", "message"),
    [
        (10, HealthStatus.HEALTHY, "Worker w healthy (heartbeat "),
        (50, HealthStatus.DEGRADED, "Worker w heartbeat stale ("),
        (70, HealthStatus.UNHEALTHY, "Worker w heartbeat expired ("),
    ],
)
async def test_a_check_goes_by_the_age_of_the_beat(
    age: float, status: HealthStatus, message: str, redis_url: str, redis_client: Redis
) -> None:
    began = time.time()
    await _beat(redis_client, "w", age=age)
    result = WorkerHealthCheck(redis_url, "w").check()
    took = time.time() - began
    assert result.status is status
    said = re.match(re.escape(message) + r"([\d.]+)", result.message)
    assert said, result.message
    assert age - 0.1 <= float(said[1]) <= age + took + 0.1
    assert result.metadata["worker_id"] == "w"
    assert age - 0.1 <= result.metadata["heartbeat_age_seconds"] <= age + took + 0.1
    assert (result.metadata["tasks_processed"], result.metadata["tasks_failed"]) == (42, 2)
    assert result.checked_at == pytest.approx(time.time(), abs=5)


@pytest.mark.guide("Checking worker health", "`WorkerHealthCheck(…).check()`: status and message")
async def test_a_worker_without_heartbeat_is_unhealthy(redis_url: str) -> None:
    check = WorkerHealthCheck(redis_url, "nobody")
    result = check.check()
    assert check.name == "worker:nobody"
    assert f"{result.status}: {result.message}" == "unhealthy: Worker nobody not found (no heartbeat)"


async def test_an_unreachable_redis_is_a_finding_and_shows_no_password() -> None:
    result = WorkerHealthCheck(f"redis://u:hunter2@127.0.0.1:{free_port()}", "w").check()
    assert result.status is HealthStatus.UNHEALTHY
    assert "hunter2" not in result.message
