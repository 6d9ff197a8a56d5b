"""ProcessExecutor: which process runs what, what is stopped how, and who is charged."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from orbiter.distributed.broker.records import Claim
from orbiter.distributed.connection.deadlines import Deadlines
from orbiter.distributed.errors import describe, kind_of
from orbiter.distributed.execution.endings import (
    Cancelled,
    Completed,
    Died,
    Ending,
    Failed,
    Lost,
    Requeued,
    StopReason,
)
from orbiter.distributed.execution.processes import executor_process, fitness, keeper, watch
from orbiter.distributed.execution.processes.cgroups import Cgroups, hard_limit
from orbiter.distributed.execution.processes.executor_process import ExecutorProcess
from orbiter.distributed.execution.processes.pool import ProcessExecutor
from orbiter.distributed.execution.slot import Slot
from orbiter.distributed.settings import WorkerSettings
from tests.support import slowness
from tests.unit.execution.processes.support import TARGETS, WITHIN, Sent, runs, until

SLOW = "tests.unit.execution.processes.slow_import"


def shortest() -> int:
    """Return the shortest lease with which a busy machine is not taken for one that is stuck, seconds."""
    return round(slowness())


class Intake:
    """Records what it is told."""

    def __init__(self) -> None:
        self.available = True
        self.delegated = 0
        self.told: list[tuple[bool, int]] = []

    def changed(self) -> None:
        self.told.append((self.available, self.delegated))


class Running:
    """An executor at work, and what became of the runs."""

    def __init__(self, **settings: Any) -> None:
        self.settings = WorkerSettings.of(
            **{"worker_id": "w1", "isolation": "process", "concurrency": 4, "allow_import": (TARGETS,), **settings}
        )
        self.intake, self.sent = Intake(), Sent()
        self.executor = ProcessExecutor(self.settings, intake=self.intake, secrets=("s3cret",))
        self.slots: dict[str, Slot] = {}
        self.over: dict[str, float] = {}
        self._deadlines = Deadlines()

    def begin(self, ran: Claim, lease: float = 30.0) -> Slot:
        """Run a claim, as the worker's slots do."""
        slot = self.slots[ran.task.task_id] = self.sent.slot(ran, lease)
        self.over.pop(ran.task.task_id, None)
        slot.begin(
            self.executor.execute(slot),
            deadlines=self._deadlines,
            on_over=lambda slot: self.over.update({ran.task.task_id: time.monotonic()}),
            abandon_after=self.executor.abandon_after,
        )
        if (limit := self.executor.time_limit(ran)) is not None:
            self._deadlines.add(slot, limit)
        return slot

    async def started(self, *task_ids: str) -> None:
        await until(lambda: all(self.sent.text(task_id).startswith("started") for task_id in task_ids))

    async def ending(self, task_id: str = "t1") -> Ending:
        await until(lambda: task_id in self.over)
        return self.slots[task_id].ending()

    async def run(self, ran: Claim) -> Ending:
        self.begin(ran)
        return await self.ending(ran.task.task_id)

    async def answer(self, ran: Claim) -> dict[str, Any]:
        ending = await self.run(ran)
        assert isinstance(ending, Completed), ending
        found: dict[str, Any] = json.loads(ending.text)
        return found

    @property
    def load(self) -> dict[int, list[str]]:
        """The tasks in each process."""
        return {
            process.number: [run.slot.claim.task.task_id for run in process.runs.values()]
            for process in self.executor._keeper.processes
        }

    @property
    def pids(self) -> set[int]:
        return {process.pid for process in self.executor._keeper.processes if process.up}


def is_executor_process(child: psutil.Process) -> bool:
    """Return whether a child of ours is one; what has ended and is not yet waited for has no command line."""
    try:
        return "processes.child" in " ".join(child.cmdline())
    except psutil.ZombieProcess:
        return True
    except psutil.NoSuchProcess:
        return False


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Running]:
    """Give an executor whose first processes are ready; all are gone at the end."""
    running = Running(**settings)
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    tasks = [asyncio.create_task(running.executor.run()), asyncio.create_task(running.sent.publisher.run())]
    me = psutil.Process()
    try:
        await until(lambda: len(running.pids) >= running.settings.processes or running.executor.degraded)
        yield running
    finally:
        await running.executor.drain(time.monotonic(), asyncio.Event())
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await until(lambda: not running.executor._keeper.processes)
    await until(lambda: not [child for child in me.children() if is_executor_process(child)])
    assert faults == []


