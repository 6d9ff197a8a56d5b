"""Temporal or Redis away, or all workers gone: durable tasks wait or go on, and none fails."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus

from orbiter.distributed.connection.redis_url import connect
from orbiter.distributed.health import get_worker_fleet_status
from orbiter.distributed.models import TaskStatus
from tests.fleet import Fleet, job_payload, working
from tests.integration.test_faults import died, worker
from tests.servers import Server, eventually
from tests.support import free_port, slowness, wait_until
from tests.temporal import TemporalServer, runs, temporal_server

DURABLE = {"executor": "temporal", "heartbeat_ttl": 3}


async def shows(fleet: Fleet, worker_id: str, state: str) -> None:
    """Wait until ``orbiter worker list`` shows that state."""

    async def so() -> bool:
        return await state_of(fleet, worker_id) == state

    await wait_until(so)


async def state_of(fleet: Fleet, worker_id: str) -> str:
    states = {worker.worker_id: worker.state for worker in await get_worker_fleet_status(fleet.url)}
    return states.get(worker_id, "")


@pytest.mark.guide("Temporal Execution", "requirement: a Temporal server that runs; tasks wait where it does not")
async def test_tasks_wait_while_temporal_is_down_at_the_start(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_HOST", f"127.0.0.1:{free_port()}")
    task_id = await fleet.submit("echo", "x")
    async with working(fleet, worker_id="early", **DURABLE) as early:
        await shows(fleet, "early", "degraded")
        await asyncio.sleep(1)
        task = await fleet.store.get_status(task_id)
        assert task is not None
        assert (task.status, task.attempt) == (TaskStatus.PENDING, 0)
        with temporal_server(tmp_path) as server:
            early._parts.executor._options["target_host"] = server.host
            task = await fleet.ends(task_id)
            await shows(fleet, "early", "running")
    assert (task.status, task.attempt, task.handoffs) == (TaskStatus.COMPLETED, 1, 0)
    await fleet.check_invariants([task_id])


@pytest.mark.parametrize("away", [1.0, 8.0])
async def test_temporal_away_in_mid_run_fails_nothing(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: float
) -> None:
    with temporal_server(tmp_path) as server:
        monkeypatch.setenv("TEMPORAL_HOST", server.host)
        async with working(fleet, worker_id="w", concurrency=4, **DURABLE) as durable:
            task_ids = await fleet.submit_many("sleep", 3, metadata={"seconds": 6})
            await wait_until(lambda: runs(durable) == 3)
            server.kill()
            task_ids.append(await fleet.submit("echo"))
            if away > 3:
                await shows(fleet, "w", "degraded")
            await asyncio.sleep(away)
            server.start()
            ended = await fleet.all_end(task_ids, 90)
            await shows(fleet, "w", "running")
            assert await server.ends_of(task_ids[0]) == [WorkflowExecutionStatus.COMPLETED]
    assert {task.status for task in ended} == {TaskStatus.COMPLETED}
    assert {task.retries for task in ended} == {0}
    await fleet.check_invariants(task_ids)


async def test_a_durable_outcome_is_recorded_behind_all_its_events(fleet: Fleet, temporal: TemporalServer) -> None:
    """Redis takes no events for longer than the run may last: it runs again, and says all of it."""
    async with working(fleet, worker_id="w", **DURABLE) as durable:
        publish, refused = durable._parts.publisher._append_events, False

        async def refuse(batches: Any) -> None:
            nonlocal refused
            task = await fleet.store.get_status(batches[0].task_id)
            if task is None or task.attempt < 2:
                refused = True
                raise ConnectionError("away")
            await publish(batches)

        durable._parts.publisher._append_events = refuse
        task_id = await fleet.submit("say", "one two three", timeout_seconds=2 * slowness())
        task = await fleet.ends(task_id)
        assert refused
    assert (task.status, task.handoffs, task.attempt) == (TaskStatus.COMPLETED, 1, 2)
    text = "".join(event.text for event in await fleet.events(task_id) if event.type == "text")
    assert text.split() == ["one", "two", "three"]
    await fleet.check_invariants([task_id])


async def test_a_worker_leaves_in_time_although_temporal_is_away(fleet: Fleet, tmp_path: Path) -> None:
    options = ("--executor", "temporal", "--drain-timeout", "1")
    with temporal_server(tmp_path) as server, worker(fleet, "w", *options, TEMPORAL_HOST=server.host) as leaving:
        task_id = await fleet.submit("sleep", metadata={"seconds": 600})
        await fleet.runs(task_id)
        server.kill()
        leaving.send_signal(signal.SIGTERM)
        await wait_until(lambda: leaving.poll() is not None, 16 * slowness())
        assert leaving.returncode == 0


@pytest.mark.alone
async def test_an_idle_worker_leaves_at_once(fleet: Fleet, temporal: TemporalServer) -> None:
    with worker(fleet, "w", "--executor", "temporal", TEMPORAL_HOST=temporal.host) as leaving:
        await shows(fleet, "w", "running")
        began = time.monotonic()
        leaving.send_signal(signal.SIGTERM)
        await wait_until(lambda: leaving.poll() is not None)
        assert leaving.returncode == 0
        assert (time.monotonic() - began) / slowness() < 1.5


@pytest.mark.guide("Temporal Execution", "`TEMPORAL_HOST=… TEMPORAL_NAMESPACE=default orbiter start worker …`")
async def test_the_guides_command_needs_no_more_than_its_two_variables(fleet: Fleet, temporal: TemporalServer) -> None:
    with worker(fleet, "w", TEMPORAL_HOST=temporal.host, TEMPORAL_NAMESPACE="default"):
        task_id = await fleet.submit("echo", "as the guide says")
        task = await fleet.ends(task_id)
        workers = {worker.worker_id: worker.executor for worker in await get_worker_fleet_status(fleet.url)}
        assert await temporal.ends_of(task_id) == [WorkflowExecutionStatus.COMPLETED]
    assert task.result == {"output": "as the guide says"}
    assert workers == {"w": "temporal"}


async def test_all_workers_killed_and_started_again(fleet: Fleet, temporal: TemporalServer) -> None:
    options = ("--executor", "temporal", "--concurrency", "4")
    task_ids = await fleet.submit_many("sleep", 20, metadata={"seconds": 1})
    with (
        worker(fleet, "a", *options, TEMPORAL_HOST=temporal.host) as one,
        worker(fleet, "b", *options, TEMPORAL_HOST=temporal.host) as two,
    ):
        await wait_until(lambda: any_done(fleet, task_ids))
        for process in (one, two):
            process.kill()
        for process in (one, two):
            await died(process)
    await asyncio.sleep(6)
    with worker(fleet, "c", *options, TEMPORAL_HOST=temporal.host):
        ended = await fleet.all_end(task_ids, 90)
        for task_id in task_ids:
            assert await temporal.ends_of(task_id) == [WorkflowExecutionStatus.COMPLETED]
    assert {task.status for task in ended} == {TaskStatus.COMPLETED}
    await fleet.check_invariants(task_ids)


async def any_done(fleet: Fleet, task_ids: list[str]) -> bool:
    return any(task and task.status.terminal for task in await fleet.store.get_many(task_ids))


async def test_redis_away_while_a_run_ends_has_its_end_recorded_later(tmp_path: Path, temporal: TemporalServer) -> None:
    server = Server.launch(tmp_path, 'save ""', "appendonly yes")
    url = f"redis://127.0.0.1:{server.port}/0"
    client: Any = connect(url)
    try:
        eventually(server.answers)
        fleet = Fleet(url, client)
        await fleet.broker.connect()
        async with working(fleet, **DURABLE) as durable:
            task_id = await fleet.broker.submit(job_payload("sleep", metadata={"seconds": 4}))
            await wait_until(lambda: runs(durable))
            await wait_until(fleet.is_empty)
            server.kill()
            # The run ends meanwhile.
            await asyncio.sleep(6)
            server.start()
            eventually(server.answers)
            await client.connection_pool.disconnect()
            task = await fleet.ends(task_id)
        assert (task.status, task.result, task.attempt) == (TaskStatus.COMPLETED, {"output": "slept"}, 1)
        await fleet.check_invariants([task_id])
    finally:
        await client.aclose()
        server.kill()
