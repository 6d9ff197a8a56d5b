"""What executor processes are for: no task costs its neighbours, its worker or a credential anything."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.asyncio import Redis

from orbiter.distributed.models import TaskStatus
from tests import keys
from tests.fleet import QUEUE, Fleet, working
from tests.isolated import IsolatedWorker, attack, check_unharmed, isolated
from tests.support import PATIENCE, WORKER_DIRECTORY, environment, slowness, wait_until, whole_lines

SEARCH = "tests.integration.search_jobs"
# Of each kind, in CI a few; as many as somebody wants: ISOLATION_RUNS=50 pytest -s, which shows how close they come.
RUNS = int(os.environ.get("ISOLATION_RUNS", "5"))
INNOCENTS = int(os.environ.get("ISOLATION_INNOCENTS", "60"))


def notes(tmp_path: Path) -> list[tuple[str, str, int, float]]:
    """Return what jobs have noted: what, task, attempt, monotonic seconds."""
    rows = [line.split() for line in whole_lines(tmp_path / "notes")]
    return [(what, task_id, int(attempt), float(at)) for what, task_id, attempt, at in rows]


def noting(tmp_path: Path, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"notes": str(tmp_path / "notes"), **metadata}}


async def has_begun(tmp_path: Path, task_id: str) -> None:
    """Wait until a task's own code runs: its record says so as soon as it is claimed, before there is a process."""
    await wait_until(lambda: any(who == task_id for _, who, _, _ in notes(tmp_path)))


# -- in somebody's program ---------------------------------------------------------------------------------------------


async def test_a_worker_in_a_program_runs_tasks_there_or_in_executor_processes(fleet: Fleet) -> None:
    async with working(fleet, worker_id="here", allow_import=["tests"]):
        ended = await fleet.ends(await fleet.broker.submit(attack("whereabouts")))
        assert ended.result == {"output": str(os.getpid())}
    async with working(fleet, worker_id="apart", allow_import=["tests"], isolation="process"):
        ended = await fleet.ends(await fleet.broker.submit(attack("whereabouts")))
        assert ended.result is not None
        assert ended.result["output"] != str(os.getpid())
        assert psutil.Process(int(ended.result["output"])).ppid() == os.getpid()


async def test_a_worker_in_a_program_without_a_file_has_executor_processes(fleet: Fleet) -> None:
    """As in a notebook: there is no module that a child could import as the main one."""
    program = f"""
import asyncio, os
from orbiter.distributed import Worker
from tests.isolated import attack
from orbiter.distributed import Client

async def main():
    worker = Worker({fleet.url!r}, isolation="process", allow_import=["tests"])
    life = asyncio.create_task(worker.start())
    async with Client({fleet.url!r}) as client:
        task = attack("whereabouts")
        handle = await client.submit(task.agent_config, "")
        print(os.getpid(), (await handle.result())["output"])
    await worker.stop()
    await life

asyncio.run(main())
"""
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-"],
        input=program,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=WORKER_DIRECTORY,
        env=environment(PYTHONPATH=str(WORKER_DIRECTORY)),
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    ours, theirs = ran.stdout.split()
    assert ours != theirs


@pytest.mark.skipif(not find_spec("ipykernel"), reason="ipykernel is not installed, which needs no other test")
async def test_a_worker_in_a_notebook_lives_from_cell_to_cell(fleet: Fleet) -> None:
    """What it runs blocks no cell, and what interrupts a cell ends nothing of it."""
    outputs = await asyncio.to_thread(cells_in_a_kernel, fleet.url)
    kernel, first, blocked, last = (output.split() for output in outputs)
    assert kernel != first
    assert blocked == ["blocked", "True"]
    assert last == [*first, "False"]