# -- who runs where --------------------------------------------------------------------------------------------------


async def test_tasks_spread_over_processes_up_to_their_slots() -> None:
    async with running(concurrency=5, processes=2) as pool:
        for number in range(7):
            pool.begin(runs("sleeps", f"t{number}"))
        await pool.started("t0", "t1", "t2", "t3", "t4", "t5")
        # Half of the slots each, rounded up; the last one waits for its turn.
        assert sorted(map(len, pool.load.values())) == [3, 3]
        assert pool.load[1] == ["t0", "t2", "t4"]
        pool.slots["t1"].stop(StopReason.CANCELLED)
        assert await pool.ending("t1") == Cancelled()
        await pool.started("t6")
        assert "t6" in pool.load[2]
        assert pool.intake.told == []


async def test_task_that_waits_for_a_process_can_be_stopped() -> None:
    async with running(concurrency=1) as pool:
        pool.begin(runs("sleeps", "t1"))
        await pool.started("t1")
        pool.begin(runs("sleeps", "t2"))
        await asyncio.sleep(0)
        pool.slots["t2"].stop(StopReason.REQUEUED)
        assert isinstance(await pool.ending("t2"), Requeued)
        assert pool.load == {1: ["t1"]}


async def test_no_more_processes_for_single_runs_start_at_once_on_a_slow_host() -> None:
    async with running() as found:
        keeper_of = found.executor._keeper
        await keeper_of._start(single=True)
        (process,) = (each for each in keeper_of.processes if each.single)
        await until(lambda: process.up)
        keeper_of._demand._alone += [time.monotonic() - 60] * 9
        assert keeper_of._alone_at_once > keeper.ALONE_AT_ONCE
        process.up = False
        assert keeper_of._alone_at_once == keeper.ALONE_AT_ONCE
        process.up = True
        keeper_of._demand._alone.clear()


async def test_suspect_runs_alone_and_is_waited_for_by_nobody() -> None:
    async with running(concurrency=4) as pool:
        pool.begin(runs("sleeps", "innocent"))
        await pool.started("innocent")
        suspects = [runs("sleeps", f"s{number}") for number in range(3)]
        for suspect in suspects:
            suspect.alone = "child"
            assert pool.executor.time_limit(suspect) is None
            pool.begin(suspect)
        await pool.started("s0", "s1")
        pool.begin(runs("sleeps", "another"))
        await pool.started("another")
        # Two at once; the third waits.
        assert sorted(pool.load.values()) == [["innocent", "another"], ["s0"], ["s1"]]
        pool.slots["s0"].stop(StopReason.CANCELLED)
        assert await pool.ending("s0") == Cancelled()
        await pool.started("s2")


async def test_suspect_that_waited_has_its_whole_time() -> None:
    async with running(concurrency=1, heartbeat_ttl=shortest()) as pool:
        suspect = runs("sleeps", "s", timeout_seconds=0.3 * slowness())
        suspect.alone = "child"
        slot = pool.begin(suspect)
        await pool.started("s")
        ending = await pool.ending("s")
        assert isinstance(ending, Failed)
        assert slot.reason is StopReason.TIMED_OUT


async def test_each_task_has_a_process_of_its_own_where_that_is_asked_for() -> None:
    async with running(isolation="task", concurrency=3) as pool:
        pool.begin(runs("sleeps", "t0"))
        await pool.started("t0")
        first, second = [await pool.answer(runs("echo", f"t{number}")) for number in (1, 2)]
        assert first["pid"] != second["pid"]
        assert all(len(tasks) <= 1 for tasks in pool.load.values())
        # A process that ran its task is gone.
        await until(lambda: first["pid"] not in pool.pids)


async def test_no_two_suspects_are_in_one_worker_at_once_but_others_are() -> None:
    async with running(concurrency=4) as pool:
        first, second = runs("sleeps", "first"), runs("sleeps", "second")
        first.alone = second.alone = "worker"
        pool.begin(first)
        await pool.started("first")
        pool.begin(second)
        assert isinstance(await pool.answer(runs("echo", "t1", text="1")), dict)
        assert pool.intake.available
        assert "second" not in str(pool.load)
        pool.slots["first"].stop(StopReason.CANCELLED)
        await pool.started("second")
        assert await pool.ending("first") == Cancelled()
        pool.slots["second"].stop(StopReason.CANCELLED)
        assert await pool.ending("second") == Cancelled()


