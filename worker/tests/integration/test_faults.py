"""Workers that die, freeze or lose Redis at the worst moment; after each fault, the promises of docs/protocol.md."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from orbiter.distributed.models import TaskStatus
from tests import keys
from tests.fleet import QUEUE, Fleet, working
from tests.support import PATIENCE, WORKER_DIRECTORY, environment, slowness, wait_until

LEASE = 3
SETTINGS = ("--heartbeat-ttl", str(LEASE), "--retry-backoff", "0", "--allow-import", "tests.integration.jobs")


@contextlib.contextmanager
def worker(fleet: Fleet, name: str, *options: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker in a process of its own; at the end it is told to stop and must do so in order, if it still can."""
    command = [sys.executable, "-m", "orbiter.cli", "start", "worker", "--redis-url", fleet.url, "--worker-id", name]
    # Into a file: a pipe that nobody reads would stop the worker once it is full.
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, *SETTINGS, *options], stdout=log, stderr=log, env=environment(**env), cwd=WORKER_DIRECTORY
        )
        try:
            yield process
        finally:
            alive = process.poll() is None
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.seek(0)
            print(log.read())
        assert not alive or process.returncode == 0


async def died(process: subprocess.Popen[bytes]) -> float:
    """Wait until a worker has been killed; return the moment."""
    await wait_until(lambda: process.poll() is not None)
    assert process.returncode == -signal.SIGKILL
    return time.time()


POINTS: list[tuple[str, str, dict[str, Any]]] = [
    ("after fetch", "echo", {}),
    ("after start", "echo", {}),
    ("", "die", {}),
    ("before settle", "say", {"text": "one two three"}),
    ("after settle", "say", {"text": "one two three"}),
    ("before settle", "fail", {"metadata": {"times": 1}}),
    ("after settle", "fail", {"metadata": {"times": 1}}),
]


@pytest.mark.parametrize(("point", "job", "fields"), POINTS, ids=str)
async def test_kill_9_at(fleet: Fleet, point: str, job: str, fields: dict[str, Any]) -> None:
    """Whatever a worker was doing when it was killed: another one completes the task, and soon."""
    task_id = await fleet.submit(job, **fields)
    # In an executor process of its own, a task that dies would take no worker along.
    isolation = "process" if point else "none"
    with worker(fleet, "victim", ORBITER_FAULT=point, ORBITER_ISOLATION=isolation) as victim:
        killed = await died(victim)
    async with working(fleet, worker_id="heir", heartbeat_ttl=LEASE, allow_import=["tests.integration.jobs"]):
        task = await fleet.ends(task_id)
    assert task.status == TaskStatus.COMPLETED
    if not (point == "after settle" and job == "say"):
        assert task.worker_id == "heir"
        assert task.started_at is not None
        assert task.started_at - killed <= 5 * slowness()
    await fleet.check_invariants([task_id])


@pytest.mark.parametrize("point", ["before settle", "after settle"])
async def test_kill_9_in_a_hand_back(fleet: Fleet, point: str) -> None:
    task_id = await fleet.submit("sleep", metadata={"seconds": 4})
    with worker(fleet, "victim", "--drain-timeout", "0", ORBITER_FAULT=point) as victim:
        await fleet.runs(task_id)
        victim.send_signal(signal.SIGTERM)
        killed = await died(victim)
    async with working(fleet, worker_id="heir", heartbeat_ttl=LEASE):
        task = await fleet.ends(task_id)
    assert (task.status, task.worker_id, task.retries) == (TaskStatus.COMPLETED, "heir", 0)
    assert (task.handoffs, task.losses, task.crashes) == ((0, 1, 0) if point == "before settle" else (1, 0, 0))
    assert task.started_at is not None
    assert task.started_at - killed <= 5 * slowness()
    await fleet.check_invariants([task_id])


async def test_kill_9_after_the_promotion_of_a_delayed_task(fleet: Fleet) -> None:
    task_id = await fleet.submit("fail", metadata={"times": 1})
    with worker(fleet, "victim", "--retry-backoff", "0.3", ORBITER_FAULT="after fetch:2") as victim:
        await died(victim)
    async with working(fleet, worker_id="heir", heartbeat_ttl=LEASE):
        task = await fleet.ends(task_id)
    assert (task.status, task.worker_id, task.retries) == (TaskStatus.COMPLETED, "heir", 1)
    await fleet.check_invariants([task_id])


