"""The guide's rows on retries, on what Redis holds, on scaling, and on the task management commands."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.models import TaskPayload, TaskResult, TaskStatus, is_final
from tests import keys
from tests.fleet import QUEUE, Fleet, working
from tests.support import orbiter, wait_until, worker_process

AGENT = {
    "name": "researcher",
    "model": "test",
    "instructions": "You are a helpful researcher. Answer in a few sentences, and name your sources. " * 4,
    "max_steps": 10,
    "temperature": 1.0,
    "max_tokens": None,
}


async def in_status(fleet: Fleet, task_id: str, status: str) -> TaskResult:
    async def reached() -> TaskResult | None:
        task = await fleet.store.get_status(task_id)
        return task if task and task.status == status else None

    return await wait_until(reached)


async def command(fleet: Fleet, *words: str) -> str:
    done = await asyncio.to_thread(orbiter, *words, ORBITER_REDIS_URL=fleet.url)
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- Task Retry Behavior -----------------------------------------------------------------------------------------------


@pytest.mark.guide("Task Retry Behavior", "`max_retries=3` by default")
def test_retry_max_retries_is_3_by_default() -> None:
    assert TaskBroker("redis://localhost:6379").max_retries == 3


@pytest.mark.guide("Retry flow", "1. the run fails; 2. the error is recorded")
async def test_retry_steps_1_and_2_run_fails_and_error_is_recorded(fleet: Fleet) -> None:
    async with working(fleet, retry_backoff=60) as worker:
        task = await in_status(fleet, await fleet.submit("fail"), "retrying")
        assert (task.error, task.error_type) == ("attempt 1 failed", "RuntimeError")
        await wait_until(lambda: worker.tasks_failed == 1)
        # Recorded and announced as an error; but not as an end, which it is not.
        events = await fleet.events(task.task_id)
        assert [event.type for event in events if is_final(event)] == []


@pytest.mark.guide("Retry flow", "3. the count is checked against `max_retries`")
@pytest.mark.parametrize(("limit", "runs"), [(0, 1), (1, 2), (3, 4)])
async def test_retry_step_3_the_count_is_checked_against_max_retries(fleet: Fleet, limit: int, runs: int) -> None:
    async with working(fleet, max_retries=limit):
        task = await fleet.ends(await fleet.submit("fail"))
    assert (task.attempt, task.retries) == (runs, limit)


@pytest.mark.guide("Retry flow", "4. `RETRYING`, and any worker may take it")
async def test_retry_step_4_any_worker_runs_the_task_again(fleet: Fleet) -> None:
    async with working(fleet, worker_id="first"):
        task_id = await fleet.submit("fail", metadata={"times": 1, "retry_after": 600})
        task = await in_status(fleet, task_id, "retrying")
        assert (task.worker_id, task.retries) == ("first", 1)
    await fleet.make_due(task_id)
    async with working(fleet, worker_id="second"):
        task = await fleet.ends(task_id)
    assert (task.status, task.worker_id, task.attempt) == (TaskStatus.COMPLETED, "second", 2)


@pytest.mark.guide("Retry flow", "5. exhausted: acknowledged, remains `FAILED`")
async def test_retry_step_5_an_exhausted_task_is_acknowledged_and_stays_failed(fleet: Fleet) -> None:
    async with working(fleet):
        task = await fleet.ends(await fleet.submit("fail"))
        await wait_until(fleet.is_empty)
        again = await fleet.store.get_status(task.task_id)
    assert again == task
    assert (task.status, task.error, task.retries) == (TaskStatus.FAILED, "attempt 4 failed", 3)


@pytest.mark.guide("Monitoring retries", "`task status ID`, `task list --status retrying`")
async def test_retry_monitoring_status_shows_count_and_list_shows_tasks(fleet: Fleet) -> None:
    async with working(fleet, retry_backoff=60):
        task_id = await fleet.submit("fail")
        await in_status(fleet, task_id, "retrying")
        assert "\n  Retries:   1\n" in await command(fleet, "task", "status", task_id)
        assert task_id in await command(fleet, "task", "list", "--status", "retrying")


# -- Redis Configuration > Memory considerations -----------------------------------------------------------------------


@pytest.mark.guide("Memory considerations", "task queue: until consumed")
async def test_redis_key_task_queue_is_retained_until_consumed(fleet: Fleet) -> None:
    await fleet.submit_many("echo", 5)
    assert (await fleet.client.xlen(QUEUE), await fleet.client.ttl(QUEUE)) == (5, -1)
    async with working(fleet):
        await wait_until(fleet.is_empty)
    assert await fleet.client.xlen(QUEUE) == 0


@pytest.mark.guide("Memory considerations", "task hashes: 24 hours")
async def test_redis_key_task_hashes_are_retained_24_hours(fleet: Fleet) -> None:
    waiting = await fleet.submit("echo", not_before=4e9)
    await fleet.broker.cancel(waiting)
    ids = [waiting, await fleet.submit("echo")]
    assert 86_390 < await fleet.client.ttl(keys.task(ids[1])) <= 86_400, "while it waits"
    async with working(fleet):
        ids += [await fleet.submit("fail"), await fleet.submit("echo")]
        await fleet.all_end(ids)
    assert all([86_390 < await fleet.client.ttl(keys.task(task_id)) <= 86_400 for task_id in ids])


@pytest.mark.guide("Memory considerations", "event streams: 1 hour")
async def test_redis_key_event_streams_are_retained_1_hour(fleet: Fleet) -> None:
    async with working(fleet, retry_backoff=60):
        task_id = await fleet.submit("said_then_waits", "hello", metadata={"seconds": 600})
        await wait_until(lambda: fleet.client.exists(keys.stream(task_id)))
        assert 3_590 < await fleet.client.ttl(keys.stream(task_id)) <= 3_600, "while it runs"
        await fleet.broker.cancel(task_id)
        await fleet.ends(task_id)
        assert 3_590 < await fleet.client.ttl(keys.stream(task_id)) <= 3_600


@pytest.mark.guide("Memory considerations", "worker heartbeats: 30 seconds")
async def test_redis_key_worker_heartbeats_are_retained_30_seconds(fleet: Fleet) -> None:
    async with working(fleet, worker_id="w"):
        assert 15 < await fleet.client.ttl(keys.worker("w")) <= 30


@pytest.mark.guide("Memory considerations", "task index: persistent")
async def test_redis_key_task_index_is_persistent(fleet: Fleet) -> None:
    async with working(fleet):
        task = await fleet.ends(await fleet.submit("echo"))
    assert await fleet.client.ttl(keys.INDEX) == -1
    assert await fleet.client.smembers(keys.INDEX) == {task.task_id}


@pytest.mark.guide("High memory usage", "reduce the task hash's TTL: `--task-ttl`")
@pytest.mark.parametrize("ending", ["completed", "failed", "cancelled"])
async def test_troubleshooting_reduce_the_task_hash_s_ttl(fleet: Fleet, ending: str) -> None:
    """A task that may still run keeps its record for a day, whatever the setting."""
    job = {"completed": "echo", "failed": "fail", "cancelled": "sleep"}[ending]
    async with working(fleet, task_ttl=120, heartbeat_ttl=1, max_retries=1):
        task_id = await fleet.submit(job, metadata={"seconds": 600, "retry_after": 600})
        if ending == "failed":
            await in_status(fleet, task_id, "retrying")
            assert await fleet.client.ttl(keys.task(task_id)) > 86_000
            await fleet.make_due(task_id)
        if ending == "cancelled":
            await fleet.runs(task_id)
            assert await fleet.client.ttl(keys.task(task_id)) > 86_000
            await fleet.broker.cancel(task_id)
        assert (await fleet.ends(task_id)).status == ending
    assert 110 < await fleet.client.ttl(keys.task(task_id)) <= 120


@pytest.mark.guide("High memory usage", "reduce the event stream's TTL: `--event-ttl`")
async def test_troubleshooting_reduce_the_event_stream_s_ttl(fleet: Fleet, tmp_path: Path) -> None:
    with worker_process(fleet.url, "w", tmp_path / "log", "--event-ttl", "90"):
        task_id = await fleet.submit("said_then_waits", "hello", metadata={"seconds": 0.5})
        await wait_until(lambda: fleet.client.exists(keys.stream(task_id)))
        assert 80 < await fleet.client.ttl(keys.stream(task_id)) <= 90, "while it runs"
        await fleet.ends(task_id)
    assert 80 < await fleet.client.ttl(keys.stream(task_id)) <= 90


async def memory(fleet: Fleet, key: str) -> int:
    return int(await fleet.client.memory_usage(key, samples=0) or 0)


@pytest.mark.guide("Memory considerations", "the column Estimated Size")
async def test_redis_key_sizes_are_of_the_order_that_the_guide_says(fleet: Fleet) -> None:
    """Its numbers are estimates; what an agent's task really takes (measured: docs/guide-tests.md) has bounds here."""
    number = 200
    tasks = [
        TaskPayload(agent_config=AGENT, input="What is new in Redis 7? " * 5, detailed=True) for _ in range(number)
    ]
    ids = await fleet.broker.submit_many(tasks)
    queue = await memory(fleet, QUEUE) / number
    async with working(fleet, worker_id="w", concurrency=16):
        await fleet.all_end(ids)
        worker = await memory(fleet, keys.worker("w"))
    index = await memory(fleet, keys.INDEX) / number
    record = sum([await memory(fleet, keys.task(task_id)) for task_id in ids]) / number
    events = sum([await memory(fleet, keys.stream(task_id)) for task_id in ids])
    said = sum([await fleet.client.xlen(keys.stream(task_id)) for task_id in ids])
    took = {"queue": queue, "task": record, "event": events / said, "worker": worker, "index": index}
    most = {"queue": 1_500, "task": 1_500, "event": 800, "worker": 1_500, "index": 130}
    assert {name: size for name, size in took.items() if size > most[name]} == {}