async def test_process_is_replaced_after_so_many_tasks() -> None:
    async with running(max_tasks_per_process=3) as pool:
        pool.begin(runs("sleeps", "long"))
        await pool.started("long")
        pids = [(await pool.answer(runs("echo", f"t{number}")))["pid"] for number in range(4)]
        assert pids[0] == pids[1] != pids[2] == pids[3]
        # What runs in the old one ends there.
        assert pool.load[1] == ["long"]
        pool.slots["long"].stop(StopReason.CANCELLED)
        assert await pool.ending("long") == Cancelled()
        await until(lambda: pids[0] not in pool.pids)


async def test_tasks_find_no_secret_in_their_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS", "redis://:s3cret@host")
    monkeypatch.setenv("ORBITER_REDIS_URL", "redis://host")
    monkeypatch.setenv("MODEL_KEY", "sk-1")
    async with running() as pool:
        environ = (await pool.answer(runs("environment")))["environ"]
    assert not {"REDIS", "ORBITER_REDIS_URL"} & set(environ)
    assert environ["MODEL_KEY"] == "sk-1"


# -- what does not stop ----------------------------------------------------------------------------------------------


async def test_run_that_is_stopped_when_it_has_just_ended_keeps_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = ProcessExecutor.ended

    def stop(executor: ProcessExecutor, process: Any, run: Any, ending: Any) -> None:
        ended(executor, process, run, ending)
        run.slot.stop(StopReason.REQUEUED)

    monkeypatch.setattr(ProcessExecutor, "ended", stop)
    async with running() as pool:
        assert isinstance(await pool.run(runs("echo")), Completed)


async def test_import_that_takes_too_long_fails_its_task_for_good() -> None:
    limit = round(0.5 * slowness(), 1)
    async with running(heartbeat_ttl=shortest(), allow_import=("tests.unit.execution.processes",)) as pool:
        slow = runs("echo", timeout_seconds=limit, max_retries=3)
        slow.task.agent_config["target"] = f"{SLOW}:echo"
        pool.begin(runs("sleeps", "neighbour"))
        ending = await pool.run(slow)
        assert isinstance(ending, Failed)
        assert kind_of(ending.error) == "ConfigurationError"
        assert describe(ending.error) == f"importing {SLOW} took longer than timeout_seconds={limit:g}"
        assert "neighbour" not in pool.over


@pytest.mark.parametrize("target", ["in_thread_for_ever", "deaf_coroutine"])
async def test_deaf_run_that_is_repeated_holds_its_slot_until_its_process_is_gone(target: str) -> None:
    async with running(heartbeat_ttl=shortest()) as pool:
        [process] = pool.executor._keeper.processes
        pool.begin(runs(target, timeout_seconds=0.5 * slowness(), max_retries=3))
        pool.begin(runs("sleeps", "t2"))
        await pool.started("t1", "t2")
        await until(lambda: process.retired)
        await until(lambda: len(pool.executor._keeper.processes) == 2)
        # Its neighbour goes on; so does it, and nobody may run it elsewhere yet.
        assert set(pool.over) == set()
        pool.slots["t2"].stop(StopReason.CANCELLED)
        assert await pool.ending("t2") == Cancelled()
        ending = await pool.ending("t1")
        assert isinstance(ending, Failed)
        assert kind_of(ending.error) == "TaskTimeoutError"
        assert not psutil.pid_exists(process.pid)


async def test_deaf_run_that_nobody_repeats_is_released_at_the_grace() -> None:
    async with running(heartbeat_ttl=shortest()) as pool:
        pool.begin(runs("in_thread_for_ever", timeout_seconds=0.5 * slowness(), max_retries=0))
        pool.begin(runs("sleeps", "t2"))
        await pool.started("t1", "t2")
        began = time.monotonic()
        ending = await pool.ending("t1")
        assert isinstance(ending, Failed)
        assert pool.over["t1"] - began < 2 * slowness()
        assert pool.load[1] == ["t1", "t2"]


@pytest.mark.parametrize(
    ("reason", "ending"), [(StopReason.REQUEUED, Requeued), (StopReason.LOST, Lost)], ids=["requeued", "lost"]
)
async def test_run_that_must_be_gone_takes_its_process_along(reason: StopReason, ending: type) -> None:
    async with running(heartbeat_ttl=shortest()) as pool:
        [process] = pool.executor._keeper.processes
        pool.begin(runs("in_thread_for_ever"))
        pool.begin(runs("sleeps", "t2"))
        await pool.started("t1", "t2")
        pool.slots["t1"].stop(reason)
        assert isinstance(await pool.ending("t1"), ending)
        assert not psutil.pid_exists(process.pid)
        # Its neighbour is not charged.
        assert isinstance(await pool.ending("t2"), Requeued)
        assert not pool.executor.degraded