def cells_in_a_kernel(url: str) -> list[str]:
    """Run cells in a kernel of Jupyter, one of which is interrupted; return what the others print."""
    from jupyter_client.manager import KernelManager

    begin = f"""
import asyncio, os, time
from orbiter.distributed import Client, Worker
from tests.isolated import JOBS, attack

async def answer(job, **fields):
    async with Client({url!r}) as client:
        task = attack(job, **fields)
        return (await (await client.submit(task.agent_config, "", metadata=task.metadata)).result())["output"]

worker = Worker({url!r}, isolation="process", allow_import=["tests"], concurrency=4)
life = asyncio.create_task(worker.start())
print(os.getpid())
"""
    blocks = f"""
turns, blocked = 0, asyncio.create_task(answer("blocks", metadata={{"notes": {os.devnull!r}, "seconds": 2}}))
while not blocked.done():
    await asyncio.sleep(0.05)
    turns += 1
print(await blocked, turns > 5)
"""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(
        cwd=str(WORKER_DIRECTORY), env=environment(), extra_arguments=["--HistoryManager.enabled=False"]
    )
    client = manager.client()
    client.start_channels()

    def cell(code: str, *, then: Callable[[], None] | None = None) -> str:
        printed: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            content = message["content"]
            if content.get("name") == "stdout":
                printed.append(content["text"])
                if then is not None:
                    then()
            assert then is not None or message["msg_type"] != "error", content

        client.execute_interactive(code, timeout=PATIENCE, output_hook=hear)
        return "".join(printed)

    try:
        client.wait_for_ready(PATIENCE)
        outputs = [cell(begin), cell('print(await answer("whereabouts"))'), cell(blocks)]
        cell('print("sleeps"); time.sleep(300)', then=manager.interrupt_kernel)
        return [*outputs, cell('print(await answer("whereabouts"), life.done())')]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# -- the guilty among the innocent -------------------------------------------------------------------------------------


