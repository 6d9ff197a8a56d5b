"""The guide's rows on starting workers: flags, constructor parameters, variables, concurrency, several workers."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from orbiter.distributed.connection.redis_url import RedisUrlError
from orbiter.distributed.models import TaskStatus
from orbiter.distributed.worker.worker import Worker
from tests import keys
from tests.fleet import Fleet, job_payload, working
from tests.support import PATIENCE, free_port, start_orbiter, wait_until, whole_lines, worker_process

GENERATED = re.compile(rf"{re.escape(socket.gethostname())}-(\d+)-[0-9a-f]{{8}}")
ALLOWED = ("--allow-import", "tests.integration.jobs", "--drain-timeout", "1")


async def ids(client: Redis) -> list[str]:
    return [key.removeprefix(keys.WORKER_PREFIX) async for key in client.scan_iter(match=f"{keys.WORKER_PREFIX}*")]


@contextlib.contextmanager
def started(*options: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``orbiter start worker``; it must leave in order."""
    with start_orbiter("start", "worker", *ALLOWED, *options, **env) as process:
        try:
            yield process
        finally:
            process.terminate()
            _, log = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, log


async def most_at_once(fleet: Fleet, number: int, wanted: int) -> int:
    """Run so many tasks; return how many of them one process ran at the same time. Each waits for so many."""
    metadata = {"seconds": 0.2, "group": uuid4().hex, "wanted": wanted}
    tasks = await fleet.submit_many("together", number, metadata=metadata)
    ended = await fleet.all_end(tasks)
    return max(task.result["together"] for task in ended if task.result)


# -- Starting a Worker > Options ---------------------------------------------------------------------------------------


@pytest.mark.guide("Options", "`--redis-url`")
async def test_flag_redis_url_wins_over_the_variable(fleet: Fleet) -> None:
    with started("--redis-url", fleet.url, ORBITER_REDIS_URL=f"redis://127.0.0.1:{free_port()}"):
        assert (await fleet.ends(await fleet.submit("echo", "x"))).status == TaskStatus.COMPLETED


@pytest.mark.guide("Options", "`--concurrency`, default 1")
@pytest.mark.parametrize(
    ("options", "expected"), [((), 1), (("--concurrency", "3"), 3)], ids=["default is 1", "given is 3"]
)
async def test_flag_concurrency(fleet: Fleet, options: tuple[str, ...], expected: int) -> None:
    with started("--redis-url", fleet.url, *options):
        assert await most_at_once(fleet, 2 * expected + 1, expected) == expected


@pytest.mark.guide("Options", "`--queue`, default `orbiter:tasks`")
@pytest.mark.parametrize(
    ("options", "queue"), [((), "orbiter:tasks"), (("--queue", "reports"), "reports")], ids=["default", "given"]
)
async def test_flag_queue(fleet: Fleet, options: tuple[str, ...], queue: str) -> None:
    [other] = {"orbiter:tasks", "reports"} - {queue}
    for name in (other, queue):
        await fleet.client.xadd(name, {"payload": job_payload("echo", task_id=f"on-{name}").to_json()})
    with started("--redis-url", fleet.url, *options):
        assert (await fleet.ends(f"on-{queue}")).status == TaskStatus.COMPLETED
    assert await fleet.store.get_status(f"on-{other}") is None
    assert await fleet.client.xlen(other) == 1


@pytest.mark.guide("Options", "`--worker-id`")
async def test_flag_worker_id_given(fleet: Fleet, tmp_path: Path) -> None:
    with worker_process(fleet.url, "chosen", tmp_path / "log"):
        assert (await fleet.ends(await fleet.submit("echo"))).worker_id == "chosen"


@pytest.mark.guide("Options", "`--worker-id`, default `{hostname}-{pid}-{random}`")
async def test_flag_worker_id_default_is_hostname_pid_random(fleet: Fleet) -> None:
    with started("--redis-url", fleet.url) as process:
        worker_id = (await fleet.ends(await fleet.submit("echo"))).worker_id
    matched = GENERATED.fullmatch(worker_id or "")
    assert matched, worker_id
    assert int(matched[1]) == process.pid


# -- Worker Constructor Parameters -------------------------------------------------------------------------------------


@pytest.mark.guide("Constructor parameters", "the column Default")
@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("redis_url", inspect.Parameter.empty),
        ("worker_id", None),
        ("concurrency", 1),
        ("queue_name", "orbiter:tasks"),
        ("heartbeat_ttl", 30),
        ("executor", "local"),
    ],
)
def test_parameter_default(name: str, default: object) -> None:
    assert inspect.signature(Worker).parameters[name].default == default


@pytest.mark.guide("Constructor parameters", "`redis_url`")
async def test_parameter_redis_url_is_required_and_checked(fleet: Fleet) -> None:
    with pytest.raises(TypeError, match="redis_url"):
        Worker()  # type: ignore[call-arg]
    with pytest.raises(RedisUrlError):
        Worker("http://localhost:6379")
    async with working(fleet):
        assert (await fleet.ends(await fleet.submit("echo"))).status == TaskStatus.COMPLETED


