"""What durable tasks need is away for a whole minute: workers, Temporal, Redis. They wait or go on, and none fails.

One test, as nearly all of it is waiting: four fleets, each with a Redis and a Temporal of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus

from orbiter.distributed.connection.redis_url import connect
from orbiter.distributed.models import TaskPayload, TaskResult, TaskStatus
from tests.fleet import Fleet
from tests.integration.test_faults import died, worker
from tests.servers import Server, eventually
from tests.support import free_port, orbiter, wait_until
from tests.temporal import TemporalServer, temporal_server

AWAY = 60.0
# For what comes in its own time on a busy machine.
PATIENCE = 180.0
JOBS = "tests.integration.durable_jobs"
OPTIONS = ("--executor", "temporal", "--concurrency", "4", "--allow-import", JOBS, "--drain-timeout", "1")


@contextlib.asynccontextmanager
async def a_fleet(directory: Path) -> AsyncIterator[tuple[Fleet, Server]]:
    """A fleet without workers, on a Redis that keeps what it is told."""
    directory.mkdir()
    server = Server.launch(directory, 'save ""', "appendonly yes")
    url = f"redis://127.0.0.1:{server.port}/0"
    client: Any = connect(url)
    try:
        eventually(server.answers)
        fleet = Fleet(url, client)
        await fleet.broker.connect()
        yield fleet, server
    finally:
        await client.aclose()
        server.kill()


async def submit(fleet: Fleet, jobs: int, **metadata: Any) -> list[str]:
    """Submit that many callables, and an agent with a tool that waits for a file."""
    tasks = await fleet.submit_many("sleep", jobs, metadata={"seconds": 2})
    return [*tasks, await submit_agent(fleet, **metadata)] if metadata else tasks


async def submit_agent(fleet: Fleet, **metadata: Any) -> str:
    config = {"name": "a", "model": "test", "tools": [f"{JOBS}.held"]}
    return await fleet.broker.submit(TaskPayload(agent_config=config, input="go", metadata=metadata))


async def listed(fleet: Fleet, worker_id: str, state: str) -> None:
    """Wait until ``orbiter worker list`` shows the worker in that state."""

    async def so() -> bool:
        said = await asyncio.to_thread(orbiter, "worker", "list", "--json", "--redis-url", fleet.url)
        return {row["worker_id"]: row["state"] for row in json.loads(said.stdout)}.get(worker_id) == state

    await wait_until(so, PATIENCE, interval=1.0)


async def completed(fleet: Fleet, temporal: TemporalServer, tasks: Iterable[str]) -> list[TaskResult]:
    """Wait until all of them have completed, with nothing left behind."""
    ended = await fleet.all_end(tasks, PATIENCE)
    assert {task.status for task in ended} == {TaskStatus.COMPLETED}, ended
    assert {task.retries for task in ended} == {0}, ended
    # The record says so before the final event is added; the workflow closes behind both.
    for task_id in tasks:
        assert await temporal.ends_of(task_id) == [WorkflowExecutionStatus.COMPLETED]
    await fleet.check_invariants(tasks)
    return ended


async def some_done(fleet: Fleet, tasks: list[str]) -> bool:
    return any(task and task.status.terminal for task in await fleet.store.get_many(tasks))


async def all_workers_are_killed(directory: Path) -> None:
    async with a_fleet(directory) as (fleet, _):
        with temporal_server(directory) as temporal:
            tasks = await submit(fleet, 16, log=str(directory / "notes"), until=str(directory / "enough"))
            with (
                worker(fleet, "a", *OPTIONS, TEMPORAL_HOST=temporal.host) as one,
                worker(fleet, "b", *OPTIONS, TEMPORAL_HOST=temporal.host) as two,
            ):
                await wait_until(lambda: some_done(fleet, tasks), PATIENCE)
                for process in (one, two):
                    process.kill()
                for process in (one, two):
                    await died(process)
            (directory / "enough").touch()
            await asyncio.sleep(AWAY)
            with worker(fleet, "c", *OPTIONS, TEMPORAL_HOST=temporal.host):
                await completed(fleet, temporal, tasks)


async def temporal_is_down_at_the_start(directory: Path) -> None:
    async with a_fleet(directory) as (fleet, _):
        port = free_port()
        tasks = await submit(fleet, 4)
        with worker(fleet, "early", *OPTIONS, TEMPORAL_HOST=f"127.0.0.1:{port}"):
            began = time.monotonic()
            await listed(fleet, "early", "degraded")
            await asyncio.sleep(began + AWAY - time.monotonic())
            waiting = [task for task in await fleet.store.get_many(tasks) if task]
            assert {(task.status, task.attempt, task.handoffs) for task in waiting} == {(TaskStatus.PENDING, 0, 0)}
            await listed(fleet, "early", "degraded")
            server = TemporalServer.launch(directory, port)
            try:
                await completed(fleet, server, tasks)
                await listed(fleet, "early", "running")
            finally:
                server.kill()


async def temporal_is_away_in_mid_run(directory: Path) -> None:
    async with a_fleet(directory) as (fleet, _):
        server = TemporalServer.launch(directory)
        try:
            with worker(fleet, "w", *OPTIONS, TEMPORAL_HOST=server.host):
                tasks = await submit(fleet, 2, log=str(directory / "notes"), until=str(directory / "enough"))
                await wait_until((directory / "notes").exists, PATIENCE)
                server.kill()
                began = time.monotonic()
                tasks += await submit(fleet, 2)
                await listed(fleet, "w", "degraded")
                (directory / "enough").touch()
                await asyncio.sleep(began + AWAY - time.monotonic())
                failed = [task for task in await fleet.store.get_many(tasks) if task and task.error]
                assert failed == []
                await listed(fleet, "w", "degraded")
                server.start()
                await completed(fleet, server, tasks)
                await listed(fleet, "w", "running")
        finally:
            server.kill()


async def redis_is_away_while_an_agent_finishes(directory: Path) -> None:
    async with a_fleet(directory) as (fleet, redis):
        with temporal_server(directory) as temporal:
            # A lease that is long enough for a busy machine: a run that is lost is a crash, and begins anew.
            with worker(fleet, "w", *OPTIONS, "--heartbeat-ttl", "15", TEMPORAL_HOST=temporal.host):
                notes, enough = directory / "notes", directory / "enough"
                task_id = await submit_agent(fleet, log=str(notes), until=str(enough))
                await wait_until(notes.exists, PATIENCE)
                await wait_until(fleet.is_empty, PATIENCE)
                redis.kill()
                enough.touch()
                await asyncio.sleep(AWAY)
                redis.start()
                eventually(redis.answers)
                await fleet.client.connection_pool.disconnect()
                (task,) = await completed(fleet, temporal, [task_id])
            assert (task.losses, task.crashes) == (0, 0)
            assert (task.attempt, task.result and task.result["output"]) == (1, '{"held":"held"}')
            # The tool ended in that minute, and ran once.
            assert notes.read_text().splitlines() == ["held"]


@pytest.mark.guide("Temporal Execution", "tasks survive worker crashes")
@pytest.mark.nightly
async def test_a_minute_without_workers_temporal_or_redis_fails_no_durable_task(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(all_workers_are_killed(tmp_path / "workers"))
        group.create_task(temporal_is_down_at_the_start(tmp_path / "start"))
        group.create_task(temporal_is_away_in_mid_run(tmp_path / "mid-run"))
        group.create_task(redis_is_away_while_an_agent_finishes(tmp_path / "redis"))
