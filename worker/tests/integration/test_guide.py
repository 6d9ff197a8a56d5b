"""The guide's snippets for start, list, status, cancel and health, run as written but for the address of Redis."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.models import TaskPayload
from tests.support import PATIENCE, environment, wait_until

START_PYTHON = """
import asyncio
from orbiter.distributed.worker.worker import Worker

worker = Worker(
    "redis://localhost:6379",
    concurrency=4,
    queue_name="orbiter:tasks",
    heartbeat_ttl=30,
)

asyncio.run(worker.start())
"""

HEALTH_PYTHON = """
import asyncio

async def main():
    from orbiter.distributed.health import get_worker_fleet_status, WorkerHealthCheck

    # Fleet-wide status
    workers = await get_worker_fleet_status("redis://localhost:6379")
    for w in workers:
        print(f"{w.worker_id}: {w.status} (alive={w.alive})")

    # Individual worker health check (sync, implements HealthCheck protocol)
    check = WorkerHealthCheck("redis://localhost:6379", "web01-1234-a1b2c3d4")
    result = check.check()
    print(f"{result.status}: {result.message}")

asyncio.run(main())
"""
BIN = Path(sys.executable).parent


@pytest.fixture
def shell(redis_url: str):
    """Return a function that runs a line of the guide in bash, with the address of our Redis in it."""
    env = environment(ORBITER_REDIS_URL=redis_url, PATH=f"{BIN}:/usr/bin:/bin")

    def run(line: str) -> subprocess.CompletedProcess[str]:
        line = line.replace("redis://localhost:6379", redis_url)
        return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=env, timeout=60, check=False)

    return run


@contextlib.contextmanager
def in_background(command: list[str], redis_url: str) -> Iterator[subprocess.Popen[str]]:
    """Run a worker of the guide; it must leave in order."""
    command = [part.replace("redis://localhost:6379", redis_url) for part in command]
    env = environment(ORBITER_REDIS_URL=redis_url, PATH=f"{BIN}:/usr/bin:/bin")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, output


async def live(client: Redis, count: int = 1) -> None:
    async def there() -> bool:
        return len([key async for key in client.scan_iter(match="orbiter:workers:*")]) == count

    await wait_until(there)


@pytest.mark.guide("Via CLI", "`orbiter start worker --redis-url …`")
@pytest.mark.guide("Concurrency Tuning", "`orbiter start worker --concurrency 1`, `… 8`")
@pytest.mark.parametrize(
    "line",
    [
        "orbiter start worker --redis-url redis://localhost:6379",
        "orbiter start worker --concurrency 1",
        "orbiter start worker --concurrency 8",
        "orbiter start worker --redis-url redis://localhost:6379 --concurrency 4",
    ],
)
async def test_start_from_the_command_line(redis_client: Redis, redis_url: str, line: str) -> None:
    with in_background(line.split(), redis_url) as worker:
        await live(redis_client)
        worker.send_signal(signal.SIGTERM)
        output, _ = worker.communicate(timeout=PATIENCE)
    assert "Orbiter Worker Starting" in output
    assert "  Redis URL:   redis://127.0.0.1:" in output


@pytest.mark.guide("Via Python", "`Worker(…)`, `asyncio.run(worker.start())`")
async def test_start_from_python(redis_client: Redis, redis_url: str) -> None:
    with in_background([sys.executable, "-c", START_PYTHON], redis_url):
        await live(redis_client)
        [key] = [key async for key in redis_client.scan_iter(match="orbiter:workers:*")]
        fields = await redis_client.hgetall(key)
    assert (fields["concurrency"], fields["queue"], fields["heartbeat_ttl"]) == ("4", "orbiter:tasks", "30")


@pytest.mark.guide("Checking worker health", "the Python snippet")
async def test_worker_list_and_health(redis_client: Redis, redis_url: str, shell) -> None:
    command = ["orbiter", "start", "worker", "--worker-id", "web01-1234-a1b2c3d4"]
    with in_background(command, redis_url):
        await live(redis_client)
        listing = await asyncio.to_thread(shell, "orbiter worker list")
        health = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", HEALTH_PYTHON.replace("redis://localhost:6379", redis_url)],
            capture_output=True,
            text=True,
            check=True,
        )
    assert listing.returncode == 0
    for word in ("┌", "Worker ID", "Current Task", "Last Heartbeat", "web01-1234-a1b2c3d4", "running"):
        assert word in listing.stdout
    fleet, check = health.stdout.splitlines()
    assert fleet == "web01-1234-a1b2c3d4: running (alive=True)"
    assert check.startswith("healthy: Worker web01-1234-a1b2c3d4 healthy (heartbeat ")


@pytest.mark.guide("Task management CLI", "the four commands as written")
async def test_task_list_status_and_cancel(redis_client: Redis, redis_url: str, shell) -> None:
    broker = TaskBroker(redis_url, client=redis_client)
    await broker.connect()
    await broker.submit(TaskPayload(task_id="abc123", created_at=time.time()))
    for line in ("orbiter task list", "orbiter task list --status running", "orbiter task list --status failed"):
        assert (await asyncio.to_thread(shell, line)).returncode == 0
    status = await asyncio.to_thread(shell, "orbiter task status abc123")
    assert "  Status:" in status.stdout
    assert "pending" in status.stdout
    cancel = await asyncio.to_thread(shell, "orbiter task cancel abc123")
    assert (cancel.returncode, cancel.stdout.strip()) == (0, "Task abc123 cancelled.")
    assert "abc123" in (await asyncio.to_thread(shell, "orbiter task list --status cancelled")).stdout
    assert (await asyncio.to_thread(shell, "orbiter task list --status retrying")).stdout.strip() == "No tasks found."


@pytest.mark.guide("Worker not claiming tasks", "`redis-cli -u $ORBITER_REDIS_URL ping`")
@pytest.mark.guide("Worker not claiming tasks", "`redis-cli XINFO GROUPS orbiter:tasks`")
async def test_the_troubleshooting_commands(redis_client: Redis, redis_url: str, shell) -> None:
    with in_background(["orbiter", "start", "worker"], redis_url):
        await live(redis_client)
        assert (await asyncio.to_thread(shell, "redis-cli -u $ORBITER_REDIS_URL ping")).stdout.strip() == "PONG"
        groups = await asyncio.to_thread(shell, "redis-cli -u $ORBITER_REDIS_URL XINFO GROUPS orbiter:tasks")
    assert "orbiter:tasks:group" in groups.stdout
