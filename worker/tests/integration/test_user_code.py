"""What code of tasks raises and forks: it costs its own task, and neither the worker nor the tasks beside it."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from orbiter.distributed.models import TaskPayload, TaskResult, TaskStatus
from tests.fleet import Fleet, working
from tests.integration.odd_jobs import KINDS
from tests.support import PATIENCE, wait_until, worker_process

HERE = "tests.integration.odd_jobs"
FAILING = ("in_thread", "in_coroutine", "in_stream", "in_generator", "in_awaited_task", "in_group", "in_result")
# What the standard library turns into another error before it is ours.
RENAMED = {"StopIteration", "CancelledError", "GeneratorExit"}


def payload(job: str, text: str = "", **fields: Any) -> TaskPayload:
    config = {"runtime": "callable", "target": f"{HERE}:{job}", "name": job}
    return TaskPayload(agent_config=config, input=text, **{"max_retries": 0, "timeout_seconds": 60.0, **fields})


@contextlib.contextmanager
def worker(fleet: Fleet, tmp_path: Path, *options: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker that nothing but the end of the test makes drain."""
    log = tmp_path / "log"
    allow = ("--allow-import", HERE, "--allow-import", "odd_module", "--concurrency", "16")
    with worker_process(fleet.url, "w", log, *allow, *options, **env) as process:
        yield process
        assert process.poll() is None, log.read_text()
        assert "draining" not in log.read_text()


async def neighbours_live(fleet: Fleet, tmp_path: Path, jobs: list[TaskPayload]) -> dict[str, TaskResult]:
    """Run these beside a task that outlives them all; return how they ended, by task id."""
    end = tmp_path / "end"
    neighbour = await fleet.submit("hold", metadata={"until": str(end)})
    await fleet.runs(neighbour)
    ids = await fleet.broker.submit_many(jobs)
    ended = {task.task_id: task for task in await fleet.all_end(ids, PATIENCE * (1 + len(ids) / 16))}
    end.touch()
    held = await fleet.ends(neighbour)
    assert (held.status, held.attempt, held.losses, held.crashes) == (TaskStatus.COMPLETED, 1, 0, 0)
    return ended


async def test_whatever_a_tool_raises_fails_its_task_alone(
    fleet: Fleet, tmp_path: Path, executor: dict[str, str]
) -> None:
    jobs = [payload(way, kind, task_id=f"{way}-{kind}") for way in FAILING for kind in KINDS]
    # To a group this is one of its tasks that was cancelled: it goes on with the others.
    jobs = [job for job in jobs if job.task_id != "in_group-CancelledError"]
    with worker(fleet, tmp_path, **executor):
        ended = await neighbours_live(fleet, tmp_path, jobs)
    assert {task_id: task.status for task_id, task in ended.items() if task.status != TaskStatus.FAILED} == {}
    assert [task_id for task_id, task in ended.items() if task.error_type == "TaskTimeoutError"] == []
    for way, kind in product(("in_thread", "in_coroutine"), set(KINDS) - RENAMED):
        task = ended[f"{way}-{kind}"]
        assert kind in {task.error_type, *re.findall(r"\w+", task.error or "")}, task


@pytest.mark.parametrize("way", ["in_forgotten_task", "in_callback"])
async def test_what_nobody_waits_for_may_raise_anything(fleet: Fleet, tmp_path: Path, way: str) -> None:
    """As with any other exception in such a place: asyncio logs it, and the task goes on."""
    with worker(fleet, tmp_path):
        ended = await neighbours_live(fleet, tmp_path, [payload(way, kind, task_id=kind) for kind in KINDS])
    assert {kind: task.status for kind, task in ended.items() if task.result != {"output": "answered"}} == {}


async def test_a_worker_within_another_program_outlives_what_tasks_spawn(fleet: Fleet) -> None:
    """``asyncio.run(worker.start())``: the loop is not ours, but the asyncio tasks that runs start are contained."""
    async with working(fleet, concurrency=4):
        ways = ("in_coroutine", "in_awaited_task", "in_forgotten_task")
        ids = await fleet.broker.submit_many([payload(way, "SystemExit", task_id=way) for way in ways])
        ended = {task.task_id: task.status for task in await fleet.all_end(ids)}
    assert [ended[way] for way in ways] == [TaskStatus.FAILED, TaskStatus.FAILED, TaskStatus.COMPLETED]


@pytest.mark.parametrize(
    "code",
    ["import sys\nsys.exit('no key')", "raise KeyboardInterrupt", "import os\nif os.fork() == 0: raise SystemExit"],
    ids=["SystemExit", "KeyboardInterrupt", "a fork that comes back"],
)
async def test_an_import_that_leaves_fails_its_task_once(fleet: Fleet, tmp_path: Path, code: str) -> None:
    (tmp_path / "odd_module.py").write_text(f"{code}\ndef job(context): return 'done'\n")
    config = {"runtime": "callable", "target": "odd_module:job"}
    with worker(fleet, tmp_path, PYTHONPATH=str(tmp_path)):
        [ended] = (await neighbours_live(fleet, tmp_path, [TaskPayload(agent_config=config)])).values()
    if "fork" in code:
        assert ended.status == TaskStatus.COMPLETED
    else:
        assert (ended.status, ended.attempt, ended.error_type) == (TaskStatus.FAILED, 1, "ConfigurationError")
        assert "odd_module:job" in (ended.error or "")


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt", "OwnError", "MuteExit"])
async def test_a_module_that_raises_when_asked_for_a_name_fails_the_task_once(
    fleet: Fleet, tmp_path: Path, kind: str
) -> None:
    with worker(fleet, tmp_path):
        [ended] = (await neighbours_live(fleet, tmp_path, [payload(kind, max_retries=3)])).values()
    assert (ended.status, ended.attempt, ended.error_type) == (TaskStatus.FAILED, 1, "ConfigurationError")