async def test_a_poison_among_many_on_two_workers_is_the_only_one_to_fail(fleet: Fleet, tmp_path: Path) -> None:
    seconds = [0.3 + 0.7 * number / INNOCENTS for number in range(INNOCENTS)]
    jobs = [attack("innocent", **noting(tmp_path, seconds=length)) for length in seconds]
    async with isolated(fleet, tmp_path, "--concurrency", "8", number=2) as workers:
        innocents = await fleet.broker.submit_many(jobs[: INNOCENTS // 2])
        poison = await fleet.broker.submit(attack("segfault"))
        innocents += await fleet.broker.submit_many(jobs[INNOCENTS // 2 :])
        check_unharmed(await fleet.all_end(innocents, 60 + INNOCENTS))
        ended = await fleet.ends(poison)
        assert ended.status == TaskStatus.FAILED
        assert "SIGSEGV" in (ended.error or ""), ended
        assert await fleet.client.xlen(keys.tagged(QUEUE, "dead")) == 1
        assert [worker.deaths for worker in workers] == [0, 0]
    await fleet.check_invariants([poison, *innocents])


async def test_a_poison_that_kills_its_supervisor_ends(fleet: Fleet, tmp_path: Path) -> None:
    jobs = [attack("innocent", **noting(tmp_path, seconds=0.5)) for _ in range(INNOCENTS // 4)]
    async with isolated(fleet, tmp_path, "--concurrency", "4", number=2, ORBITER_HEARTBEAT_TTL="2") as workers:
        poison = await fleet.broker.submit(attack("kills_supervisor", **noting(tmp_path)))
        innocents = await fleet.broker.submit_many(jobs)
        ended = await fleet.ends(poison, 120)
        check_unharmed(await fleet.all_end(innocents), runs=8)
        assert ended.status == TaskStatus.FAILED, ended
        # The default of --max-crashes, and two more.
        assert ended.losses <= 3 + 2, ended
        assert sum(worker.deaths for worker in workers) == sum(what == "kills" for what, *_ in notes(tmp_path))
        assert await fleet.client.xlen(keys.tagged(QUEUE, "dead")) == 1
        dead = {str(pid) for worker in workers for pid in worker.pids[:-1]}
        await wait_until(lambda: not [words for words in executors() if words[-1] in dead])
    await fleet.check_invariants([poison, *innocents])


def executors() -> list[list[str]]:
    """Return the commands of all executor processes; the last word is the supervisor's pid."""
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [words for words in commands if "orbiter.distributed.execution.processes.child" in words]


async def test_a_host_on_which_everything_dies_fails_no_task(fleet: Fleet, tmp_path: Path) -> None:
    async with isolated(fleet, tmp_path, "--concurrency", "4", BAD_HOST="0.4") as [bad]:
        ids = await fleet.broker.submit_many([attack("innocent", **noting(tmp_path)) for _ in range(12)])

        # In one look: between two it may have tried again.
        async def degraded() -> dict[str, Any] | None:
            listed = bad.listed()
            return listed if listed.get("state") == "degraded" else None

        listed = await wait_until(degraded, interval=0.3)
        assert "executor processes die here" in listed["problem"], listed
        other = IsolatedWorker(fleet, "good", tmp_path / "good.log", "--concurrency", "8")
        try:
            await other.ready()
            check_unharmed(await fleet.all_end(ids, 90), runs=6)
        finally:
            other.end()
        assert await fleet.client.xlen(keys.tagged(QUEUE, "dead")) == 0
        assert bad.deaths == 0
    await fleet.check_invariants(ids)


async def test_two_tasks_that_crash_end_although_nothing_else_runs(fleet: Fleet, tmp_path: Path) -> None:
    async with isolated(fleet, tmp_path, "--concurrency", "8"):
        ids = await fleet.broker.submit_many([attack("segfault", **noting(tmp_path)) for _ in range(2)])
        # No pause of a worker that takes its host for broken, the shortest of which lasts five seconds, and then ten.
        for task in await fleet.all_end(ids):
            assert (task.status, task.error_type) == (TaskStatus.FAILED, "ExecutorDiedError")
    await fleet.check_invariants(ids)


# -- what blocks, grows, and does not stop -----------------------------------------------------------------------------


async def test_a_coroutine_that_blocks_costs_its_neighbours_no_run_and_is_named(fleet: Fleet, tmp_path: Path) -> None:
    enough = tmp_path / "enough"
    fields = noting(tmp_path, until=str(enough))
    options = ("--concurrency", "8", "--stall-timeout", "600")
    async with isolated(fleet, tmp_path, *options, number=2) as workers:
        neighbours = await fleet.broker.submit_many([attack("innocent", **fields) for _ in range(8)])
        for task_id in neighbours:
            await has_begun(tmp_path, task_id)
        blocker = await fleet.broker.submit(attack("blocks", **fields))
        await has_begun(tmp_path, blocker)
        blocked = time.monotonic()

        def named() -> bool:
            said = [line for worker in workers for line in whole_lines(worker.log)]
            return any("loop blocked" in line and blocker in line and "isolation_jobs.py" in line for line in said)

        await wait_until(named)
        # For longer than any lease.
        await wait_until(lambda: time.monotonic() - blocked > 2 * max(worker.lease for worker in workers))
        assert (await fleet.store.get_status(blocker)).status == TaskStatus.RUNNING  # type: ignore[union-attr]
        enough.touch()
        check_unharmed(await fleet.all_end([*neighbours, blocker]), runs=1)
    await fleet.check_invariants([blocker, *neighbours])


async def test_a_task_that_grows_ends_alone_and_is_named(fleet: Fleet, tmp_path: Path) -> None:
    async with isolated(fleet, tmp_path, "--concurrency", "16", "--max-rss-per-process", "200M") as [worker]:
        neighbours = await fleet.broker.submit_many(
            [attack("innocent", **noting(tmp_path, seconds=8)) for _ in range(15)]
        )
        for task_id in neighbours:
            await fleet.runs(task_id)
        grower = await fleet.broker.submit(attack("grows", **noting(tmp_path)))
        largest, shown = 0, 0

        async def ended() -> bool:
            nonlocal largest
            largest = max(largest, worker.resident())
            task = await fleet.store.get_status(grower)
            return task is not None and task.status.terminal

        await fleet.runs(grower)
        shown = (await wait_until(worker.listed))["rss_bytes"]
        await wait_until(ended, interval=0.1)
        task = await fleet.ends(grower)
        assert (task.status, task.error_type) == (TaskStatus.FAILED, "MemoryLimitError"), task
        assert "out of memory" in (task.error or "")
        check_unharmed(await fleet.all_end(neighbours))
        assert largest < 500_000_000
        assert shown > 20_000_000
        assert worker.deaths == 0
    await fleet.check_invariants([grower, *neighbours])


async def test_functions_that_do_not_stop_leave_no_threads(fleet: Fleet, tmp_path: Path) -> None:
    async with isolated(fleet, tmp_path, "--concurrency", "8") as [worker]:
        before = worker.threads()
        stuck = [attack("stuck", timeout_seconds=0.5, max_retries=0) for _ in range(40)]
        ids = await fleet.broker.submit_many(stuck)
        largest = 0

        async def over() -> bool:
            nonlocal largest
            largest = max(largest, worker.threads())
            return all(task and task.status.terminal for task in await fleet.store.get_many(ids))

        await wait_until(over, 120 * slowness(), interval=0.1)
        assert {task.error_type for task in await fleet.all_end(ids)} == {"TaskTimeoutError"}
        assert largest < 80, (before, largest)
        await wait_until(lambda: worker.threads() <= before + 4)
        neighbour = await fleet.broker.submit(attack("innocent", **noting(tmp_path)))
        check_unharmed([await fleet.ends(neighbour)], runs=1)
        assert worker.deaths == 0
    assert "traceback" not in worker.text.lower()


# -- one run at a time -------------------------------------------------------------------------------------------------


def show_gap(what: str, seconds: float) -> None:
    """Print how long before its successor a run has ended: pytest -s shows it."""
    print(f"{what}: {seconds * 1000:.0f} ms before its successor")


def check_no_overlap(tmp_path: Path, task_id: str, what: str, *, runs: int) -> int:
    """Check that a task's run showed no sign of life once its successor had started; return how many successors."""
    last: dict[int, float] = {}
    first: dict[int, float] = {}
    for sign, who, attempt, at in notes(tmp_path):
        if who == task_id:
            first.setdefault(attempt, at) if sign == "start" else None
            last[attempt] = max(last.get(attempt, 0.0), at)
    assert len(first) >= runs, first
    for earlier, later in pairwise(sorted(first)):
        show_gap(what, first[later] - last[earlier])
        assert last[earlier] < first[later], (task_id, earlier, last[earlier] - first[later])
    return len(first) - 1


@pytest.mark.parametrize("job", ["deaf_thread", "deaf_coroutine"])
async def test_a_deaf_run_is_over_before_its_retry_after_a_timeout(fleet: Fleet, tmp_path: Path, job: str) -> None:
    fields = {"timeout_seconds": 1.0 * slowness(), "max_retries": 20, **noting(tmp_path, ends_later=True)}
    seen = 0
    async with isolated(fleet, tmp_path, "--concurrency", "8", "--retry-backoff", "0", number=2):
        while seen < RUNS:
            # Who is beside it keeps its process, and is not to end for its sake.
            beside = await fleet.broker.submit_many([attack("innocent", **noting(tmp_path, seconds=4)) for _ in "1234"])
            ids = await fleet.broker.submit_many([attack(job, **fields) for _ in range(min(5, RUNS - seen))])
            for task in await fleet.all_end(ids):
                assert (task.status, task.crashes) == (TaskStatus.COMPLETED, 0), task
                # On a busy machine the time of a run may be over before it has begun.
                seen += check_no_overlap(tmp_path, task.task_id, f"timeout {job}", runs=1)
            check_unharmed(await fleet.all_end(beside), runs=1)


@pytest.mark.parametrize("job", ["deaf_thread", "deaf_coroutine"])
async def test_a_deaf_run_is_over_before_its_successor_after_a_drain(fleet: Fleet, tmp_path: Path, job: str) -> None:
    fields = noting(tmp_path, ends_later=True)
    async with isolated(fleet, tmp_path, "--concurrency", "8", "--drain-timeout", "0.5", number=2) as workers:
        for start in range(0, RUNS, 5):
            ids = await fleet.broker.submit_many([attack(job, **fields) for _ in range(min(5, RUNS - start))])
            for task_id in ids:
                await has_begun(tmp_path, task_id)
            for worker in workers:
                drained, pid = time.monotonic(), worker.process.pid
                worker.process.terminate()
                await wait_until(lambda worker=worker, pid=pid: worker.process.pid != pid)  # type: ignore[misc]
                assert time.monotonic() - drained < 5 * slowness()
                await worker.ready()
            for task in await fleet.all_end(ids):
                assert (task.status, task.crashes) == (TaskStatus.COMPLETED, 0), task
                check_no_overlap(tmp_path, task.task_id, f"drain {job}", runs=2)


@pytest.mark.parametrize("job", ["deaf_thread", "deaf_coroutine"])
async def test_a_deaf_run_ends_soon_after_it_is_cancelled(fleet: Fleet, tmp_path: Path, job: str) -> None:
    fields = noting(tmp_path, seconds=300)
    async with isolated(fleet, tmp_path, "--concurrency", "8") as [worker]:
        neighbour = await fleet.broker.submit(attack("innocent", **noting(tmp_path, seconds=4)))
        await has_begun(tmp_path, neighbour)
        ids = await fleet.broker.submit_many([attack(job, **fields) for _ in range(2)])
        for task_id in ids:
            await has_begun(tmp_path, task_id)
            await fleet.broker.cancel(task_id)
        assert {task.status for task in await fleet.all_end(ids)} == {TaskStatus.CANCELLED}
        check_unharmed([await fleet.ends(neighbour)], runs=1)
        # Once its neighbour has ended nothing keeps the process in which it would go on.
        await wait_until(lambda: time.monotonic() - max(row[3] for row in notes(tmp_path)) > 1)
        assert worker.deaths == 0


@pytest.mark.parametrize("job", ["deaf_thread", "deaf_coroutine"])
async def test_a_deaf_run_is_over_before_what_comes_after_its_cancellation(
    fleet: Fleet, tmp_path: Path, job: str
) -> None:
    """A cancelled task has no other run: what somebody submits in its place is its successor."""
    async with isolated(fleet, tmp_path, "--concurrency", "5", "--processes", "5"):
        for start in range(0, RUNS, 5):
            ids = await fleet.broker.submit_many(
                [attack(job, **noting(tmp_path, seconds=300)) for _ in range(min(5, RUNS - start))]
            )
            for task_id in ids:
                await has_begun(tmp_path, task_id)
                await fleet.broker.cancel(task_id)
            assert {task.status for task in await fleet.all_end(ids)} == {TaskStatus.CANCELLED}
            successors = await fleet.broker.submit_many(
                [attack("innocent", **noting(tmp_path, seconds=0)) for _ in ids]
            )
            check_unharmed(await fleet.all_end(successors), runs=1)
            first = min(at for _, who, _, at in notes(tmp_path) if who in successors)
            for task_id in ids:
                last = max(at for _, who, _, at in notes(tmp_path) if who == task_id)
                show_gap(f"cancel {job}", first - last)
                assert last < first, (task_id, last - first)


async def test_runs_of_a_frozen_supervisor_end_with_their_lease(fleet: Fleet, tmp_path: Path) -> None:
    async with isolated(fleet, tmp_path, "--concurrency", "4", number=2) as workers:
        task_id = await fleet.broker.submit(attack("deaf_thread", **noting(tmp_path, ends_later=True)))
        await fleet.runs(task_id)
        task = await fleet.store.get_status(task_id)
        frozen = next(worker for worker in workers if task and worker.worker_id == task.worker_id)
        await has_begun(tmp_path, task_id)
        os.kill(frozen.process.pid, signal.SIGSTOP)
        try:
            ended = await fleet.ends(task_id)
            assert (ended.status, ended.crashes) == (TaskStatus.COMPLETED, 0), ended
        finally:
            os.kill(frozen.process.pid, signal.SIGCONT)
        check_no_overlap(tmp_path, task_id, "frozen deaf_thread", runs=2)


async def test_what_a_run_has_started_ends_with_it(fleet: Fleet, tmp_path: Path) -> None:
    """A program that a stopped function waits for."""
    number = str(70_000 + secrets.randbelow(9000))
    async with isolated(fleet, tmp_path, "--concurrency", "4") as [worker]:
        job = attack("orphan", timeout_seconds=1, max_retries=0, **noting(tmp_path, sleep=number))
        task = await fleet.ends(await fleet.broker.submit(job))
        assert task.error_type == "TaskTimeoutError", task
        await wait_until(lambda: not sleeping(number))
        assert worker.deaths == 0


def sleeping(number: str) -> list[int]:
    """Return the processes that sleep for so long."""
    return [process.pid for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == ["sleep", number]]


# -- credentials -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def guarded(fleet: Fleet) -> AsyncIterator[tuple[Fleet, str]]:
    """A fleet whose Redis has a user with a password, and that password's digest."""
    password = f"secret-{secrets.token_hex(16)}"
    await fleet.client.acl_setuser(
        "worker", enabled=True, passwords=[f"+{password}"], keys="*", channels="*", categories=["+@all"]
    )
    url = fleet.url.replace("//", f"//worker:{password}@")
    client = Redis.from_url(url, decode_responses=True)
    try:
        yield Fleet(url, client), hashlib.sha256(password.encode()).hexdigest()
    finally:
        await client.aclose()
        await fleet.client.acl_deluser("worker")


@pytest.mark.parametrize("isolation", ["process", "task", "none"])
async def test_a_task_that_searches_all_it_can_read_finds_no_password(
    guarded: tuple[Fleet, str], tmp_path: Path, isolation: str
) -> None:
    """Without isolation it does, which shows that the search is one."""
    fleet, digest = guarded
    await fleet.broker.connect()
    # Root may read everything.
    wrap = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs") if os.geteuid() == 0 else ()
    options = ("--allow-import", SEARCH, "--isolation", isolation)
    worker = IsolatedWorker(fleet, "w", tmp_path / "w.log", *options, wrap=wrap)
    # This process knows the password, and Redis; they are of the same user only here.
    ours = psutil.Process()
    others = [ours.pid, *(process.pid for process in ours.children() if process.pid != worker.process.pid)]
    try:
        if isolation == "none":
            await wait_until(lambda: "ready: queue" in worker.text)
        else:
            await worker.ready()
        search = attack("searches", module=SEARCH, metadata={"sha256": digest, "others": others})
        task = await fleet.ends(await fleet.broker.submit(search), 120)
        assert task.status == TaskStatus.COMPLETED, task
        said: dict[str, Any] = task.result or {}
        said = json.loads(said["output"]) if isinstance(said.get("output"), str) else said
        assert said["may"] == 0
        assert {"environment", "proc", "etc"} <= set(said["read"])
        if isolation == "none":
            assert {where.rpartition("/")[2] for where in said["found"]} >= {"environment", "environ", "mem"}
        else:
            assert said["found"] == []
            assert said["supervisor"] == {}
    finally:
        worker.end()


# -- a flood -----------------------------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.parametrize("job", ["floods", "floods_in_loop"])
async def test_a_flood_delays_no_stream_beside_it_and_takes_little_memory(
    fleet: Fleet, tmp_path: Path, job: str
) -> None:
    """A flood takes a share of the loop, and of Redis; nobody waits behind it."""
    until = tmp_path / "until"
    async with isolated(fleet, tmp_path, "--concurrency", "16", "--max-events", "100000000") as [worker]:
        before = await latency(fleet)
        calm = worker.resident()
        flood = await fleet.broker.submit(attack(job, metadata={"until": str(until)}, timeout_seconds=60))
        await fleet.runs(flood)
        beside = await latency(fleet)
        loud = worker.resident()
        # It collects an answer that is too large to be one.
        await fleet.broker.cancel(flood)
        assert (await fleet.ends(flood)).status == TaskStatus.CANCELLED
        # A turn of the loop, and of the interpreter, is 5 ms.
        assert beside < 3 * before + 0.02 * slowness(), (before, beside)
        assert loud - calm < 64_000_000
        assert worker.log.stat().st_size < 50_000_000
        assert worker.deaths == 0


async def latency(fleet: Fleet) -> float:
    """Return the seconds, in the middle, from what streams say to when Redis has it."""
    ids = await fleet.broker.submit_many([attack("streams", metadata={"words": 40}) for _ in range(15)])
    assert {task.status for task in await fleet.all_end(ids)} == {TaskStatus.COMPLETED}
    late: list[float] = []
    for task_id in ids:
        for entry, fields in await fleet.client.xrange(keys.stream(task_id)):
            event = json.loads(fields["event"])
            said = [float(word) for word in event.get("text", "").split()] if event["type"] == "text" else []
            late += [int(entry.partition("-")[0]) / 1000 - at for at in said]
    assert len(late) == 15 * 40
    return sorted(late)[len(late) // 2]


# -- what runs start in a session of their own ------------------------------------------------------------------------


async def test_a_process_in_a_session_of_its_own_harms_nobody(fleet: Fleet, tmp_path: Path) -> None:
    number = str(70_000 + secrets.randbelow(9000))
    async with isolated(fleet, tmp_path, "--concurrency", "4", "--max-crashes", "1") as [worker]:
        fields = noting(tmp_path, sleep=number)
        beside = await fleet.broker.submit_many([attack("innocent", **fields) for _ in range(3)])
        for task_id in beside:
            await fleet.runs(task_id)
        daemon, dies = await fleet.broker.submit_many([attack(job, **fields) for job in ("daemon", "daemon_and_dies")])
        assert (await fleet.ends(daemon)).status == TaskStatus.COMPLETED
        ended = await fleet.ends(dies)
        assert "exited with status 7" in (ended.error or ""), ended
        check_unharmed(await fleet.all_end(beside))
        assert worker.deaths == 0
    # Nothing but a cgroup ends these with the worker.
    for pid in sleeping(number):
        os.kill(pid, signal.SIGKILL)