@pytest.mark.guide("Constructor parameters", "`worker_id`")
async def test_parameter_worker_id(fleet: Fleet) -> None:
    async with working(fleet, worker_id="chosen"):
        assert (await fleet.ends(await fleet.submit("echo"))).worker_id == "chosen"
    generated = [Worker(fleet.url).worker_id for _ in range(2)]
    assert all(GENERATED.fullmatch(worker_id) for worker_id in generated)
    assert generated[0] != generated[1]


@pytest.mark.guide("Constructor parameters", "`concurrency`")
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_parameter_concurrency(fleet: Fleet, concurrency: int) -> None:
    async with working(fleet, concurrency=concurrency):
        assert await most_at_once(fleet, 2 * concurrency + 1, concurrency) == concurrency


@pytest.mark.guide("Constructor parameters", "`queue_name`")
async def test_parameter_queue_name(fleet: Fleet) -> None:
    await fleet.client.xadd("reports", {"payload": job_payload("echo", task_id="t1").to_json()})
    async with working(fleet, queue_name="reports"):
        assert (await fleet.ends("t1")).queue == "reports"


@pytest.mark.guide("Constructor parameters", "`heartbeat_ttl`")
@pytest.mark.parametrize("ttl", [7, 90])
async def test_parameter_heartbeat_ttl(fleet: Fleet, ttl: int) -> None:
    async with working(fleet, worker_id="w", heartbeat_ttl=ttl):
        assert ttl * 2 / 3 < await fleet.client.pttl(keys.worker("w")) / 1000 <= ttl


@pytest.mark.guide("Constructor parameters", '`executor="local"`')
async def test_parameter_executor_local_runs_tasks_in_the_worker(fleet: Fleet) -> None:
    async with working(fleet, worker_id="w", executor="local"):
        assert await fleet.client.hget(keys.worker("w"), "executor") == "local"
        assert (await fleet.ends(await fleet.submit("echo"))).status == TaskStatus.COMPLETED


# -- Environment Variables ---------------------------------------------------------------------------------------------


@pytest.mark.guide("Environment Variables", "`ORBITER_REDIS_URL`, for a worker")
async def test_variable_orbiter_redis_url(fleet: Fleet) -> None:
    with started(ORBITER_REDIS_URL=fleet.url):
        assert (await fleet.ends(await fleet.submit("echo"))).status == TaskStatus.COMPLETED


# -- Concurrency Tuning ------------------------------------------------------------------------------------------------


@pytest.mark.guide("Concurrency Tuning", "I/O-bound agents: waits overlap")
async def test_concurrency_lets_tasks_that_wait_overlap(fleet: Fleet, tmp_path: Path) -> None:
    with worker_process(fleet.url, "w", tmp_path / "log", "--concurrency", "8"):
        assert await most_at_once(fleet, 8, 8) == 8


@pytest.mark.guide("Concurrency Tuning", "CPU-bound agents: each slot is independent")
async def test_concurrency_of_synchronous_code_is_that_of_threads(fleet: Fleet, tmp_path: Path) -> None:
    """Slots are independent: a plain function in one of them keeps neither the others nor the heartbeat waiting."""
    with worker_process(fleet.url, "w", tmp_path / "log", "--concurrency", "2"):
        blocking = await fleet.submit("block", metadata={"seconds": 600})
        await fleet.runs(blocking)
        assert (await fleet.ends(await fleet.submit("echo"))).status == TaskStatus.COMPLETED
        assert (await fleet.store.get_status(blocking)).status == TaskStatus.RUNNING  # type: ignore[union-attr]


# -- Multi-Worker Deployment -------------------------------------------------------------------------------------------


@pytest.mark.guide("Concurrency Tuning", "horizontal: workers of one group share the queue evenly")
@pytest.mark.guide("Multi-Worker Deployment", "each task is claimed by exactly one worker")
async def test_workers_share_the_queue_evenly_and_one_claims_each_task(fleet: Fleet, tmp_path: Path) -> None:
    log, runs, warm, until = (tmp_path / name for name in ("log", "runs", "warm", "until"))
    with (
        worker_process(fleet.url, "one", log, "--concurrency", "4"),
        worker_process(fleet.url, "two", log, "--concurrency", "4"),
    ):
        # Both can run tasks before there is anything to share.
        held = await fleet.submit_many("hold", 8, metadata={"until": str(until), "log": str(warm)})
        await wait_until(lambda: len(whole_lines(warm)) == 8)
        until.touch()
        await fleet.all_end(held)
        tasks = await fleet.submit_many("sleep", 80, metadata={"seconds": 0.2, "log": str(runs)})
        ended = await fleet.all_end(tasks)
    share = [task.worker_id for task in ended].count("one")
    assert 20 <= share <= 60
    assert sorted(runs.read_text().split()[::2]) == sorted(tasks), "each ran once"


@pytest.mark.guide("Multi-Worker Deployment", "each process has a worker id of its own")
async def test_each_process_on_a_machine_has_a_worker_id_of_its_own(fleet: Fleet) -> None:
    env = {"ORBITER_REDIS_URL": fleet.url}
    with started(**env) as one, started(**env) as two:

        async def both() -> bool:
            return len(await ids(fleet.client)) == 2

        await wait_until(both)
        matched = [GENERATED.fullmatch(worker_id) for worker_id in await ids(fleet.client)]
        assert {int(found[1]) for found in matched if found} == {one.pid, two.pid}
        assert await asyncio.to_thread(lambda: one.poll() is two.poll() is None)