RUNTIME = """
class AtInit:
    def __init__(self, config, guard):
        raise SystemExit(3)
class AtRun:
    def __init__(self, config, guard): ...
    async def run(self, context):
        raise KeyboardInterrupt
"""


async def test_a_runtime_that_raises_what_ends_programs_fails_its_task_alone(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "odd_runtime.py").write_text(RUNTIME)
    (tmp_path / "exits_runtime.py").write_text("raise SystemExit(3)")
    info = tmp_path / "odd_runtime-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-runtime\nVersion: 1.0\n")
    points = "init = odd_runtime:AtInit\nrun = odd_runtime:AtRun\nexits = exits_runtime:Exits\n"
    (info / "entry_points.txt").write_text(f"[orbiter.runtimes]\n{points}")
    jobs = [TaskPayload(agent_config={"runtime": name}, task_id=name, max_retries=0) for name in ("init", "run")]
    jobs.append(TaskPayload(agent_config={"runtime": "exits"}, task_id="exits"))
    with worker(fleet, tmp_path, PYTHONPATH=str(tmp_path)):
        ended = await neighbours_live(fleet, tmp_path, jobs)
    assert {task.status for task in ended.values()} == {TaskStatus.FAILED}
    assert (ended["exits"].attempt, ended["exits"].error_type) == (1, "ConfigurationError")


async def test_a_model_is_told_of_a_tool_that_raises_what_ends_programs(fleet: Fleet, tmp_path: Path) -> None:
    config = {"name": "a", "model": "test", "tools": [f"{HERE}.tool_in_thread", f"{HERE}.tool_in_coroutine"]}
    with worker(fleet, tmp_path):
        [ended] = (await neighbours_live(fleet, tmp_path, [TaskPayload(agent_config=config)])).values()
    assert ended.status == TaskStatus.COMPLETED, ended.error
    assert "tool_in_thread" in ended.result["output"]  # type: ignore[index]
    assert "raised KeyboardInterrupt" in ended.result["output"]  # type: ignore[index]


# -- forks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "output"),
    [
        ("pool", "[1, 4, 9]"),
        ("pool_in_coroutine", "[1, 4, 9]"),
        ("ended_child", "-15"),
        ("ends_before_exec", "-15"),
    ],
)
async def test_children_of_a_tool_end_without_the_worker(fleet: Fleet, tmp_path: Path, job: str, output: str) -> None:
    with worker(fleet, tmp_path):
        jobs = [payload(job) for _ in range(2)]
        ended = (await neighbours_live(fleet, tmp_path, jobs)).values()
        assert {(task.status, (task.result or {}).get("output")) for task in ended} == {("completed", output)}


async def test_a_forked_child_has_default_signals_and_no_wakeup_descriptor(fleet: Fleet, tmp_path: Path) -> None:
    with worker(fleet, tmp_path):
        [ended] = (await neighbours_live(fleet, tmp_path, [payload("child_state")])).values()
    found = ended.result or {}
    assert found["handlers"] == ["default", "interrupt", "default", "default", "default"]
    assert (found["blocked"], found["wakeup_fd"]) == (0, -1)


@pytest.mark.parametrize("job", ["child_comes_back", "child_comes_back_to_the_loop"])
async def test_a_forked_child_that_comes_back_ends_as_a_program_does(fleet: Fleet, tmp_path: Path, job: str) -> None:
    codes = {"returns": "0", "SystemExit": "3", "KeyboardInterrupt": "1", "OwnError": "1"}
    with worker(fleet, tmp_path):
        jobs = [payload(job, way, task_id=way) for way in codes]
        ended = await neighbours_live(fleet, tmp_path, jobs)
    assert {way: (task.result or {}).get("output") for way, task in ended.items()} == codes


async def test_a_forked_child_does_not_go_on_in_the_event_loop(fleet: Fleet, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with worker(fleet, tmp_path):
        job = payload("child_comes_back_to_the_loop", "waits", metadata={"mark": str(mark)})
        [ended] = (await neighbours_live(fleet, tmp_path, [job])).values()
    assert ended.status == TaskStatus.COMPLETED
    assert not mark.exists()


# -- loops of their own ------------------------------------------------------------------------------------------------


async def test_events_of_a_function_with_its_own_loop_are_whole_and_in_order(fleet: Fleet) -> None:
    async with working(fleet, concurrency=8):
        jobs = [payload("counts_in_own_loop", metadata={"numbers": 500}) for _ in range(8)]
        ids = await fleet.broker.submit_many(jobs)
        assert {task.status for task in await fleet.all_end(ids)} == {TaskStatus.COMPLETED}
    for task_id in ids:
        said = "".join(event.text for event in await fleet.events(task_id) if event.type == "text")
        assert said.split() == [str(number) for number in range(500)]
    await wait_until(fleet.is_empty)
