"""Workers that die at the worst moment of a durable task: another one repeats nothing that was finished."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus

from orbiter.distributed.models import TaskPayload, TaskResult, TaskStatus
from tests import keys
from tests.fleet import Fleet, working
from tests.integration.openai_server import OpenAIServer, Reply, openai_server, text, tool_calls
from tests.integration.test_faults import died, worker
from tests.isolated import JOBS as ISOLATION_JOBS
from tests.isolated import attack
from tests.support import slowness, wait_until, whole_lines
from tests.temporal import TemporalServer

JOBS = "tests.integration.durable_jobs"
OPTIONS = ("--executor", "temporal", "--allow-import", JOBS, "--drain-timeout", "1", "--heartbeat-ttl", "6")


@pytest.fixture
async def model() -> AsyncIterator[OpenAIServer]:
    async with openai_server() as server:
        yield server


class Trial:
    """One task, the workers that run it, and what its steps noted."""

    def __init__(self, fleet: Fleet, temporal: TemporalServer, model: OpenAIServer, log: Path) -> None:
        self.fleet = fleet
        self.temporal = temporal
        self.model = model
        self.log = log
        log.touch()

    def worker(self, name: str, *options: str, **env: str) -> Any:
        env |= {"TEMPORAL_HOST": self.temporal.host, "OPENAI_BASE_URL": self.model.base_url, "OPENAI_API_KEY": "sk-x"}
        return worker(self.fleet, name, *OPTIONS, *options, **env)

    @property
    def notes(self) -> list[str]:
        return whole_lines(self.log)

    async def submit(self, config: dict[str, Any], **metadata: Any) -> str:
        metadata["log"] = str(self.log)
        return await self.fleet.broker.submit(TaskPayload(agent_config=config, input="go", metadata=metadata))

    async def ends(self, task_id: str) -> TaskResult:
        """Return the task once it has ended and its workflow has closed; a worker that runs decides on both."""
        task = await self.fleet.ends(task_id)
        assert await self.temporal.ends_of(task_id) == [WorkflowExecutionStatus.COMPLETED]
        return task


@pytest.fixture
def trial(fleet: Fleet, temporal: TemporalServer, model: OpenAIServer, tmp_path: Path) -> Trial:
    return Trial(fleet, temporal, model, tmp_path / "notes")


def agent(*tools: str) -> dict[str, Any]:
    return {"name": "a", "model": "openai:gpt-test", "tools": [f"{JOBS}.{tool}" for tool in tools]}


def call(tool: str, a: int) -> Reply:
    return tool_calls((tool, [json.dumps({"a": a})]))


def slowly(*deltas: str) -> Reply:
    """An answer that stops in the middle for a minute."""
    whole = text(*deltas)
    return Reply(parts=[*whole.parts[:1], 60.0, *whole.parts[1:]])


async def test_kill_9_in_a_model_call_repeats_that_call_alone(trial: Trial) -> None:
    trial.model.replies = [call("quick", 4), slowly("never", "said"), text("eight", "!")]
    task_id = await trial.submit(agent("quick"))
    with trial.worker("victim") as victim:
        await wait_until(lambda: len(trial.model.requests) == 2)
        victim.kill()
        await died(victim)
    with trial.worker("heir"):
        task = await trial.ends(task_id)
    assert (task.status, task.worker_id) == (TaskStatus.COMPLETED, "heir")
    assert task.result is not None
    assert task.result["output"] == "eight!"
    assert (task.attempt, task.crashes, task.retries) == (2, 1, 0)
    assert trial.notes == ["quick"]
    assert len(trial.model.requests) == 3
    # What the tool gave the first time is what the model is told the second time.
    assert trial.model.requests[1].body["messages"] == trial.model.requests[2].body["messages"]
    await trial.fleet.check_invariants([task_id])


@pytest.mark.guide("How it works", "5. after a crash another worker runs the activity")
async def test_kill_9_in_a_tool_repeats_that_tool_alone(trial: Trial) -> None:
    trial.model.replies = [call("quick", 4), call("broken", 5), call("slow", 8), text("done")]
    task_id = await trial.submit(agent("quick", "broken", "slow"))
    with trial.worker("victim") as victim:
        await wait_until(lambda: "slow" in trial.notes)
        victim.kill()
        await died(victim)
    with trial.worker("heir"):
        task = await trial.ends(task_id)
    assert (task.status, task.worker_id, task.crashes) == (TaskStatus.COMPLETED, "heir", 1)
    assert trial.notes == ["quick", "broken", "slow", "slow"]
    assert len(trial.model.requests) == 4
    await trial.fleet.check_invariants([task_id])


NIGHTLY = ("after workflow start", "after settle", "after begin", "before record")


@pytest.mark.guide("Temporal Execution", "tasks survive worker crashes")
@pytest.mark.parametrize(
    "point", ["before settle", "after run", *(pytest.param(point, marks=pytest.mark.nightly) for point in NIGHTLY)]
)
async def test_kill_9_at(trial: Trial, point: str) -> None:
    """Between accepting and acknowledging, at the start of a run, between its end and the record of that."""
    trial.model.replies = [call("quick", 4), text("done")]
    task_id = await trial.submit(agent("quick"))
    with trial.worker("victim", ORBITER_FAULT=point) as victim:
        await died(victim)
    with trial.worker("heir"):
        task = await trial.ends(task_id)
        # What was not acknowledged is dropped by a sweep, which may come after the end.
        await wait_until(trial.fleet.is_empty)
    assert task.status == TaskStatus.COMPLETED
    assert trial.notes == ["quick"]
    assert len(trial.model.requests) == 2
    await trial.fleet.check_invariants([task_id])


async def test_a_callable_goes_on_at_its_checkpoint(trial: Trial) -> None:
    task_id = await trial.submit({"runtime": "callable", "target": f"{JOBS}:count", "name": "count"})
    with trial.worker("victim") as victim:
        await wait_until(lambda: "fourth" in trial.notes)
        # A checkpoint travels with a heartbeat: it is safe a little after it was saved.
        handle = await trial.temporal.workflow(task_id)

        async def safe() -> bool:
            pending = (await handle.describe()).raw_description.pending_activities
            told = [run.heartbeat_details.payloads for run in pending]
            return [details[1].data for details in told if len(details) > 1] == [b"3"]

        await wait_until(safe, interval=0.1)
        victim.kill()
        await died(victim)
    with trial.worker("heir"):
        task = await trial.ends(task_id)
    assert task.result == {"output": "counted from 3"}
    await trial.fleet.check_invariants([task_id])


async def test_sigterm_moves_what_outlives_the_drain_to_another_worker(trial: Trial) -> None:
    trial.model.replies = [call("quick", 4), call("slow", 8), text("done")]
    task_id = await trial.submit(agent("quick", "slow"))
    with trial.worker("first") as first:
        await wait_until(lambda: "slow" in trial.notes)
        with trial.worker("second"):
            first.send_signal(signal.SIGTERM)
            await wait_until(lambda: first.poll() is not None)
            assert first.returncode == 0
            task = await trial.ends(task_id)
    assert (task.status, task.worker_id) == (TaskStatus.COMPLETED, "second")
    assert (task.handoffs, task.losses, task.crashes, task.retries, task.attempt) == (1, 0, 0, 0, 2)
    assert trial.notes == ["quick", "slow", "slow"]
    assert len(trial.model.requests) == 3
    await trial.fleet.check_invariants([task_id])


async def test_sigterm_lets_a_short_run_end_and_be_recorded(trial: Trial) -> None:
    config = {"runtime": "callable", "target": f"{JOBS}:wait", "name": "wait"}
    with trial.worker("only", "--drain-timeout", "60") as only:
        task_id = await trial.submit(config, seconds=1.0)
        await wait_until(lambda: "wait" in trial.notes)
        only.send_signal(signal.SIGTERM)
        await wait_until(lambda: only.poll() is not None)
        assert only.returncode == 0
        task = await trial.fleet.store.get_status(task_id)
    assert task is not None
    assert (task.status, task.result, task.attempt) == (TaskStatus.COMPLETED, {"output": "waited"}, 1)
    # The workflow closes behind the record: if no more by that worker, by another.
    async with working(trial.fleet, executor="temporal"):
        assert await trial.ends(task_id) == task
    await trial.fleet.check_invariants([task_id])


@pytest.mark.alone
@pytest.mark.parametrize("inside", ["model call", "tool"])
async def test_cancel_ends_an_agent_within_two_seconds(trial: Trial, inside: str) -> None:
    tool = inside == "tool"
    trial.model.replies = [call("slow", 8), text("done")] if tool else [slowly("never", "said")]
    task_id = await trial.submit(agent("slow"))
    # The usual lease: with a short one the run would soon see for itself that it is not wanted.
    with trial.worker("w", "--heartbeat-ttl", "30"):
        await wait_until(lambda: trial.notes == ["slow"] if tool else len(trial.model.requests) == 1)
        waiting = await trial.submit(agent("slow"))
        assert await trial.fleet.broker.cancel(waiting) == "cancelled"
        asked = time.monotonic()
        assert await trial.fleet.broker.cancel(task_id) == "requested"
        task = await trial.fleet.ends(task_id)
        assert (time.monotonic() - asked) / slowness() < 2
        await wait_until(lambda: tool or trial.model.hung_up == 1)
        assert await trial.temporal.ends_of(task_id) == [WorkflowExecutionStatus.FAILED]
        await wait_until(trial.fleet.is_empty)
    assert (task.status, task.attempt) == (TaskStatus.CANCELLED, 1)
    assert (trial.notes, len(trial.model.requests)) == (["slow"] if tool else [], 1)
    await trial.fleet.check_invariants([task_id, waiting])


async def test_a_durable_task_that_kills_its_process_fails_alone(
    fleet: Fleet, temporal: TemporalServer, tmp_path: Path
) -> None:
    options = ("--executor", "temporal", "--concurrency", "4", "--heartbeat-ttl", "6", "--retry-backoff", "0")
    options += ("--max-retries", "1", "--allow-import", ISOLATION_JOBS)
    with worker(fleet, "w", *options, TEMPORAL_HOST=temporal.host):
        innocents = [
            await fleet.broker.submit(attack("innocent", metadata={"seconds": 6, "notes": str(tmp_path / "notes")}))
            for _ in range(3)
        ]
        for task_id in innocents:
            await fleet.runs(task_id)
        poison = await fleet.broker.submit(attack("segfault"))
        ended = await fleet.ends(poison)
        beside = await fleet.all_end(innocents)
    assert (ended.status, ended.error_type, ended.retries) == (TaskStatus.FAILED, "ExecutorDiedError", 1)
    assert "SIGSEGV" in (ended.error or "")
    assert [(task.status, task.retries, task.crashes) for task in beside] == [(TaskStatus.COMPLETED, 0, 0)] * 3, beside


async def test_a_durable_task_that_killed_its_process_runs_alone_on_any_worker(
    fleet: Fleet, temporal: TemporalServer, tmp_path: Path
) -> None:
    options = ("--executor", "temporal", "--concurrency", "4", "--heartbeat-ttl", "6", "--retry-backoff", "0")
    options += ("--max-retries", "0", "--allow-import", ISOLATION_JOBS)
    with worker(fleet, "w1", *options, TEMPORAL_HOST=temporal.host):
        poison = await fleet.broker.submit(attack("segfault"))

        async def suspected() -> bool:
            return await fleet.client.hget(keys.task(poison), "alone") == "child"

        await wait_until(suspected)
    with worker(fleet, "w2", *options, TEMPORAL_HOST=temporal.host):
        ended = await fleet.ends(poison)
    # The second worker need not find out for itself.
    assert (ended.status, ended.error_type, ended.attempt) == (TaskStatus.FAILED, "ExecutorDiedError", 2), ended