# -- Scaling Recommendations > Key scaling factors ---------------------------------------------------------------------


@pytest.mark.guide("Key scaling factors", "1. queue depth")
@pytest.mark.guide("High memory usage", "monitor the queue's depth")
async def test_scaling_factor_queue_depth_is_shown(fleet: Fleet) -> None:
    await fleet.submit_many("echo", 7)
    assert json.loads(await command(fleet, "queue", "info", "--json"))["waiting"] == 7


@pytest.mark.guide("Key scaling factors", "2. task wait time")
async def test_scaling_factor_task_wait_time_is_shown(fleet: Fleet) -> None:
    task_id = await fleet.submit("echo", created_at=time.time())
    await asyncio.sleep(0.3)  # what is measured is the time that nothing happens
    async with working(fleet):
        await fleet.ends(task_id)
    assert 0.3 <= json.loads(await command(fleet, "task", "status", task_id, "--json"))["wait_time"] < 60


@pytest.mark.guide("Key scaling factors", "3. worker failure rate")
async def test_scaling_factor_worker_failure_rate_is_shown(fleet: Fleet, tmp_path: Path) -> None:
    with worker_process(fleet.url, "w", tmp_path / "log", "--max-retries", "0"):
        await fleet.ends(await fleet.submit("fail"))
        await fleet.ends(await fleet.submit("echo"))

        async def shown() -> bool:
            [worker] = json.loads(await command(fleet, "worker", "list", "--json"))
            return (worker["tasks_processed"], worker["tasks_failed"]) == (1, 1)

        await wait_until(shown)


