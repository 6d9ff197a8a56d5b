"""Tasks executed by Temporal: for every observer as in local execution."""

from __future__ import annotations

from temporalio.client import WorkflowExecutionStatus

from orbiter.distributed.models import TaskStatus
from tests.fleet import Fleet, working
from tests.temporal import TemporalServer

DURABLE = {"executor": "temporal", "heartbeat_ttl": 3}


async def test_a_task_completes_with_its_events_and_result(fleet: Fleet, temporal: TemporalServer) -> None:
    async with working(fleet, worker_id="w1", **DURABLE) as worker:
        task_id = await fleet.submit("say", "one two three")
        task = await fleet.ends(task_id)
        assert worker.tasks_processed == 1
    assert (task.status, task.result, task.worker_id) == (TaskStatus.COMPLETED, {"output": "one two three "}, "w1")
    assert (task.attempt, task.retries, task.crashes, task.handoffs) == (1, 0, 0, 0)
    assert await temporal.runs_of(task_id) == [WorkflowExecutionStatus.COMPLETED]
    await fleet.check_invariants([task_id])


async def test_an_error_is_retried_and_counted(fleet: Fleet, temporal: TemporalServer) -> None:
    async with working(fleet, **DURABLE):
        task_id = await fleet.submit("fail", metadata={"times": 2})
        task = await fleet.ends(task_id)
    assert (task.status, task.attempt, task.retries) == (TaskStatus.COMPLETED, 3, 2)
    await fleet.check_invariants([task_id])


async def test_a_task_that_fails_each_time_ends_failed_as_a_dead_letter(fleet: Fleet, temporal: TemporalServer) -> None:
    async with working(fleet, max_retries=1, **DURABLE) as worker:
        task_id = await fleet.submit("fail")
        task = await fleet.ends(task_id)
        assert worker.tasks_failed == 2
    assert (task.status, task.error, task.error_type) == (TaskStatus.FAILED, "attempt 2 failed", "RuntimeError")
    assert (task.attempt, task.retries) == (2, 1)
    assert await temporal.runs_of(task_id) == [WorkflowExecutionStatus.FAILED]
    letters = await fleet.client.xrange("{orbiter:tasks}:dead")
    assert [fields["task_id"] for _, fields in letters] == [task_id]
    await fleet.check_invariants([task_id])
