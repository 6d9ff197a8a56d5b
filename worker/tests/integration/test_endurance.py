"""Many tasks, and many that are none: nothing grows, nothing is lost, nobody is harmed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orbiter.distributed.models import InvalidPayloadError, TaskPayload, TaskStatus
from tests import keys
from tests.fleet import QUEUE, Fleet, job_payload
from tests.support import PATIENCE, is_alive, slowness, wait_until, worker_process

MEGABYTE = 1_000_000
# How many tasks processes are replaced under; where time does not matter, 50000.
RECYCLED = int(os.environ.get("ENDURANCE_TASKS", "3600"))


@contextlib.asynccontextmanager
async def one_worker(fleet: Fleet, log: Path, *options: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    with worker_process(fleet.url, "one", log, "--log-level", "error", *options) as process:
        yield process


def memory(process: subprocess.Popen[bytes]) -> int:
    return int(psutil.Process(process.pid).memory_info().rss)


def deep(depth: int) -> str:
    return '{"task_id": "deep", "metadata": ' + '{"a": ' * depth + "1" + "}" * depth + "}"


def cyclic_looking(depth: int) -> dict[str, Any]:
    config: dict[str, Any] = {"name": "a", "model": "test"}
    for _ in range(depth):
        config = {"name": "a", "model": "test", "handoffs": [config]}
    return config


def malformed(number: int) -> list[dict[str, str]]:
    """Return so many entries, each wrong in one of many ways; the ids of those that name a task differ."""
    good = json.loads(TaskPayload().to_json())

    def task(**fields: Any) -> str:
        return json.dumps(good | {"task_id": f"bad-{random.random()}"} | fields)

    refused = {"runtime": "callable", "target": "os:system"}
    ways = [
        lambda: {"payload": "not JSON"},
        lambda: {"payload": ""},
        lambda: {"payload": "[]"},
        lambda: {"payload": "null"},
        lambda: {"payload": '{"task_id": "cut'},
        lambda: {"payload": '{"task_id": 7}'},
        lambda: {"payload": "\ud83d\ude00\x00\x01"},
        lambda: {"other": "field"},
        lambda: {"payload": task(input=7)},
        lambda: {"payload": task(timeout_seconds=-1)},
        lambda: {"payload": task(timeout_seconds=float("nan"))},
        lambda: {"payload": task(created_at=float("inf"))},
        lambda: {"payload": task(metadata=[])},
        lambda: {"payload": task(messages="hello")},
        lambda: {"payload": task(agent_config={"runtime": "nothing"})},
        lambda: {"payload": task(agent_config={"name": 7})},
        lambda: {"payload": task(agent_config=refused)},
        lambda: {"payload": task(agent_config={"name": "a", "model": "test", "tools": ["os.system"]})},
        lambda: {"payload": task(agent_config={"name": "a", "model": "nobody:x"})},
        lambda: {"payload": task(agent_config={"agents": []})},
        lambda: {"payload": task(agent_config=cyclic_looking(100))},
    ]
    rows = [random.choice(ways)() for _ in range(number - 6)]
    rows += [{"payload": deep(100_000)}, {"payload": deep(500)}, {"payload": "[" * 100_000}]
    rows += [{"payload": task(input="x" * 10 * MEGABYTE)}, {"payload": "x" * 10 * MEGABYTE}]
    rows += [
        {"payload": json.dumps(good | {"task_id": "big"})[:-1] + ', "metadata": {"a": "' + "x" * 2 * MEGABYTE + '"}}'}
    ]
    random.shuffle(rows)
    return rows


async def test_a_thousand_malformed_payloads_between_a_thousand_good_ones(fleet: Fleet, tmp_path: Path) -> None:
    """Good ones complete, bad ones are dead letters with a reason each, the worker stays as small as it was."""
    random.seed(20261124)
    rows = malformed(1000)
    async with one_worker(fleet, tmp_path / "log", "--concurrency", "8", "--max-retries", "0") as process:
        await fleet.all_end(await fleet.submit_many("noop", 500))  # warm
        # What agents need is imported with the first of them; that is not growth.
        first = await fleet.broker.submit(TaskPayload(agent_config={"name": "a", "model": "test"}))
        await fleet.ends(first)
        before = memory(process)
        good = []
        for row in rows:
            good.append(await fleet.submit("echo", "fine"))
            await fleet.client.xadd(QUEUE, row)
        ended = await fleet.all_end(good, PATIENCE * slowness())
        await wait_until(fleet.is_empty)
        after = memory(process)
        assert process.poll() is None
    assert {task.status for task in ended} == {TaskStatus.COMPLETED}
    letters = await fleet.client.xrange("{orbiter:tasks}:dead")
    assert len(letters) == 1000
    assert all(letter["reason"] and letter["error_type"] for _, letter in letters)
    assert sum(len(letter["payload"]) for _, letter in letters) < 5 * MEGABYTE
    assert after - before < 30 * MEGABYTE
    named = [letter["task_id"] for _, letter in letters if letter["task_id"]]
    assert {task.status for task in await fleet.store.get_many(set(named)) if task} == {TaskStatus.FAILED}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
FIELDS = st.dictionaries(st.sampled_from([*TaskPayload.model_fields, "other"]), JSON, max_size=6)


@given(st.one_of(FIELDS.map(json.dumps), JSON.map(json.dumps), st.text(max_size=200), st.binary(max_size=200)))
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_payload_is_a_task_or_says_why_not(text: str | bytes) -> None:
    try:
        task = TaskPayload.from_json(text)
    except InvalidPayloadError as error:
        assert str(error)
    else:
        assert TaskPayload.from_json(task.to_json()) == task


@pytest.mark.guide("Concurrency Tuning", "memory considerations")
@pytest.mark.nightly
async def test_twenty_thousand_tasks_leave_nothing_behind(fleet: Fleet, tmp_path: Path) -> None:
    async with one_worker(fleet, tmp_path / "log", "--concurrency", "16") as process:
        await fleet.all_end(await fleet.submit_many("noop", 2000))
        before = memory(process)
        for _ in range(9):
            ids = await fleet.submit_many("noop", 2000)
            await fleet.all_end(ids)
        after = memory(process)
        await fleet.check_invariants(ids, workers=["one"])
        consumers = [row["name"] for row in await fleet.client.xinfo_consumers(QUEUE, keys.group(QUEUE))]
    assert consumers == ["one"]
    assert await fleet.client.xlen(QUEUE) == 0
    assert abs(after - before) < 5 * MEGABYTE


@pytest.mark.nightly
async def test_executor_processes_that_are_replaced_leave_nothing_behind(fleet: Fleet, tmp_path: Path) -> None:
    each, rounds = 300, 6
    options = ("--concurrency", "16", "--max-tasks-per-process", str(each))
    async with one_worker(fleet, tmp_path / "log", *options) as process:
        worker = psutil.Process(process.pid)
        children: list[psutil.Process] = []
        own, childs, descriptors = [], [], []
        for _ in range(rounds):
            ids = await fleet.submit_many("noop", RECYCLED // rounds)
            await fleet.all_end(ids, 10 * PATIENCE)
            # Those that were replaced are gone.
            await wait_until(lambda: len(worker.children(recursive=True)) == 1)
            children += worker.children()
            own.append(memory(process))
            childs.append(children[-1].memory_info().rss)
            descriptors.append(worker.num_fds())
        # One that has just ended had some for a moment longer.
        await wait_until(lambda: worker.num_fds() <= min(descriptors))
        await fleet.check_invariants(ids, workers=["one"])
    assert not [child for child in children if is_alive(child)]
    assert len({child.pid for child in children}) == rounds
    assert own[-1] - own[1] < 3 * MEGABYTE, own
    assert max(childs) - min(childs) < 10 * MEGABYTE, childs


@pytest.mark.parametrize("concurrency", ["1", "64"])
async def test_a_worker_has_four_connections_whatever_its_concurrency(
    fleet: Fleet, tmp_path: Path, concurrency: str
) -> None:
    async with one_worker(fleet, tmp_path / "log", "--concurrency", concurrency):
        ids = await fleet.submit_many("sleep", 80, metadata={"seconds": 0.05})
        most = 0

        async def done() -> bool:
            nonlocal most
            most = max(most, sum(row["name"] == "one" for row in await fleet.client.client_list()))
            return all(task and task.status.terminal for task in await fleet.store.get_many(ids))

        await wait_until(done)
    assert 0 < most <= 4


async def test_an_event_beyond_the_limit_is_left_out_and_holds_up_nothing(fleet: Fleet, tmp_path: Path) -> None:
    async with one_worker(fleet, tmp_path / "log", "--max-event-bytes", "10000") as process:
        task = await fleet.ends(await fleet.submit("says_much", "x" * 50_000))
        after = await fleet.ends(await fleet.submit("echo", "next"))
        assert process.poll() is None
    assert (task.status, after.status) == (TaskStatus.COMPLETED, TaskStatus.COMPLETED)
    texts, errors = [], []
    for event in await fleet.events(task.task_id):
        assert len(event.to_json()) <= 10_000
        (texts if event.type == "text" else errors).append(event)
    assert "".join(event.text for event in texts) == "x" * 50_000 + "\U0001f600" * 3000 + "end"
    said = errors[0].error
    assert (errors[0].type, errors[0].error_type, errors[0].recoverable) == ("error", "EventTooLargeError", True)
    assert "'tool_result' was left out" in said
    assert "10000 of --max-event-bytes (ORBITER_MAX_EVENT_BYTES)" in said
    await fleet.check_invariants([task.task_id, after.task_id])


async def test_results_and_payloads_beyond_the_limit_are_refused_with_the_limit(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(InvalidPayloadError, match=r"1000\d+ bytes .* ORBITER_MAX_PAYLOAD_BYTES"):
        await fleet.broker.submit(job_payload("echo", "x" * MEGABYTE))
    assert await fleet.client.xlen(QUEUE) == 0
    async with one_worker(fleet, tmp_path / "log", "--max-result-bytes", "1000"):
        task = await fleet.ends(await fleet.submit("echo", "x" * 2000))
    assert (task.status, task.error_type, task.retries) == (TaskStatus.FAILED, "ResultTooLargeError", 0)
    assert task.error is not None
    assert "--max-result-bytes" in task.error
