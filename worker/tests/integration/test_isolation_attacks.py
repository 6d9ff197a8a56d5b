"""Tools that attack what runs them: each costs its own task, with the cause in words, and nobody else anything."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from orbiter.distributed.models import TaskPayload, TaskStatus
from tests.fleet import Fleet
from tests.isolated import attack, check_unharmed, isolated
from tests.support import slowness

# The loop, the guard and the library of the loop all notice; the first one ends the process.
CUT_OFF = r"was killed by SIG(ABRT|KILL)|exited with status 0"
# What ends a process that runs tasks, and the cause that its task fails with.
FATAL = {
    "segfault": "was killed by SIGSEGV",
    "exits": "exited with status 0",
    "alarm": "was killed by SIGALRM",
    "kills_group": "was killed by SIGKILL",
    "overflows_stack": "was killed by SIGSEGV",
    "closes_descriptors": CUT_OFF,
    "closes_descriptors_in_loop": CUT_OFF,
    "closes_channel": CUT_OFF,
    "closes_guards_channel": CUT_OFF,
    "sends_too_much": r"sent a frame \(COMPLETED\) of 2000014 bytes; 1000000 are allowed",
    "holds_interpreter": "was blocked for",
    "holds_interpreter_in_thread": "was blocked for",
}


@pytest.mark.parametrize("job", FATAL)
async def test_who_ends_its_process_is_told_from_who_was_beside_it(fleet: Fleet, tmp_path: Path, job: str) -> None:
    options = ("--concurrency", "4", "--max-crashes", "1", "--stall-timeout", str(2 * slowness()))
    async with isolated(fleet, tmp_path, *options) as [worker]:
        fields = {"metadata": {"notes": str(tmp_path / "notes")}}
        innocents = await fleet.broker.submit_many([attack("innocent", **fields) for _ in range(3)])
        for task_id in innocents:
            await fleet.runs(task_id)
        guilty = await fleet.broker.submit(attack(job, timeout_seconds=60))
        ended = await fleet.ends(guilty)
        check_unharmed(await fleet.all_end(innocents))
        assert (ended.status, ended.error_type) == (TaskStatus.FAILED, "ExecutorDiedError"), ended
        assert re.search(FATAL[job], ended.error or ""), ended.error
        # Nobody needs to be an operator to see it.
        after = await fleet.broker.submit(attack("innocent", **fields))
        check_unharmed([await fleet.ends(after)], runs=1)
        assert worker.deaths == 0, worker.text
        await fleet.check_invariants([guilty, *innocents, after], workers=["w0"])


# What a task does to the process that it shares with others, and what it ends in.
HARMLESS = {
    "forks": "768 768 6 15",
    "limits_files": "limited",
    "limits_memory": "limited",
    "prints_for_ever": "printed",
    "opens_files": "opened",
    "runs_loop_in_loop": "RuntimeError",
    "leaves_zombies": "left",
    "replaces_output": "replaced",
    "replaces_handlers": "replaced",
    "cancels_all": "cancelled",
    "stops_loop": "stopped",
    "changes_surroundings": "changed",
    "closes_streams": "closed",
    "configures_logging": "configured",
}


@pytest.mark.parametrize("job", HARMLESS)
async def test_what_a_tool_does_to_its_process_harms_no_other_task(fleet: Fleet, tmp_path: Path, job: str) -> None:
    async with isolated(fleet, tmp_path, "--concurrency", "4", "--stall-timeout", str(3 * slowness())) as [worker]:
        fields = {"metadata": {"notes": str(tmp_path / "notes"), "seconds": 2}}
        beside = await fleet.broker.submit_many([attack("innocent", **fields) for _ in range(3)])
        for task_id in beside:
            await fleet.runs(task_id)
        guilty = await fleet.broker.submit(attack(job, max_retries=0, timeout_seconds=20))
        ended = await fleet.ends(guilty)
        later = await fleet.broker.submit_many([attack("innocent", **fields) for _ in range(4)])
        later += await fleet.broker.submit_many([attack("forks", max_retries=0) for _ in range(2)])
        check_unharmed(await fleet.all_end([*beside, *later]))
        if job == "runs_loop_in_loop":
            assert (ended.status, ended.error_type) == (TaskStatus.FAILED, "RuntimeError")
        elif job != "cancels_all":
            assert (ended.status, ended.result) == (TaskStatus.COMPLETED, {"output": HARMLESS[job]}), ended
        assert worker.deaths == 0, worker.text
        assert worker.log.stat().st_size < 5_000_000
        # Whatever it did to logging here, the worker's own lines go on.
        assert all(task_id in worker.text for task_id in later)
        listed = worker.listed()
        assert listed["state"] == "running", listed
    await fleet.check_invariants([guilty, *beside, *later], workers=[])


async def test_what_a_task_sets_in_its_context_no_other_sees(fleet: Fleet, tmp_path: Path) -> None:
    async with isolated(fleet, tmp_path, "--concurrency", "2"):
        for job in ("sets_context", "sets_context_in_thread"):
            assert (await fleet.ends(await fleet.broker.submit(attack(job)))).result == {"output": "dirty"}
        shown = await fleet.ends(await fleet.broker.submit(attack("shows_context")))
        assert shown.result == {"output": "clean"}


async def test_imports_that_take_long_delay_nobody_but_their_tasks(fleet: Fleet, tmp_path: Path) -> None:
    slow, limit = [f"slow_module_{number}" for number in range(4)], round(3 * slowness())
    for name in slow:
        (tmp_path / f"{name}.py").write_text("import time\ntime.sleep(600)\ndef job(context): return 'done'\n")
    allowed = [word for name in slow for word in ("--allow-import", name)]
    async with isolated(fleet, tmp_path, "--concurrency", "8", *allowed, PYTHONPATH=str(tmp_path)) as [worker]:
        configs: list[dict[str, Any]] = [{"runtime": "callable", "target": f"{name}:job"} for name in slow]
        jobs = [TaskPayload(agent_config=config, timeout_seconds=limit, max_retries=3) for config in configs]
        ids = await fleet.broker.submit_many(jobs)
        for task_id in ids:
            await fleet.runs(task_id)
        began = time.monotonic()
        quick = await fleet.broker.submit(attack("innocent", metadata={"notes": str(tmp_path / "notes"), "seconds": 0}))
        check_unharmed([await fleet.ends(quick)], runs=1)
        assert time.monotonic() - began < 2 * slowness()
        for task in await fleet.all_end(ids):
            # It would take as long again.
            assert (task.status, task.attempt, task.crashes) == (TaskStatus.FAILED, 1, 0), task
            assert f"took longer than timeout_seconds={limit}" in (task.error or ""), task
        stopped = time.monotonic()
        worker.end()
        assert time.monotonic() - stopped < 5 * slowness()