@pytest.mark.guide("Key scaling factors", '4. Redis connections of a worker: "3+", ours four')
@pytest.mark.parametrize("concurrency", [1, 16])
async def test_scaling_factor_redis_connections_a_worker_has_four(fleet: Fleet, concurrency: int) -> None:
    async with working(fleet, worker_id="w", concurrency=concurrency):
        await fleet.all_end(await fleet.submit_many("sleep", 2 * concurrency, metadata={"seconds": 0.1}))
        assert [row["name"] for row in await fleet.client.client_list()].count("w") == 4


# -- Monitoring and Alerting > Task management CLI ---------------------------------------------------------------------


@pytest.mark.guide("Task management CLI", "`orbiter task list`, `--status …`")
async def test_task_list_and_its_filter_by_each_status(fleet: Fleet, tmp_path: Path) -> None:
    options = ("--concurrency", "4", "--retry-backoff", "60")
    with worker_process(fleet.url, "w", tmp_path / "log", *options):
        ids: dict[str, Any] = {
            "completed": await fleet.submit("echo"),
            "failed": await fleet.submit("fail", max_retries=0),
            "retrying": await fleet.submit("fail"),
            "running": await fleet.submit("sleep", metadata={"seconds": 600}),
            "pending": await fleet.submit("echo", not_before=4e9),
            "cancelled": await fleet.submit("echo", not_before=4e9),
        }
        await fleet.broker.cancel(ids["cancelled"])
        for status, task_id in ids.items():
            await in_status(fleet, task_id, status)
        rows = json.loads(await command(fleet, "task", "list", "--json"))
        assert {row["task_id"]: row["status"] for row in rows} == {task_id: status for status, task_id in ids.items()}
        for status, task_id in ids.items():
            shown = await command(fleet, "task", "list", "--status", status)
            assert [other for other in ids.values() if other in shown] == [task_id]


@pytest.mark.guide("Task management CLI", "`orbiter task status ID`")
async def test_task_status_tells_everything_of_one_task(fleet: Fleet, tmp_path: Path) -> None:
    with worker_process(fleet.url, "w", tmp_path / "log"):
        task_id = await fleet.submit("echo", "hello")
        await fleet.ends(task_id)
    shown = (await command(fleet, "task", "status", task_id)).splitlines()
    assert shown[0] == f"Task {task_id}"
    labels = [line.split(":")[0].strip() for line in shown[1:]]
    assert {"Status", "Worker", "Started", "Completed", "Duration", "Retries", "Result"} <= set(labels)
    assert any(line.endswith('{"output": "hello"}') for line in shown)


@pytest.mark.guide("Task management CLI", "`orbiter task cancel ID`")
async def test_task_cancel_ends_a_running_task(fleet: Fleet, tmp_path: Path) -> None:
    with worker_process(fleet.url, "w", tmp_path / "log"):
        task_id = await fleet.submit("sleep", metadata={"seconds": 600})
        await fleet.runs(task_id)
        await command(fleet, "task", "cancel", task_id)
        task = await fleet.ends(task_id)
        await wait_until(fleet.is_empty)
    assert task.status == TaskStatus.CANCELLED