async def test_loop_that_is_blocked_too_long_costs_the_blocker_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    async with running(stall_timeout=slowness()) as pool:
        pool.begin(runs("sleeps", "innocent"))
        await pool.started("innocent")
        pool.begin(runs("blocks", "blocker"))
        await pool.started("blocker")
        await until(lambda: pool.executor.health().blocked_by == "blocker")
        assert pool.executor.health().loop_lag_ms > 400
        blocker = await pool.ending("blocker")
        assert isinstance(await pool.ending("innocent"), Requeued)
    assert isinstance(blocker, Died)
    assert (blocker.guilty, blocker.host) == (True, False)
    assert "its loop was blocked for" in blocker.reason
    assert "targets.py:" in blocker.reason
    assert any("loop blocked for" in record.message and "blocker" in record.message for record in caplog.records)


# -- who is charged --------------------------------------------------------------------------------------------------


async def test_death_charges_only_what_ran_there_and_names_the_cause() -> None:
    async with running(concurrency=4, processes=2) as pool:
        await pool.answer(runs("echo", "before"))
        pool.begin(runs("sleeps", "elsewhere"))
        pool.begin(runs("sleeps", "beside"))
        pool.begin(runs("sleeps", "other"))
        await pool.started("elsewhere", "beside", "other")
        [beside] = next(tasks for tasks in pool.load.values() if len(tasks) == 1)
        pool.begin(runs("ends_process", "poison", text="segfault"))
        ending = await pool.ending("poison")
        reason = "its executor process was killed by SIGSEGV"
        assert ending == Died(reason, "ExecutorDiedError", guilty=True, host=False)
        assert await pool.ending(beside) == ending
        assert set(pool.over) == {"before", "poison", beside}


async def test_bad_host_claims_nothing_then_tries_one_task_then_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitness, "PROBE_AFTER", 0.3 * slowness())
    async with running(concurrency=4) as bad:
        endings = [await bad.run(runs("ends_process", f"t{number}", text="3")) for number in range(3)]
        hosts = [ending.host for ending in endings if isinstance(ending, Died)]
        assert hosts == [False, False, True]
        assert not any(ending.guilty for ending in endings if isinstance(ending, Died))
        assert bad.executor.degraded
        assert not bad.intake.available
        assert "executor processes die here" in bad.executor.health().problem
        # What was claimed before goes elsewhere, uncharged.
        await until(lambda: bad.intake.available)
        assert (bad.intake.delegated, bad.executor.degraded) == (3, False)
        await bad.answer(runs("echo", "well"))
        assert bad.intake.told[-1] == (True, 0)
        assert bad.executor.health().problem == ""


async def test_poison_that_comes_again_and_again_leaves_the_host_well() -> None:
    async with running() as pool:
        for _ in range(4):
            ending = await pool.run(runs("ends_process", "poison", text="3"))
            assert isinstance(ending, Died)
            assert not ending.host
        assert not pool.executor.degraded
        assert pool.intake.available


async def test_processes_that_do_not_start_are_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fitness, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(fitness, "PROBE_AFTER", 0.05)
    module = executor_process.MODULE
    monkeypatch.setattr(executor_process, "MODULE", "no_such_module_of_ours")
    async with running() as bad:
        await until(lambda: bad.executor.degraded)
        assert "No module named no_such_module_of_ours" in bad.executor.health().problem
        ending = await bad.run(runs("echo"))
        assert isinstance(ending, Died)
        assert (ending.guilty, ending.host) == (False, True)
        monkeypatch.setattr(executor_process, "MODULE", module)
        await until(lambda: not bad.executor.degraded)
        assert bad.intake.available
        await bad.answer(runs("echo", "t2"))


async def test_module_that_cannot_be_imported_is_in_the_health() -> None:
    async with running(allow_import=(TARGETS, "no_such_module_of_ours")) as pool:
        await until(lambda: pool.executor.health().failed_imports)
        [failed] = pool.executor.health().failed_imports
        assert failed.startswith("no_such_module_of_ours: ModuleNotFoundError")
        ending = await pool.run(runs("echo"))
        assert isinstance(ending, Completed)


