"""The guide's section on Temporal, followed word by word but for the addresses."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest

from orbiter.distributed.models import TaskPayload, TaskResult, TaskStatus
from tests.fleet import Fleet, working
from tests.support import PATIENCE, WORKER_DIRECTORY, environment, wait_until
from tests.temporal import TemporalServer, runs

COMMAND = """
TEMPORAL_HOST=localhost:7233 \\
TEMPORAL_NAMESPACE=default \\
exec orbiter start worker --redis-url redis://localhost:6379
"""

PYTHON = """
import asyncio
from orbiter.distributed.worker.worker import Worker

worker = Worker(
    "redis://localhost:6379",
    executor="temporal",
    concurrency=4,
)
asyncio.run(worker.start())
"""
BIN = Path(sys.executable).parent
AGENT = {"name": "a", "model": "test", "instructions": "Say something."}


@contextlib.contextmanager
def started(command: list[str], fleet: Fleet, temporal: TemporalServer) -> Iterator[None]:
    """Run a worker of the guide, which must leave in order."""
    command = [
        part.replace("redis://localhost:6379", fleet.url).replace("localhost:7233", temporal.host) for part in command
    ]
    env = environment(PATH=f"{BIN}:/usr/bin:/bin", TEMPORAL_HOST=temporal.host)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, output


async def an_agent_runs(fleet: Fleet, temporal: TemporalServer) -> TaskResult:
    """Submit an agent; its workflow must be the one of the guide."""
    task_id = await fleet.broker.submit(TaskPayload(agent_config=AGENT, input="go", timeout_seconds=77))
    task = await fleet.ends(task_id)
    assert (task.status, task.attempt) == (TaskStatus.COMPLETED, 1), task
    description = await (await temporal.workflow(task_id)).describe()
    assert description.workflow_type == "AgentExecutionWorkflow"
    return task


@pytest.mark.guide("Temporal Execution", "requirement: `pip install orbiter-distributed[temporal]`")
def test_temporal_requirement_the_extra_brings_temporalio() -> None:
    """``pip install orbiter-distributed[temporal]``."""
    rows = [row for row in requires("orbiter-distributed") or [] if 'extra == "temporal"' in row.replace("'", '"')]
    assert [row for row in rows if row.startswith("temporalio")]


@pytest.mark.guide("Temporal Execution", "`TEMPORAL_HOST=… TEMPORAL_NAMESPACE=default orbiter start worker …`")
@pytest.mark.guide("Environment Variables", "`TEMPORAL_HOST`")
async def test_temporal_command_starts_a_durable_worker(fleet: Fleet, temporal: TemporalServer) -> None:
    with started(["bash", "-c", COMMAND], fleet, temporal):
        await an_agent_runs(fleet, temporal)


@pytest.mark.guide("Temporal Execution", '`Worker(…, executor="temporal", concurrency=4)`')
async def test_temporal_python_starts_a_durable_worker(fleet: Fleet, temporal: TemporalServer) -> None:
    with started([sys.executable, "-c", PYTHON], fleet, temporal):
        await an_agent_runs(fleet, temporal)


@pytest.mark.guide("Environment Variables", "`TEMPORAL_NAMESPACE`")
async def test_temporal_namespace_is_the_one_that_the_variable_names(fleet: Fleet, temporal: TemporalServer) -> None:
    made = await asyncio.to_thread(
        subprocess.run,
        [*temporal.program, "operator", "namespace", "create", "--address", temporal.host, "--namespace", "elsewhere"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert made.returncode == 0 or "already exists" in made.stderr, made.stderr
    command = COMMAND.replace("NAMESPACE=default", "NAMESPACE=elsewhere")
    with started(["bash", "-c", command], fleet, temporal):
        task_id = await fleet.broker.submit(TaskPayload(agent_config=AGENT, input="go"))
        assert (await fleet.ends(task_id)).status == TaskStatus.COMPLETED
    handle = await temporal.workflow(task_id, namespace="elsewhere")
    assert (await handle.describe()).workflow_type == "AgentExecutionWorkflow"


# -- how it works, by number -------------------------------------------------------------------------------------------


@pytest.mark.guide("How it works", "1. the worker claims from the Redis queue")
async def test_temporal_step_1_the_worker_claims_from_the_redis_queue(fleet: Fleet, temporal: TemporalServer) -> None:
    async with working(fleet, worker_id="w1", executor="temporal", heartbeat_ttl=3, drain_timeout=0.2) as worker:
        task_id = await fleet.submit("sleep", metadata={"seconds": 600})
        await wait_until(lambda: runs(worker))
        task = await fleet.store.get_status(task_id)
        assert task is not None
        assert (task.status, task.worker_id) == (TaskStatus.RUNNING, "w1")
        # Acknowledged as soon as Temporal has it.
        await wait_until(fleet.is_empty)
        await fleet.broker.cancel(task_id)
        await fleet.ends(task_id)


@pytest.mark.guide("How it works", "2. `AgentExecutionWorkflow`; 3. `execute_agent_activity` runs the agent")
async def test_temporal_step_2_and_3_a_workflow_runs_the_agent_in_an_activity(
    fleet: Fleet, temporal: TemporalServer
) -> None:
    async with working(fleet, executor="temporal", heartbeat_ttl=3):
        task = await an_agent_runs(fleet, temporal)
    (scheduled,) = await _scheduled(temporal, task.task_id)
    assert scheduled.activity_type.name == "execute_agent_activity"
    # The text of the agent's run is what subscribers were told.
    assert task.result is not None
    said = "".join(event.text for event in await fleet.events(task.task_id) if event.type == "text")
    assert said == task.result["output"] != ""


@pytest.mark.guide("How it works", "4. a heartbeat every 10 events")
async def test_temporal_step_4_a_heartbeat_follows_every_tenth_event(fleet: Fleet, temporal: TemporalServer) -> None:
    """By the clock alone the second one would come after half a minute."""
    async with working(fleet, executor="temporal", heartbeat_ttl=90, drain_timeout=0.2):
        task_id = await fleet.submit("ten_events", metadata={"seconds": 600})
        handle = await temporal.workflow(task_id)

        async def beat() -> bool:
            with contextlib.suppress(Exception):  # until there is such a workflow
                pending = (await handle.describe()).raw_description.pending_activities
                return any(b"step:10" in part.data for run in pending for part in run.heartbeat_details.payloads)
            return False

        await wait_until(beat, interval=0.2)
        await fleet.broker.cancel(task_id)
        await fleet.ends(task_id)


@pytest.mark.guide("How it works", "5. after a crash another worker runs the activity")
async def test_temporal_step_5_another_worker_runs_what_a_crashed_one_had(
    fleet: Fleet, temporal: TemporalServer
) -> None:
    command = ["orbiter.cli", "start", "worker", "--redis-url", fleet.url, "--executor", "temporal"]
    command += ["--worker-id", "crashes", "--heartbeat-ttl", "3", "--allow-import", "tests"]
    env = environment(TEMPORAL_HOST=temporal.host, ORBITER_ISOLATION="none")
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=env,
        cwd=WORKER_DIRECTORY,
    ) as victim:
        try:
            task_id = await fleet.submit("die")  # kills its worker in the middle of the first attempt
            await wait_until(lambda: victim.poll() is not None)
        finally:
            victim.kill()
    async with working(fleet, worker_id="another", executor="temporal", heartbeat_ttl=3):
        task = await fleet.ends(task_id)
    assert (task.status, task.worker_id, task.attempt, task.crashes) == (TaskStatus.COMPLETED, "another", 2, 1)


@pytest.mark.guide("How it works", "6. `timeout_seconds` is the `start_to_close_timeout`")
async def test_temporal_step_6_timeout_seconds_is_the_start_to_close_timeout(
    fleet: Fleet, temporal: TemporalServer
) -> None:
    async with working(fleet, executor="temporal", heartbeat_ttl=3):
        task = await an_agent_runs(fleet, temporal)
    (scheduled,) = await _scheduled(temporal, task.task_id)
    assert scheduled.start_to_close_timeout.seconds == 77


async def _scheduled(temporal: TemporalServer, task_id: str) -> list[Any]:
    history = await (await temporal.workflow(task_id)).fetch_history()
    return [
        event.activity_task_scheduled_event_attributes
        for event in history.events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
