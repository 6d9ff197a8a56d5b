"""Two processes under one worker id: one works, whichever; none takes the other's tasks, and none waits for ever."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from orbiter.distributed.errors import WorkerIdTakenError
from orbiter.distributed.models import TaskStatus
from orbiter.distributed.worker.incarnation import died_here, new_life
from orbiter.distributed.worker.worker import Worker
from tests import keys
from tests.fleet import Fleet, working
from tests.servers import Cluster, cluster_of_six, eventually
from tests.support import PATIENCE, orbiter, slowness, wait_until, worker_process

TTL = 3
OPTIONS = ("--heartbeat-ttl", str(TTL), "--retry-backoff", "0")


def ended_pid() -> int:
    """Return the id of a process that has ended."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    return pid


async def beat_of(client: Redis, worker_id: str, *fields: str) -> list[str | None]:
    return await client.hmget(keys.worker(worker_id), fields)  # type: ignore[misc]


async def test_a_second_worker_of_one_id_refuses_to_start(fleet: Fleet, tmp_path: Path) -> None:
    # The lease is a long one: the first is asked to beat, and need not be waited for.
    options = ("--concurrency", "2", "--drain-timeout", "60", "--heartbeat-ttl", "600")
    with worker_process(fleet.url, "same", tmp_path / "log", *options) as first:
        task_ids = await fleet.submit_many("sleep", 2, metadata={"seconds": 4})
        for task_id in task_ids:
            await fleet.runs(task_id)
        began = time.monotonic()
        second = await asyncio.to_thread(orbiter, "start", "worker", "--redis-url", fleet.url, "--worker-id", "same")
        assert time.monotonic() - began < PATIENCE
        assert second.returncode == 2
        for named in ("'same'", f"process {first.pid} ", f"host {socket.gethostname()}", "--worker-id"):
            assert named in second.stderr
        assert "Traceback" not in second.stderr
        ended = await fleet.all_end(task_ids)
        assert await beat_of(fleet.client, "same", "pid") == [str(first.pid)]
    assert {(task.status, task.attempt, task.losses, task.crashes, task.handoffs) for task in ended} == {
        (TaskStatus.COMPLETED, 1, 0, 0, 0)
    }
    await fleet.check_invariants(task_ids)


async def test_a_worker_embedded_twice_under_one_id_raises(fleet: Fleet) -> None:
    async with working(fleet, worker_id="same", heartbeat_ttl=TTL):
        with pytest.raises(WorkerIdTakenError) as caught:
            await asyncio.wait_for(Worker(fleet.url, worker_id="same").start(), PATIENCE)
        assert (caught.value.hostname, caught.value.pid) == (socket.gethostname(), str(os.getpid()))
        task_id = await fleet.submit("echo")
        assert (await fleet.ends(task_id)).status == TaskStatus.COMPLETED


@pytest.mark.parametrize("other", ["elsewhere", "0.1"])
async def test_a_worker_starts_once_the_heartbeat_of_a_dead_one_has_run_out(fleet: Fleet, other: str) -> None:
    """Killed in a container or on a host that is gone: nobody here can know that it is dead, but it is silent."""
    mapping: dict[str, str] = {"status": "running", "last_heartbeat": "1.0", "hostname": "far", "started_at": "1.0"}
    if other == "elsewhere":
        mapping |= {"life": "another-boot.pid:[1]/1", "pid": str(ended_pid()), "wanted": "drain"}
    await fleet.client.hset(keys.worker("same"), mapping=mapping)  # type: ignore[misc]
    began = time.monotonic()
    await fleet.client.expire(keys.worker("same"), TTL)
    async with working(fleet, worker_id="same") as worker:
        # Not before, and without waiting for a lease of its own, of half a minute.
        assert TTL - 0.1 <= time.monotonic() - began < TTL + 20 * slowness()
        started, life = await beat_of(fleet.client, "same", "started_at", "life")
        assert float(started or 0) > 1.0
        assert life
        task_id = await fleet.submit("echo")
        assert (await fleet.ends(task_id)).status == TaskStatus.COMPLETED
        assert worker.state == "running"


