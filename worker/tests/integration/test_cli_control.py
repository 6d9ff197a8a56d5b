"""``orbiter worker drain|quiet|resume`` and real workers: those that obey, and those that cannot."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from subprocess import Popen

import pytest
from redis.asyncio import Redis

from orbiter.distributed.broker.records import Command
from orbiter.distributed.client.control import WorkerControl
from tests.support import PATIENCE, orbiter, start_orbiter, wait_until, worker_process

HOLD = json.dumps({"runtime": "callable", "target": "tests.integration.jobs:hold", "name": "hold"})


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[Popen[bytes]]:
    with worker_process(redis_url, "w1", tmp_path / "w1.log", "--concurrency", "2", "--drain-timeout", "60") as process:
        yield process


@pytest.fixture
async def stopped(worker: Popen[bytes]) -> AsyncIterator[Popen[bytes]]:
    """A worker that is there and does nothing: it cannot obey, and does not die."""
    worker.send_signal(signal.SIGSTOP)
    yield worker
    worker.send_signal(signal.SIGCONT)


def submit(redis_url: str, task_id: str, until: Path) -> None:
    """Submit a task that runs until a file is there."""
    options = ("--task-id", task_id, "--metadata", f"until={until}")
    assert orbiter("task", "submit", "", "--agent", "-", "--redis-url", redis_url, *options, stdin=HOLD).returncode == 0


async def status_is(client: Redis, task_id: str, status: str) -> bool:
    return await client.hget(f"orbiter:task:{task_id}", "status") == status


# -- workers that obey -----------------------------------------------------------------------------------------------


async def test_a_drained_worker_ends_its_task_and_is_gone(
    worker: Popen[bytes], redis_url: str, redis_client: Redis, tmp_path: Path
) -> None:
    submit(redis_url, "t1", tmp_path / "enough")
    await wait_until(lambda: status_is(redis_client, "t1", "running"))
    with start_orbiter("worker", "drain", "w1", "--redis-url", redis_url) as command:
        assert command.stderr is not None
        while (said := command.stderr.readline()) != "Worker w1: draining, 1 of 2 slots busy\n":
            assert said.startswith("Worker w1: "), said
        (tmp_path / "enough").touch()
        told, _ = command.communicate(timeout=PATIENCE)
    assert (command.returncode, told) == (0, "Worker w1 has drained.\n")
    assert worker.wait(PATIENCE) == 0
    assert await status_is(redis_client, "t1", "completed")
    assert not await redis_client.exists("orbiter:workers:w1")
    again = orbiter("worker", "drain", "w1", "--redis-url", redis_url)
    assert again.returncode == 1
    assert "w1" in again.stderr


@pytest.mark.usefixtures("worker")
async def test_a_quiet_worker_claims_nothing_until_it_is_told_to_resume(
    redis_url: str, redis_client: Redis, tmp_path: Path
) -> None:
    (tmp_path / "enough").touch()
    at = ("--redis-url", redis_url)
    quiet = orbiter("worker", "quiet", "w1", *at)
    assert quiet.returncode == 0
    (listed,) = json.loads(orbiter("worker", "list", "--json", *at).stdout)
    assert listed["state"] == "quiet"
    submit(redis_url, "t1", tmp_path / "enough")
    info = json.loads(orbiter("queue", "info", "--json", *at).stdout)
    assert (info["waiting"], info["running"]) == (1, 0)

    resumed = orbiter("worker", "resume", "w1", "--json", *at)
    (outcome,) = json.loads(resumed.stdout)
    assert outcome.pop("message")
    assert outcome == {"worker_id": "w1", "command": "resume", "done": True, "state": "running"}
    await wait_until(lambda: status_is(redis_client, "t1", "completed"))


@pytest.mark.usefixtures("worker")
async def test_all_means_every_live_worker_of_the_queue(redis_url: str, redis_client: Redis, tmp_path: Path) -> None:
    await redis_client.zadd("orbiter:fleet", {"dead": 1})
    at = ("--redis-url", redis_url)
    with worker_process(redis_url, "w2", tmp_path / "w2.log", "--queue", "q2") as second:
        (drained,) = json.loads(orbiter("worker", "drain", "--all", "--queue", "q2", "--json", *at).stdout)
        assert (drained["worker_id"], drained["state"]) == ("w2", "gone")
        assert second.wait(PATIENCE) == 0
    told = json.loads(orbiter("worker", "quiet", "--all", "--json", *at).stdout)
    assert [(one["worker_id"], one["state"]) for one in told] == [("w1", "quiet")]


async def test_a_quiet_worker_can_be_drained(worker: Popen[bytes], redis_url: str) -> None:
    assert orbiter("worker", "quiet", "w1", "--redis-url", redis_url).returncode == 0
    assert orbiter("worker", "drain", "w1", "--redis-url", redis_url).returncode == 0
    assert worker.wait(PATIENCE) == 0


async def test_a_draining_worker_takes_no_other_command(
    worker: Popen[bytes], redis_url: str, redis_client: Redis, tmp_path: Path
) -> None:
    submit(redis_url, "t1", tmp_path / "enough")
    await wait_until(lambda: status_is(redis_client, "t1", "running"))
    told = orbiter("worker", "drain", "w1", "--no-wait", "--redis-url", redis_url)
    assert told.returncode == 0

    async def draining() -> bool:
        return await redis_client.hget("orbiter:workers:w1", "state") == "draining"

    await wait_until(draining)
    refused = orbiter("worker", "resume", "w1", "--redis-url", redis_url)
    assert refused.returncode == 1
    assert "w1 is draining" in refused.stderr
    # Whoever asks once more only waits with the first: a second command to drain would cut the task short.
    with start_orbiter("worker", "drain", "w1", "--redis-url", redis_url) as command:
        assert command.stderr is not None
        assert re.search(r"w1: draining, 1 of 2", command.stderr.readline())
        (tmp_path / "enough").touch()
        command.communicate(timeout=PATIENCE)
    assert command.returncode == 0
    assert await status_is(redis_client, "t1", "completed")
    assert worker.wait(PATIENCE) == 0


# -- and those that cannot -------------------------------------------------------------------------------------------


def test_an_unknown_worker_is_not_found(redis_url: str) -> None:
    for command in Command:
        ended = orbiter("worker", command, "w9", "--redis-url", redis_url)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "w9" in ended.stderr


def test_nobody_to_tell_is_no_failure(redis_url: str) -> None:
    ended = orbiter("worker", "drain", "--all", "--redis-url", redis_url)
    assert (ended.returncode, ended.stdout) == (0, "No active workers found.\n")


async def test_a_killed_worker_is_dead_and_no_hash_is_made_for_it(
    redis_url: str, redis_client: Redis, tmp_path: Path
) -> None:
    with worker_process(redis_url, "w1", tmp_path / "log", "--heartbeat-ttl", "2") as process:
        process.kill()

        async def expired() -> bool:
            return not await redis_client.exists("orbiter:workers:w1")

        await wait_until(expired)
    ended = orbiter("worker", "quiet", "w1", "w9", "--redis-url", redis_url)
    assert ended.returncode == 1
    dead, unknown = ended.stderr.splitlines()
    assert "w1 is dead" in dead
    assert "w9" in unknown
    assert not await redis_client.exists("orbiter:workers:w1")


@pytest.mark.usefixtures("stopped")
async def test_a_worker_that_does_not_obey_in_time_is_told(redis_url: str, redis_client: Redis) -> None:
    began = orbiter("worker", "quiet", "w1", "--timeout", "0.3", "--redis-url", redis_url)
    assert began.returncode == 1
    progress, refused = began.stderr.splitlines()
    assert "w1: running, 0 of 2" in progress
    assert "w1 is still running" in refused
    assert await redis_client.hget("orbiter:workers:w1", "wanted") == "quiet"


@pytest.mark.usefixtures("stopped")
async def test_command_is_left_in_the_hash_and_sent_on_the_channel(redis_url: str, redis_client: Redis) -> None:
    async with redis_client.pubsub() as channel:
        await channel.subscribe("orbiter:control:w1")
        control = WorkerControl(redis_url)
        await control.connect()
        outcome = await control.send("w1", Command.RESUME, wait=False)
        await control.disconnect()

        async def heard() -> object:
            message = await channel.get_message(ignore_subscribe_messages=True, timeout=1)
            return message and message["data"]

        assert await wait_until(heard) == "resume"
    assert (outcome.done, outcome.state) == (True, "asked")
    assert await redis_client.hget("orbiter:workers:w1", "wanted") == "resume"
    assert await redis_client.ttl("orbiter:workers:w1") > 0


async def test_a_worker_that_dies_meanwhile_has_not_drained(redis_url: str, tmp_path: Path) -> None:
    with worker_process(redis_url, "w1", tmp_path / "log", "--heartbeat-ttl", "15") as process:
        process.send_signal(signal.SIGSTOP)
        with start_orbiter("worker", "drain", "w1", "--redis-url", redis_url) as command:
            assert command.stderr is not None
            assert command.stderr.readline().startswith("Worker w1: ")
            process.kill()
            _, said = command.communicate(timeout=PATIENCE)
    assert command.returncode == 1
    assert "w1 died" in said.splitlines()[-1]


async def test_a_worker_of_0_1_hears_nobody(redis_url: str, redis_client: Redis) -> None:
    await redis_client.hset(
        "orbiter:workers:old", mapping={"status": "running", "last_heartbeat": "1", "hostname": "h"}
    )
    ended = orbiter("worker", "drain", "old", "--redis-url", redis_url)
    assert ended.returncode == 1
    assert re.search("old .*0\\.1.*SIGTERM", ended.stderr)
    assert not await redis_client.hexists("orbiter:workers:old", "wanted")