async def test_task_that_grows_beyond_the_limit_ends_alone() -> None:
    async with running(max_rss_per_process=120_000_000) as pool:
        pool.begin(runs("sleeps", "innocent"))
        await pool.started("innocent")
        ending = await pool.run(runs("grows", "grower", text="200000000"))
        assert isinstance(ending, Failed)
        assert kind_of(ending.error) == "MemoryLimitError"
        assert "ORBITER_MAX_RSS_PER_PROCESS" in describe(ending.error)
        # It was weighed while it was large: that ends nobody who is there when it is not any more.
        await asyncio.sleep(1)
        assert "innocent" not in pool.over


async def test_neighbour_of_a_task_that_has_left_memory_behind_finishes() -> None:
    limit = 120_000_000
    async with running(max_rss_per_process=limit) as found:
        found.begin(runs("sleeps", "innocent"))
        await found.started("innocent")
        (process,) = found.executor._keeper.processes
        ending = await found.run(runs("grows_and_leaves", "grower", text="170000000"))
        assert isinstance(ending, Failed)
        assert kind_of(ending.error) == "MemoryLimitError", describe(ending.error)
        # More than what another process would be killed for, and for longer than that takes.
        await until(lambda: limit * watch.TOO_LARGE < process.resident < hard_limit(limit))
        await asyncio.sleep(watch.LONGEST_GRACE + 1)
        assert (process.retired, process.killed_for, "innocent" in found.over) == (True, "", False)


async def test_neighbour_of_a_task_that_dies_when_it_is_stopped_for_its_memory_is_no_suspect() -> None:
    async with running(max_rss_per_process=120_000_000) as found:
        found.begin(runs("sleeps", "innocent"))
        await found.started("innocent")
        (process,) = found.executor._keeper.processes
        found.begin(runs("grows_deaf", "grower", text="200000000"))
        await until(lambda: any(run.instead for run in process.runs.values()))
        os.kill(process.pid, signal.SIGKILL)
        grower, innocent = await found.ending("grower"), await found.ending("innocent")
        assert isinstance(grower, Failed)
        assert kind_of(grower.error) == "MemoryLimitError"
        assert isinstance(innocent, Requeued), innocent


async def test_neighbour_of_a_task_that_keeps_its_memory_is_not_charged() -> None:
    async with running(max_rss_per_process=120_000_000) as pool:
        pool.begin(runs("sleeps", "innocent"))
        await pool.started("innocent")
        ending = await pool.run(runs("grows_deaf", "grower", text="200000000"))
        assert isinstance(ending, Failed)
        assert kind_of(ending.error) == "MemoryLimitError"
        innocent = await pool.ending("innocent")
        assert isinstance(innocent, Requeued), innocent


async def test_process_that_grew_by_nobody_it_could_ask_ends_with_its_only_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "SCAN_EVERY", 0.2)
    async with running(max_rss_per_process=120_000_000, heartbeat_ttl=1) as heavy:
        ending = await heavy.run(runs("grows_in_a_child", "grower", text="200000000"))
        assert isinstance(ending, Failed)
        assert kind_of(ending.error) == "MemoryLimitError"
        assert "ran out of memory" in describe(ending.error)


# -- memory, where each process has a cgroup -------------------------------------------------------------------------


