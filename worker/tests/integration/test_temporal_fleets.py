"""Fleets that share a Temporal namespace, each with a Redis of its own: none runs, ends or cancels another's tasks."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse

from orbiter.distributed.connection.redis_url import connect
from orbiter.distributed.models import TaskStatus
from tests import keys
from tests.fleet import Fleet, job_payload, working
from tests.integration.test_faults import died, worker
from tests.servers import plain_server
from tests.support import wait_until
from tests.temporal import TemporalServer, runs

DURABLE = {"executor": "temporal", "heartbeat_ttl": 3, "drain_timeout": 1}
ID = "{orbiter:tasks}:id"


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[Fleet]:
    """A second fleet, on a Redis of its own."""
    with plain_server(tmp_path / "other") as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        client: Any = connect(url)
        async with contextlib.aclosing(client):
            fleet = Fleet(url, client)
            await fleet.broker.connect()
            yield fleet


async def tasks_known(fleet: Fleet) -> set[str]:
    """Return the ids of all tasks of which this fleet's Redis holds anything."""
    found = [key async for key in fleet.client.scan_iter(match="orbiter:task:*")]
    found += [key async for key in fleet.client.scan_iter(match="orbiter:stream:*")]
    return {key.rpartition(":")[2] for key in found if key not in {keys.INDEX, keys.BY_TIME, keys.ENDED}}


@pytest.mark.guide("Temporal Execution", "fleets with a Redis each in one namespace stay apart (ours)")
async def test_each_fleet_runs_its_own_tasks_and_no_others(
    fleet: Fleet, other: Fleet, temporal: TemporalServer
) -> None:
    async with (
        working(fleet, worker_id="ours", concurrency=4, **DURABLE) as ours,
        working(other, worker_id="theirs", concurrency=4, **DURABLE) as theirs,
    ):
        mine = await fleet.submit_many("sleep", 12, metadata={"seconds": 0.1})
        yours = await other.submit_many("sleep", 12, metadata={"seconds": 0.1})
        ended = [*await fleet.all_end(mine), *await other.all_end(yours)]
        # Counted once the record is known to be made.
        await wait_until(lambda: (ours.tasks_processed, theirs.tasks_processed) == (12, 12))
    assert [task.status for task in ended] == [TaskStatus.COMPLETED] * 24
    assert [task.worker_id for task in ended] == ["ours"] * 12 + ["theirs"] * 12
    assert (await tasks_known(fleet), await tasks_known(other)) == (set(mine), set(yours))
    await fleet.check_invariants(mine)
    await other.check_invariants(yours)


@pytest.mark.guide("Temporal Execution", "fleets with a Redis each in one namespace stay apart (ours)")
async def test_tasks_of_one_id_are_two_tasks(
    fleet: Fleet, other: Fleet, temporal: TemporalServer, tmp_path: Path
) -> None:
    until = tmp_path / "until"
    async with (
        working(fleet, worker_id="ours", **DURABLE) as ours,
        working(other, worker_id="theirs", **DURABLE) as theirs,
    ):
        for one in (fleet, other):
            await one.broker.submit(job_payload("hold", task_id="nightly", metadata={"until": str(until)}))
        await wait_until(lambda: runs(ours) == runs(theirs) == 1)
        await fleet.broker.cancel("nightly")
        assert (await fleet.ends("nightly")).status == TaskStatus.CANCELLED
        until.touch()
        assert (await other.ends("nightly")).status == TaskStatus.COMPLETED
    for one in (fleet, other):
        await one.check_invariants(["nightly"])


async def test_what_a_killed_worker_had_waits_for_a_worker_of_its_own_fleet(
    fleet: Fleet, other: Fleet, temporal: TemporalServer
) -> None:
    async with working(other, worker_id="theirs", concurrency=4, **DURABLE) as theirs:
        options = ("--executor", "temporal", "--heartbeat-ttl", "3")
        with worker(fleet, "victim", *options, TEMPORAL_HOST=temporal.host) as victim:
            task_id = await fleet.submit("sleep", metadata={"seconds": 6})
            handle = await temporal.workflow(task_id)

            async def described() -> DescribeWorkflowExecutionResponse:
                return (await handle.describe()).raw_description

            async def runs_here() -> bool:
                states = [run.state for run in (await described()).pending_activities]
                return states == [PendingActivityState.PENDING_ACTIVITY_STATE_STARTED]

            await wait_until(runs_here)
            victim.kill()
            await died(victim)

        async def given_up() -> bool:
            found = await described()
            return not found.pending_activities and found.HasField("pending_workflow_task")

        # Temporal offers the workflow: the other fleet's worker would take it, as it waits for nothing else.
        await wait_until(given_up)
        assert (theirs.tasks_processed, runs(theirs), await tasks_known(other)) == (0, 0, set())
        async with working(fleet, worker_id="heir", **DURABLE):
            task = await fleet.ends(task_id)
        assert theirs.tasks_processed == 0
    assert (task.status, task.worker_id) == (TaskStatus.COMPLETED, "heir")
    await fleet.check_invariants([task_id])


async def test_two_queues_of_one_redis_run_apart(fleet: Fleet, temporal: TemporalServer) -> None:
    """As in local execution: workers of another queue may lack what a task needs."""
    async with (
        working(fleet, worker_id="ours", **DURABLE),
        working(fleet, worker_id="others", queue_name="elsewhere", concurrency=8, **DURABLE) as others,
    ):
        mine = await fleet.submit_many("echo", 8)
        assert {task.worker_id for task in await fleet.all_end(mine)} == {"ours"}
        assert others.tasks_processed == 0


async def test_a_redis_that_lost_the_id_is_told_it_again(fleet: Fleet, temporal: TemporalServer) -> None:
    async with working(fleet, worker_id="w", **DURABLE):
        await fleet.ends(await fleet.submit("echo"))
        before = await fleet.client.get(ID)
        await fleet.client.flushall()
        task = await fleet.ends(await fleet.submit("echo"))
        assert (task.status, await fleet.client.get(ID)) == (TaskStatus.COMPLETED, before)


async def test_workers_follow_a_queue_that_has_another_id(fleet: Fleet, temporal: TemporalServer) -> None:
    """A Redis was restored or replaced under a worker; another one, started since, knows the new id alone."""
    async with working(fleet, worker_id="w", concurrency=2, **DURABLE) as w:
        left_behind = await fleet.submit("sleep", metadata={"seconds": 600})
        await wait_until(lambda: runs(w))
        await fleet.client.set(ID, "another")
        task_ids = await fleet.submit_many("echo", 4)
        ended = await fleet.all_end(task_ids)
        assert [task.status for task in ended] == [TaskStatus.COMPLETED] * 4
        # The first call finds out, and its task is handed back free of charge.
        assert {(task.retries, task.losses, task.crashes) for task in ended} == {(0, 0, 0)}
        for task_id in task_ids:
            workflow = await temporal.workflow(task_id)
            assert workflow.id == f"orbiter-task-{task_id}-another"
        # What was given away before is another fleet's: it holds no slot here.
        await wait_until(lambda: not w._parts.executor._open)
        assert left_behind not in task_ids
    await fleet.check_invariants(task_ids)
