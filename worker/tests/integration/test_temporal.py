"""Tasks executed by Temporal: for every observer as in local execution."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from temporalio.client import WorkflowExecutionStatus

from orbiter.distributed.broker.dead_letters import DeadLetters
from orbiter.distributed.broker.records import Claim
from orbiter.distributed.models import TaskPayload, TaskStatus
from orbiter.distributed.temporal.wire import TASK_QUEUE, Plan, task_queue, workflow_id
from tests.fleet import Fleet, job_payload, working
from tests.support import slowness, wait_until
from tests.temporal import TemporalServer, runs

DURABLE = {"executor": "temporal", "heartbeat_ttl": 3}


@pytest.mark.guide("Constructor parameters", '`executor="temporal"`')
async def test_a_task_completes_with_its_events_and_result(fleet: Fleet, temporal: TemporalServer) -> None:
    async with working(fleet, worker_id="w1", **DURABLE) as worker:
        task_id = await fleet.submit("say", "one two three")
        task = await fleet.ends(task_id)
        # Counted once the record is known to be made.
        await wait_until(lambda: worker.tasks_processed == 1)
        assert await temporal.ends_of(task_id) == [WorkflowExecutionStatus.COMPLETED]
    assert (task.status, task.result, task.worker_id) == (TaskStatus.COMPLETED, {"output": "one two three "}, "w1")
    assert (task.attempt, task.retries, task.losses, task.crashes, task.handoffs) == (1, 0, 0, 0, 0)
    await fleet.check_invariants([task_id])


async def test_an_error_is_retried_and_counted(fleet: Fleet, temporal: TemporalServer) -> None:
    async with working(fleet, **DURABLE):
        task_id = await fleet.submit("fail", metadata={"times": 2})
        task = await fleet.ends(task_id)
        assert await temporal.ends_of(task_id) == [WorkflowExecutionStatus.COMPLETED]
    assert (task.status, task.attempt, task.retries) == (TaskStatus.COMPLETED, 3, 2)
    await fleet.check_invariants([task_id])


async def test_a_task_that_fails_each_time_ends_failed_as_a_dead_letter(fleet: Fleet, temporal: TemporalServer) -> None:
    async with working(fleet, max_retries=1, **DURABLE) as worker:
        task_id = await fleet.submit("fail")
        task = await fleet.ends(task_id)
        await wait_until(lambda: worker.tasks_failed == 2)
        assert await temporal.ends_of(task_id) == [WorkflowExecutionStatus.FAILED]
    assert (task.status, task.error, task.error_type) == (TaskStatus.FAILED, "attempt 2 failed", "RuntimeError")
    assert (task.attempt, task.retries) == (2, 1)
    letters = await fleet.client.xrange("{orbiter:tasks}:dead")
    assert [fields["task_id"] for _, fields in letters] == [task_id]
    await fleet.check_invariants([task_id])


async def test_a_run_that_takes_too_long_counts_as_an_error(fleet: Fleet, temporal: TemporalServer) -> None:
    async with working(fleet, max_retries=1, **DURABLE):
        task_id = await fleet.submit("sleep", metadata={"seconds": 600}, timeout_seconds=1)
        task = await fleet.ends(task_id)
        assert await temporal.ends_of(task_id) == [WorkflowExecutionStatus.FAILED]
    assert (task.status, task.error_type, task.attempt) == (TaskStatus.FAILED, "TaskTimeoutError", 2)
    assert task.error == "run took longer than timeout_seconds=1"
    await fleet.check_invariants([task_id])


async def test_what_outlives_a_drain_is_handed_back(fleet: Fleet, temporal: TemporalServer) -> None:
    async with working(fleet, worker_id="first", drain_timeout=0, **DURABLE) as first:
        task_id = await fleet.submit("sleep", metadata={"seconds": 4})
        await wait_until(lambda: runs(first))
    async with working(fleet, worker_id="second", **DURABLE):
        task = await fleet.ends(task_id)
        assert await temporal.ends_of(task_id) == [WorkflowExecutionStatus.COMPLETED]
    assert (task.status, task.worker_id) == (TaskStatus.COMPLETED, "second")
    assert (task.attempt, task.handoffs, task.losses, task.crashes, task.retries) == (2, 1, 0, 0, 0)
    await fleet.check_invariants([task_id])


async def test_finished_steps_of_an_agent_are_in_the_history(fleet: Fleet, temporal: TemporalServer) -> None:
    config = {"name": "a", "model": "test", "tools": ["tests.integration.jobs.add"]}
    async with working(fleet, **DURABLE):
        task_id = await fleet.broker.submit(TaskPayload(agent_config=config, input="go", detailed=True))
        task = await fleet.ends(task_id)
        assert await temporal.ends_of(task_id) == [WorkflowExecutionStatus.COMPLETED]
    assert task.status == TaskStatus.COMPLETED
    history = await (await temporal.workflow(task_id)).fetch_history()
    steps = [
        json.loads(event.workflow_execution_signaled_event_attributes.input.payloads[1].data)
        for event in history.events
        if event.HasField("workflow_execution_signaled_event_attributes")
    ]
    assert steps == ["a 1 model 1", "a 1 tool 1 add pyd_ai_tool_call_id__add", "a 1 model 2"]
    await fleet.check_invariants([task_id])


async def test_the_workflow_is_told_what_the_guide_says(fleet: Fleet, temporal: TemporalServer) -> None:
    async with working(fleet, **DURABLE):
        task_id = await fleet.submit("echo", "x", timeout_seconds=77)
        await fleet.ends(task_id)
    history = await (await temporal.workflow(task_id)).fetch_history()
    scheduled = [
        event.activity_task_scheduled_event_attributes
        for event in history.events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    assert [activity.activity_type.name for activity in scheduled] == ["execute_agent_activity"]
    assert scheduled[0].start_to_close_timeout.seconds == 77
    assert scheduled[0].task_queue.name == f"orbiter-tasks-{await fleet.client.get('{orbiter:tasks}:id')}"


async def test_a_task_that_failed_can_be_retried_under_its_id(fleet: Fleet, temporal: TemporalServer) -> None:
    async with working(fleet, max_retries=0, **DURABLE):
        task_id = await fleet.submit("fail", metadata={"times": 1})
        assert (await fleet.ends(task_id)).status == TaskStatus.FAILED
        # The letter comes last, and the workflow may close behind it.
        await wait_until(lambda: fleet.client.xlen("{orbiter:tasks}:dead"))
        assert await DeadLetters(fleet.url, client=fleet.client).retry_task(task_id)
        task = await fleet.ends(task_id)
        ends = await temporal.ends_of(task_id, 2)
        assert ends == [WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.FAILED]
    assert (task.status, task.attempt) == (TaskStatus.COMPLETED, 2)


@pytest.mark.alone
@pytest.mark.parametrize("job", ["sleep", "block"])
async def test_a_cancelled_run_ends_within_two_seconds(fleet: Fleet, temporal: TemporalServer, job: str) -> None:
    async with working(fleet, **DURABLE) as worker:
        task_id = await fleet.submit(job, metadata={"seconds": 600})
        await wait_until(lambda: runs(worker))
        asked = time.monotonic()
        assert await fleet.broker.cancel(task_id) == "requested"
        task = await fleet.ends(task_id)
        assert (time.monotonic() - asked) / slowness() < 2
        await wait_until(lambda: not runs(worker))
        # While there is a worker: the workflow closes behind the record, by somebody's decision.
        assert len(await temporal.ends_of(task_id)) == 1
    assert (task.status, task.attempt) == (TaskStatus.CANCELLED, 1)
    await fleet.check_invariants([task_id])


@pytest.mark.alone
async def test_a_task_that_waits_for_its_next_run_is_cancelled(fleet: Fleet, temporal: TemporalServer) -> None:
    async with working(fleet, retry_backoff=60, **DURABLE):
        task_id = await fleet.submit("fail")

        async def waits() -> bool:
            task = await fleet.store.get_status(task_id)
            return task is not None and task.status == TaskStatus.RETRYING

        await wait_until(waits)
        asked = time.monotonic()
        await fleet.broker.cancel(task_id)
        task = await fleet.ends(task_id)
        assert (time.monotonic() - asked) / slowness() < 2
        assert len(await temporal.ends_of(task_id)) == 1
    assert task.status == TaskStatus.CANCELLED
    await fleet.check_invariants([task_id])


@pytest.mark.alone
async def test_a_task_that_waits_in_temporal_is_cancelled_by_whoever_hears_it(
    fleet: Fleet, temporal: TemporalServer, tmp_path: Path
) -> None:
    """The worker that started the workflow is gone, and no other has room for the run."""
    until = tmp_path / "until"
    async with working(fleet, worker_id="busy", **DURABLE) as busy:
        filler = await fleet.submit("hold", metadata={"until": str(until)})
        await wait_until(lambda: runs(busy))
        client = await temporal.client()
        payload = job_payload("echo")
        await fleet.broker.submit(payload)
        (claimed,) = await fleet.broker.fetch("gone", 1)
        entry, started = claimed
        claim = Claim(entry.entry_id, payload, started.deliveries, started.attempt, started.retries)
        queue_id = await fleet.client.get("{orbiter:tasks}:id")
        name, polled = workflow_id(payload.task_id, queue_id), task_queue(TASK_QUEUE, queue_id)
        await client.start_workflow(
            "AgentExecutionWorkflow", args=[payload.to_json(), Plan()], id=name, task_queue=polled
        )
        assert await fleet.broker.delegate("gone", claim, name) == "delegated"
        asked = time.monotonic()
        assert await fleet.broker.cancel(payload.task_id) == "requested"
        task = await fleet.ends(payload.task_id)
        assert (time.monotonic() - asked) / slowness() < 2
        until.touch()
        await fleet.ends(filler)
    assert task.status == TaskStatus.CANCELLED
    await fleet.check_invariants([filler, payload.task_id])


async def test_no_more_than_the_slots_are_given_to_temporal(fleet: Fleet, temporal: TemporalServer) -> None:
    async with working(fleet, concurrency=2, **DURABLE):
        task_ids = await fleet.submit_many("sleep", 10, metadata={"seconds": 0.3})
        ended = {task.task_id: task for task in await fleet.all_end(task_ids)}
        begun = {task_id: await (await temporal.workflow(task_id)).describe() for task_id in task_ids}
    # A slot is free again once the end is recorded; the workflow closes behind that.
    spans = [(begun[task_id].start_time.timestamp(), ended[task_id].completed_at or 0) for task_id in task_ids]
    assert max(sum(start <= at < end for start, end in spans) for at, _ in spans) <= 2, sorted(spans)
    await fleet.check_invariants(task_ids)