@asynccontextmanager
async def in_cgroups(directory: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> AsyncIterator[Running]:
    """Give an executor whose processes have cgroups, as far as a directory is one."""
    monkeypatch.setattr(keeper, "cgroups_of_this_process", lambda: Cgroups(directory))
    async with running(**settings) as found:
        yield found
        # What is no cgroup cannot be removed as one; nothing is written to it any more once its imports are done.
        await until(lambda: all(process.baseline for process in found.executor._keeper.processes))
        for process in found.executor._keeper.processes:
            empty(process)


def empty(process: ExecutorProcess) -> Path:
    """Remove the files of its cgroup: those of a real one are no hindrance."""
    assert process.cgroup is not None
    for path in process.cgroup.directory.iterdir():
        path.unlink()
    return process.cgroup.directory


def kill_as_kernel(process: ExecutorProcess, events: str) -> None:
    """End a process as the kernel does for want of memory."""
    assert process.cgroup is not None
    (process.cgroup.directory / "memory.events.local").write_text(events)
    os.kill(process.pid, signal.SIGKILL)


async def test_process_is_in_its_cgroup_before_it_runs_a_task(
    tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_cgroups(tree(), monkeypatch, processes=2) as found:
        for process in found.executor._keeper.processes:
            assert process.cgroup is not None
            assert (process.cgroup.directory / "cgroup.procs").read_text() == str(process.pid)
        directories = {process.cgroup.directory for process in found.executor._keeper.processes if process.cgroup}
        assert len(directories) == 2


async def test_task_whose_process_the_kernel_ends_alone_for_its_memory_fails(
    tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_cgroups(tree(), monkeypatch, max_rss_per_process=200_000_000) as found:
        found.begin(runs("sleeps", "leaps"))
        await found.started("leaps")
        kill_as_kernel(found.executor._keeper.processes[0], "oom 1\noom_kill 1\n")
        ending = await found.ending("leaps")
        assert isinstance(ending, Failed), ending
        assert kind_of(ending.error) == "MemoryLimitError"
        assert "out of memory" in describe(ending.error)
        assert "328 MB" in describe(ending.error)


async def test_tasks_whose_process_the_kernel_ends_for_another_limit_are_not_charged(
    tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_cgroups(tree(), monkeypatch) as found:
        found.begin(runs("sleeps", "innocent"))
        await found.started("innocent")
        kill_as_kernel(found.executor._keeper.processes[0], "oom 0\noom_kill 1\n")
        ending = await found.ending("innocent")
        assert isinstance(ending, Died), ending
        assert not ending.guilty
        assert "out of memory" in ending.reason


async def test_process_is_replaced_once_it_was_refused_a_process(
    tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SCAN_EVERY", 0.1)
    async with in_cgroups(tree(), monkeypatch) as found:
        found.begin(runs("sleeps", "bomb"))
        await found.started("bomb")
        (old,) = found.executor._keeper.processes
        assert old.cgroup is not None
        (old.cgroup.directory / "pids.events").write_text("max 3\n")
        await until(lambda: old.retired)
        assert (await found.answer(runs("echo", "t2")))["pid"] != old.pid
        found.slots["bomb"].stop(StopReason.CANCELLED)
        empty(old)
        await until(lambda: old not in found.executor._keeper.processes)


async def test_no_cgroup_is_left_of_processes_that_were_replaced(
    tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tree()
    async with in_cgroups(directory, monkeypatch, max_tasks_per_process=1) as found:
        for number in range(3):
            process = found.executor._keeper.processes[-1]
            await found.answer(runs("echo", f"t{number}"))
            await until(lambda process=process: process.gone.is_set())  # type: ignore[misc]
            left = empty(process)
            await until(lambda left=left: not left.exists())  # type: ignore[misc]
            await until(lambda: len(found.pids) == 1)
    assert [path.name for path in directory.iterdir() if path.is_dir()] == ["supervisor"]


async def test_process_may_start_for_as_long_as_a_lease_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "START_WITHIN", 0.0)
    async with running(heartbeat_ttl=30) as found:
        assert (await found.answer(runs("echo", "t1")))["output"] == ""
        assert [process.number for process in found.executor._keeper.processes] == [1]


async def test_processes_run_out_of_memory_before_their_supervisor() -> None:
    async with running() as found:
        (pid,) = found.pids
        scores = [int(Path(f"/proc/{each}/oom_score_adj").read_text()) for each in (pid, "self")]
        assert scores[0] > scores[1]


# -- its own end -----------------------------------------------------------------------------------------------------


async def test_drain_lets_idle_processes_end_by_themselves(caplog: pytest.LogCaptureFixture) -> None:
    async with running(processes=2) as pool:
        processes = list(pool.executor._keeper.processes)
        began = time.monotonic()
        assert await pool.executor.drain(time.monotonic(), asyncio.Event()) == 0
        assert (time.monotonic() - began) / slowness() < 1
        assert [process.how() for process in processes] == ["exited with status 0"] * 2
        assert pool.executor.health().processes == 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_cancelled_executor_leaves_no_process() -> None:
    pool = Running()
    task = asyncio.create_task(pool.executor.run())
    await until(lambda: pool.pids)
    [pid] = pool.pids
    [process] = pool.executor._keeper.processes
    task.cancel()
    await asyncio.wait([task])
    await asyncio.wait_for(process.gone.wait(), WITHIN)
    assert not psutil.pid_exists(pid)


async def test_executor_says_what_the_heartbeat_asks() -> None:
    async with running(processes=2) as pool:
        executor = pool.executor
        health = executor.health()
        assert (health.processes, health.blocked_by, health.problem) == (2, "", "")
        assert health.rss_bytes >= psutil.Process(os.getpid()).memory_info().rss * 0.9
        assert (executor.tables, executor.degraded, executor.abandon_after) == ((), False, math.inf)
        executor.cancel("t1")
        assert executor.time_limit(runs("echo", timeout_seconds=7)) == 7