async def test_a_worker_replaces_at_once_one_that_died_on_its_machine(fleet: Fleet) -> None:
    mapping = {"last_heartbeat": "1.0", "hostname": socket.gethostname(), "started_at": "1.0", "wanted": "drain"}
    mapping |= {"life": new_life(), "pid": str(ended_pid())}
    await fleet.client.hset(keys.worker("same"), mapping=mapping)  # type: ignore[misc]
    await fleet.client.expire(keys.worker("same"), 3600)
    async with asyncio.timeout(PATIENCE), working(fleet, worker_id="same"):
        started, wanted, pid = await beat_of(fleet.client, "same", "started_at", "wanted", "pid")
    # Nothing of the dead one's heartbeat counts for its heir.
    assert (float(started or 0) > 1.0, wanted, pid) == (True, None, str(os.getpid()))


def test_only_a_process_of_this_machine_that_is_gone_is_known_to_be_dead() -> None:
    life, gone = new_life(), str(ended_pid())
    assert died_here(life, gone)
    assert not died_here(life, str(os.getpid()))
    assert not died_here(life, "")
    assert not died_here(life, "9" * 30)
    assert not died_here("another-boot.pid:[1]/1", gone)
    # A system that names no place, and a release that names no life.
    assert not died_here("-/1", gone)
    assert not died_here("", gone)


async def test_a_worker_told_to_stop_while_it_watches_another_ends_in_order(fleet: Fleet) -> None:
    await fleet.client.hset(keys.worker("same"), mapping={"last_heartbeat": "1.0"})  # type: ignore[misc]
    worker = Worker(fleet.url, worker_id="same")
    life = asyncio.create_task(worker.start())
    await wait_until(lambda: fleet.client.exists("orbiter:tasks"))
    await worker.stop()
    await asyncio.wait_for(life, PATIENCE)
    assert await beat_of(fleet.client, "same", "last_heartbeat", "life") == ["1.0", None]


async def test_a_worker_that_was_frozen_leaves_its_id_to_who_has_it_by_now(fleet: Fleet, tmp_path: Path) -> None:
    with worker_process(fleet.url, "same", tmp_path / "first", *OPTIONS, "--concurrency", "2") as first:
        task_ids = await fleet.submit_many("sleep", 2, metadata={"seconds": 4})
        for task_id in task_ids:
            await fleet.runs(task_id)
        first.send_signal(signal.SIGSTOP)
        try:
            # Until then it may still come back with its lease: the second waits.
            with worker_process(fleet.url, "same", tmp_path / "second", *OPTIONS, "--concurrency", "2") as second:
                first.send_signal(signal.SIGCONT)
                later = await fleet.submit_many("sleep", 6, metadata={"seconds": 0.3})
                assert await asyncio.to_thread(first.wait, PATIENCE) == 2
                ended = await fleet.all_end(task_ids + later)
                assert second.poll() is None
                assert await beat_of(fleet.client, "same", "pid") == [str(second.pid)]
        finally:
            first.send_signal(signal.SIGCONT)
    log = (tmp_path / "first").read_text()
    assert f"process {second.pid} " in log
    assert "Traceback" not in log
    assert {task.status for task in ended} == {TaskStatus.COMPLETED}
    # What the first had was lost with it, once; what came later suffered nothing.
    losses = {task.task_id: task.losses for task in ended}
    assert ([losses[task_id] for task_id in task_ids], sum(losses[task_id] for task_id in later)) == ([1, 1], 0)
    assert {task.crashes for task in ended} == {0}
    await fleet.check_invariants(task_ids + later)


async def test_one_of_two_workers_of_one_id_works_in_a_cluster(tmp_path: Path) -> None:
    with cluster_of_six(tmp_path / "cluster") as cluster:
        await _in_a_cluster(cluster, tmp_path)


async def _in_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    eventually(cluster.healthy, what="the cluster is whole")
    start = ("start", "worker", "--redis-url", cluster.url, "--worker-id", "same")
    with worker_process(cluster.url, "same", tmp_path / "first", "--heartbeat-ttl", "120") as first:
        second = await asyncio.to_thread(orbiter, *start)
        assert (second.returncode, f"process {first.pid} " in second.stderr) == (2, True)
        first.kill()
        first.wait()
        # Its heartbeat stands for more than a minute.
        began = time.monotonic()
        with worker_process(cluster.url, "same", tmp_path / "heir") as heir:
            assert time.monotonic() - began < 60
        assert heir.returncode == 0
