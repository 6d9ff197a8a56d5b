"""Clients and workers of 0.1 beside ours, unchanged: see ``tests/legacy_client.py``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orbiter.distributed.client.handle import distributed
from orbiter.distributed.models import TaskStatus
from tests import keys
from tests.fleet import QUEUE, Fleet, job_payload, working
from tests.legacy_client import LegacyClient, LegacyWorker
from tests.support import PATIENCE, orbiter, wait_until, worker_process

AGENT = {
    "name": "old",
    "model": "test",
    "instructions": "",
    "max_steps": 10,
    "temperature": 1.0,
    "max_tokens": None,
}
SWARM = {
    "agents": [AGENT | {"name": "first"}, AGENT | {"name": "second"}],
    "flow": None,
    "mode": "workflow",
    "max_handoffs": 10,
}


def job(name: str) -> dict[str, Any]:
    return dict(job_payload(name).agent_config)


@pytest.fixture
async def old(fleet: Fleet) -> AsyncIterator[LegacyClient]:
    async with LegacyClient(fleet.url) as client:
        yield client


@pytest.fixture
async def old_worker(fleet: Fleet) -> AsyncIterator[LegacyWorker]:
    async with LegacyWorker(fleet.url, "old01-1-aaaaaaaa") as worker:
        await worker.beat()
        yield worker


async def heard(old: LegacyClient, task_id: str, listening: asyncio.Event) -> list[dict[str, Any]]:
    return [event async for event in old.subscribe(task_id, listening)]


# -- clients of 0.1, workers of ours -----------------------------------------------------------------------------------


@pytest.mark.guide("Software of 0.1 in the same fleet", "its client submits and polls the result")
async def test_a_client_of_0_1_submits_and_polls_its_result(fleet: Fleet, old: LegacyClient) -> None:
    async with working(fleet), asyncio.timeout(PATIENCE):
        task_id = await old.submit(AGENT, "hello")
        result = await old.result(task_id, poll_interval=0.05)
        task = await old.status(task_id)
    assert result["output"]
    assert task is not None
    assert task["completed_at"] >= task["started_at"]
    assert (task["retries"], task["error"]) == (0, None)


@pytest.mark.guide("Software of 0.1 in the same fleet", "its subscriber reads all our events, and ends")
@pytest.mark.parametrize("detailed", [False, True], ids=["plain", "detailed"])
@pytest.mark.parametrize("config", [AGENT, SWARM], ids=["agent", "swarm"])
async def test_a_subscriber_of_0_1_reads_every_event_and_ends_with_the_task(
    fleet: Fleet, old: LegacyClient, config: dict[str, Any], detailed: bool
) -> None:
    """0.1's own workers left it waiting for ever, or sent it away after a swarm's first agent."""
    listening = asyncio.Event()
    task_id = await old.submit(config, "hello", detailed=detailed)
    subscriber = asyncio.create_task(heard(old, task_id, listening))
    await listening.wait()
    async with working(fleet), asyncio.timeout(PATIENCE):
        events = await subscriber
    assert events == await old.replay(task_id)
    assert [next(iter(event)) for event in events] == ["type"] * len(events)
    assert events[-1].items() >= {"type": "status", "status": "completed"}.items()
    speakers = [event["agent_name"] for event in events if event["type"] == "text"]
    assert set(speakers) == ({"first", "second"} if "agents" in config else {"old"})
    assert {"step", "usage"} <= {event["type"] for event in events} or not detailed


@pytest.mark.guide("Software of 0.1 in the same fleet", "its client waits through retries; hears of a failure")
async def test_a_client_of_0_1_waits_through_retries(fleet: Fleet, old: LegacyClient) -> None:
    """It raises at the first ``failed`` that it sees: there must be none before the last run."""
    task_id = await old.submit(job("fail"), "", times=3)
    polling = asyncio.create_task(old.result(task_id, poll_interval=0))
    async with working(fleet), asyncio.timeout(PATIENCE):
        assert await polling == {"output": "attempt 4 worked"}
    assert (await old.status(task_id))["retries"] == 3  # type: ignore[index]


@pytest.mark.guide("Software of 0.1 in the same fleet", "its client waits through retries; hears of a failure")
async def test_a_client_of_0_1_hears_why_its_task_failed(fleet: Fleet, old: LegacyClient) -> None:
    task_id = await old.submit(job("fail"), "")
    async with working(fleet), asyncio.timeout(PATIENCE):
        with pytest.raises(RuntimeError, match=f"Task {task_id} failed: attempt 4 failed"):
            await old.result(task_id, poll_interval=0.05)
    assert [event["type"] for event in await old.replay(task_id)][-1] == "status"


@pytest.mark.guide("Software of 0.1 in the same fleet", "its client cancels a running task, a waiting one")
@pytest.mark.parametrize("name", ["sleep", "block"])
async def test_a_client_of_0_1_cancels_a_running_task(fleet: Fleet, old: LegacyClient, name: str) -> None:
    listening = asyncio.Event()
    task_id = await old.submit(job(name), "", seconds=60)
    subscriber = asyncio.create_task(heard(old, task_id, listening))
    await listening.wait()
    async with working(fleet), asyncio.timeout(PATIENCE):
        await fleet.runs(task_id)
        await old.cancel(task_id)
        events = await subscriber
        with pytest.raises(RuntimeError, match=f"Task {task_id} was cancelled"):
            await old.result(task_id)
        await wait_until(fleet.is_empty)
    assert events[-1].items() >= {"status": "cancelled", "message": f"Task {task_id} cancelled"}.items()
    await fleet.check_invariants([task_id])


@pytest.mark.guide("Software of 0.1 in the same fleet", "its client cancels a running task, a waiting one")
async def test_a_client_of_0_1_cancels_a_waiting_task(fleet: Fleet, old: LegacyClient, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    task_id = await old.submit(job("sleep"), "", log=str(runs))
    await old.cancel(task_id)
    async with working(fleet):
        await wait_until(fleet.is_empty)
        with pytest.raises(RuntimeError, match="was cancelled"):
            await old.result(task_id)
    assert not runs.exists()
    await fleet.check_invariants([task_id])


@pytest.mark.guide("Software of 0.1 in the same fleet", "its listings read our tasks and workers")
async def test_the_listings_of_0_1_read_our_tasks_and_workers(fleet: Fleet, old: LegacyClient) -> None:
    async with working(fleet, worker_id="new", concurrency=4, retry_backoff=60):
        expected = {
            await fleet.submit("echo"): "completed",
            await fleet.submit("fail", max_retries=0): "failed",
            await fleet.submit("fail"): "retrying",
            await fleet.submit("sleep", metadata={"seconds": 600}): "running",
            await fleet.submit("echo", not_before=4e9): "pending",
        }
        gone = await fleet.submit("echo", not_before=4e9)
        await fleet.broker.cancel(gone)

        async def listed() -> bool:
            return {task_id: task["status"] for task_id, task in (await old.list_tasks()).items()} == expected | {
                gone: "cancelled"
            }

        await wait_until(listed)

        async def counted() -> bool:
            worker = (await old.list_workers())["new"]
            return (worker["tasks_processed"], worker["tasks_failed"], worker["current_task_id"]) == (
                1,
                2,
                next(task_id for task_id, status in expected.items() if status == "running"),
            )

        await wait_until(counted)
        worker = (await old.list_workers())["new"]
        await fleet.broker.cancel(worker["current_task_id"])
    assert (worker["status"], worker["alive"], worker["concurrency"]) == ("running", True, 4)


# -- workers of 0.1 beside ours ----------------------------------------------------------------------------------------


@pytest.mark.guide("Software of 0.1 in the same fleet", "our client reads what its worker says")
async def test_our_client_reads_what_a_worker_of_0_1_says_and_records(fleet: Fleet, old_worker: LegacyWorker) -> None:
    async with await distributed(job("echo"), "hi", redis_url=fleet.url) as handle:
        task = await old_worker.claim()
        assert task is not None
        assert (task["task_id"], task["input"]) == (handle.task_id, "hi")
        await old_worker.say(handle.task_id, "said by 0.1")
        await old_worker.complete(handle.task_id, "done by 0.1")
        async with asyncio.timeout(PATIENCE):
            said, end = [event async for event in handle.stream()]
            # The worker itself says none: its record tells it.
            assert (said.text, end.type, end.status) == ("said by 0.1", "status", "completed")  # type: ignore[union-attr]
            assert await handle.result() == {"output": "done by 0.1"}


@pytest.mark.guide("Software of 0.1 in the same fleet", "its worker acknowledges without deleting: we trim")
async def test_our_janitor_trims_what_workers_of_0_1_leave(fleet: Fleet, old_worker: LegacyWorker) -> None:
    for _ in range(3):
        await fleet.submit("echo")
        task = await old_worker.claim()
        assert task is not None
        await old_worker.complete(task["task_id"], "x")
    assert await fleet.client.xlen(QUEUE) == 3
    held = await fleet.submit("echo")
    await old_worker.claim()
    async with working(fleet, heartbeat_ttl=1):

        async def only_the_held_one() -> bool:
            return bool(await fleet.client.xlen(QUEUE) == 1)

        await wait_until(only_the_held_one)
        [row] = await fleet.client.xpending_range(QUEUE, keys.group(QUEUE), "-", "+", 10)
        assert row["consumer"] == old_worker.worker_id
        await old_worker.complete(held, "x")
        await wait_until(fleet.is_empty)


@pytest.mark.guide(
    "Software of 0.1 in the same fleet", "its worker lives: its tasks are left to it; is dead: they run again"
)
async def test_sweeper_reclaims_from_dead_workers_of_0_1_and_from_no_living_one(
    fleet: Fleet, old_worker: LegacyWorker, tmp_path: Path
) -> None:
    held = await fleet.submit("echo", "taken over")
    assert await old_worker.claim()
    with worker_process(fleet.url, "new", tmp_path / "log", "--heartbeat-ttl", "1"):

        async def idle_for_three_leases() -> bool:
            [row] = await fleet.client.xpending_range(QUEUE, keys.group(QUEUE), "-", "+", 10)
            assert row["consumer"] == old_worker.worker_id
            return bool(row["time_since_delivered"] > 3000)

        await wait_until(idle_for_three_leases)
        await fleet.client.delete(keys.worker(old_worker.worker_id))
        task = await fleet.ends(held)
    assert (task.status, task.worker_id, task.losses, task.crashes) == (TaskStatus.COMPLETED, "new", 1, 0)
    # Workers of 0.1 leave no fence that names them.
    assert task.last_loss == "its worker was lost"


@pytest.mark.guide("Software of 0.1 in the same fleet", "its worker gives a task back")
async def test_a_task_that_a_worker_of_0_1_gave_back_completes_with_ours(
    fleet: Fleet, old: LegacyClient, old_worker: LegacyWorker
) -> None:
    task_id = await old.submit(job("echo"), "second try")
    assert await old_worker.claim()
    await old_worker.fail_and_retry(task_id, "boom", 1)
    async with working(fleet, heartbeat_ttl=1):
        task = await fleet.ends(task_id)
        await wait_until(fleet.is_empty)
    assert task.result is not None
    assert (task.status, task.result["output"], task.error, task.retries) == ("completed", "second try", None, 1)


@pytest.mark.guide("Software of 0.1 in the same fleet", "our listings read its tasks and workers")
async def test_tasks_of_clients_and_workers_of_0_1_are_listed_and_forgotten(
    fleet: Fleet, old: LegacyClient, old_worker: LegacyWorker
) -> None:
    """They write the index only; our listing reads the order of time, and our janitor clears both."""
    kept, expired = [await old.submit(job("echo"), "x") for _ in range(2)]
    for task_id in (kept, expired):
        assert await old_worker.claim()
        await old_worker.complete(task_id, "x")
    await fleet.client.delete(keys.task(expired))
    async with working(fleet, heartbeat_ttl=1):

        async def listed() -> bool:
            return [task.task_id for task in await fleet.store.list_tasks()] == [kept]

        await wait_until(listed)

        async def forgotten() -> bool:
            return await fleet.client.smembers(keys.INDEX) == {kept}

        await wait_until(forgotten)
        shown = await asyncio.to_thread(orbiter, "task", "list", "--json", "--redis-url", fleet.url)
    assert [row["task_id"] for row in json.loads(shown.stdout)] == [kept]