async def test_kill_9_in_a_sweep(fleet: Fleet) -> None:
    """A worker that dies while it takes over the tasks of a dead one leaves them to the next."""
    task_id = await fleet.submit("sleep", metadata={"seconds": 4})
    with worker(fleet, "first", ORBITER_FAULT="after start") as first:
        await died(first)
    with worker(fleet, "sweeper", ORBITER_FAULT="after start") as sweeper:
        await died(sweeper)
    async with working(fleet, worker_id="heir", heartbeat_ttl=LEASE):
        task = await fleet.ends(task_id)
    assert (task.status, task.worker_id, task.losses, task.crashes) == (TaskStatus.COMPLETED, "heir", 2, 0)
    await fleet.check_invariants([task_id])


async def test_restarted_worker_takes_up_its_tasks_at_once_under_its_name(fleet: Fleet) -> None:
    """systemd restarts a killed worker long before its lease is over: a fixed --worker-id finds its own history."""
    task_id = await fleet.submit("sleep", metadata={"seconds": 4})
    with worker(fleet, "same", "--heartbeat-ttl", "300") as first:
        await fleet.runs(task_id)
        first.kill()
        await died(first)
    with worker(fleet, "same", "--heartbeat-ttl", "300"):
        task = await fleet.ends(task_id)
    assert (task.status, task.losses, task.crashes, task.attempt) == (TaskStatus.COMPLETED, 1, 0, 2)
    await fleet.check_invariants([task_id])


async def test_a_frozen_worker_writes_nothing_after_its_lease(fleet: Fleet) -> None:
    with worker(fleet, "frozen") as frozen:
        task_id = await fleet.submit("murmur", metadata={"seconds": 4})
        await fleet.runs(task_id)
        frozen.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            async with working(fleet, worker_id="heir", heartbeat_ttl=LEASE):
                task = await fleet.ends(task_id)
            await wait_until(lambda: time.monotonic() - stopped > 2 * LEASE)
            before = await fleet.client.hgetall(keys.task(task_id))
            events = await fleet.client.xrange(keys.stream(task_id))
        finally:
            frozen.send_signal(signal.SIGCONT)
        await wait_until(lambda: fleet.client.exists(keys.worker("frozen")))
    assert (task.status, task.worker_id) == (TaskStatus.COMPLETED, "heir")
    assert await fleet.client.hgetall(keys.task(task_id)) == before
    assert await fleet.client.xrange(keys.stream(task_id)) == events
    await fleet.check_invariants([task_id])


async def test_connections_killed_five_times_a_second_under_load_cost_nothing(fleet: Fleet) -> None:
    with worker(fleet, "steady", "--concurrency", "8") as steady:
        await wait_until(lambda: fleet.client.exists(keys.worker("steady")))
        task_ids = await fleet.submit_many("sleep", 500, metadata={"seconds": 0.2})
        until = time.monotonic() + 20
        while time.monotonic() < until:
            # Without this connection, which asks for it.
            await fleet.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(0.2)
        ended = await fleet.all_end(task_ids)
        assert steady.poll() is None
    assert {task.status for task in ended} == {TaskStatus.COMPLETED}
    assert {task.retries for task in ended} == {0}
    # A reply that was lost with its connection costs no attempt.
    assert {(task.attempt, task.losses, task.crashes) for task in ended} == {(1, 0, 0)}
    await fleet.check_invariants(task_ids)


@pytest.mark.guide("Recommended settings", "`noeviction`: a full Redis loses nothing")
async def test_a_full_redis_still_records_what_runs_and_refuses_what_comes(fleet: Fleet) -> None:
    """maxmemory with noeviction: submitting fails with a clear error, a running task ends."""
    async with working(fleet):
        task_id = await fleet.submit("sleep", metadata={"seconds": 4})
        await fleet.runs(task_id)
        await fleet.client.config_set("maxmemory", "1mb")
        try:
            with pytest.raises(Exception, match=r"(?i)maxmemory"):
                await fleet.submit("echo")
            task = await fleet.ends(task_id)
        finally:
            await fleet.client.config_set("maxmemory", "0")
    assert task.status == TaskStatus.COMPLETED
    await fleet.check_invariants([task_id])
    assert await fleet.client.xlen(QUEUE) == 0
