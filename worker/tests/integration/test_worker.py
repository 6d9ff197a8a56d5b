"""Workers, whole, against a real Redis: in this process where that suffices, in their own where signals matter."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from orbiter.distributed import TaskBroker
from orbiter.distributed.broker.events import EventSubscriber
from orbiter.distributed.models import TaskStatus, is_final
from orbiter.distributed.worker.worker import Worker
from tests import keys
from tests.fleet import QUEUE, Fleet, working
from tests.support import PATIENCE, slowness, start_orbiter, wait_until, whole_lines


@pytest.mark.guide("Local Execution", "`orbiter start worker --redis-url …` runs agents here")
async def test_runs_a_task_and_records_its_result_and_events(fleet: Fleet) -> None:
    async with working(fleet):
        task_id = await fleet.submit("say", "one two three")
        task = await fleet.ends(task_id)
    assert task.result is not None
    assert task.result["output"] == "one two three "
    events = await fleet.events(task_id)
    assert "".join(event.text for event in events if event.type == "text") == "one two three "
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [is_final(event) for event in events] == [False] * (len(events) - 1) + [True]
    assert await fleet.is_empty()
    assert await fleet.workers() == []


async def test_a_fault_of_the_worker_is_no_error_of_its_tasks(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(wish: str) -> None:
        raise ZeroDivisionError(wish)

    worker = Worker(fleet.url, worker_id="w1", heartbeat_ttl=3, allow_import=["tests"])
    monkeypatch.setattr(worker._commands, "apply", fault)
    # In a loop of its own, which ends with it, as the command's does.
    life = asyncio.create_task(asyncio.to_thread(asyncio.run, worker.start()))
    task_id = await fleet.submit("sleep", metadata={"seconds": 600})
    await fleet.runs(task_id)
    # It may listen a little after it claims: told again until somebody hears.
    await wait_until(lambda: fleet.client.publish(keys.control("w1"), "drain"))
    await asyncio.wait({life})
    assert isinstance(life.exception(), ExceptionGroup)
    task = await fleet.store.get_status(task_id)
    assert task is not None
    assert (task.status, task.retries, task.attempt) == (TaskStatus.RUNNING, 0, 1)
    await fleet.broker.cancel(task_id)
    async with working(fleet, heartbeat_ttl=3):
        assert (await fleet.ends(task_id)).status == TaskStatus.CANCELLED


@pytest.mark.guide("Concurrency Tuning", "never more than the slots")
async def test_never_claims_more_than_it_can_start(fleet: Fleet) -> None:
    task_ids = await fleet.submit_many("sleep", 6, metadata={"seconds": 0.2})
    async with working(fleet, concurrency=2):
        seen = 0
        while not all(task and task.status.terminal for task in await fleet.store.get_many(task_ids)):
            pending = (await fleet.client.xpending(QUEUE, keys.group(QUEUE)))["pending"]
            seen = max(seen, pending)
            await asyncio.sleep(0.01)
    assert seen == 2


async def test_worker_claims_no_more_than_it_can_start_while_tasks_end(fleet: Fleet) -> None:
    await fleet.submit_many("sleep", 300, metadata={"seconds": 0.005})
    async with working(fleet, concurrency=4):
        seen = set()
        while await fleet.client.xlen(QUEUE):
            seen.add((await fleet.client.xpending(QUEUE, keys.group(QUEUE)))["pending"])
    assert max(seen) == 4


async def test_a_worker_that_is_never_idle_takes_over_what_others_left(fleet: Fleet) -> None:
    """Its claims come with its outcomes: it must leave a slot free to look for what a dead worker held."""
    left = await fleet.submit("noop")
    await fleet.client.xreadgroup(keys.group(QUEUE), "gone", {QUEUE: ">"})
    await fleet.submit_many("sleep", 1500, metadata={"seconds": 0.01})
    async with working(fleet, concurrency=2, heartbeat_ttl=1, drain_timeout=0):
        task = await fleet.ends(left)
        assert await fleet.client.xlen(QUEUE) > 50
    assert task.status == TaskStatus.COMPLETED


async def test_a_failing_task_is_retried_and_then_completes(fleet: Fleet) -> None:
    async with working(fleet):
        task = await fleet.ends(await fleet.submit("fail", metadata={"times": 2}))
    assert (task.status, task.retries, task.attempt, task.error) == (TaskStatus.COMPLETED, 2, 3, None)


@pytest.mark.guide("Task Retry Behavior", "`max_retries=3` by default")
async def test_a_task_that_always_fails_runs_four_times_and_is_a_dead_letter(fleet: Fleet) -> None:
    async with working(fleet):
        task_id = await fleet.submit("fail")
        task = await fleet.ends(task_id)
    assert (task.status, task.retries, task.attempt) == (TaskStatus.FAILED, 3, 4)
    assert task.error == "attempt 4 failed"
    [(_, letter)] = await fleet.client.xrange("{orbiter:tasks}:dead")
    assert (letter["task_id"], letter["reason"]) == (task_id, "attempt 4 failed")
    events = await fleet.events(task_id)
    assert [event.attempt for event in events] == sorted(event.attempt for event in events)
    assert sum(is_final(event) for event in events) == 1
    assert events[-1].status == "error"


async def test_a_refused_import_fails_at_once_and_names_path_and_option(fleet: Fleet) -> None:
    async with working(fleet, allow_import=["myapp"]):
        task = await fleet.ends(await fleet.submit("echo", "x"))
    assert (task.status, task.attempt) == (TaskStatus.FAILED, 1)
    assert task.error is not None
    assert "tests.integration.jobs" in task.error
    assert "--allow-import" in task.error


async def test_a_task_that_outlives_its_timeout_is_stopped(fleet: Fleet) -> None:
    async with working(fleet, max_retries=0):
        task = await fleet.ends(await fleet.submit("sleep", metadata={"seconds": 600}, timeout_seconds=0.2))
    assert task.status == TaskStatus.FAILED
    assert task.error == "run took longer than timeout_seconds=0.2"


@pytest.mark.alone
@pytest.mark.parametrize("job", ["sleep", "block"])
async def test_cancel_stops_a_running_task(fleet: Fleet, job: str) -> None:
    async with working(fleet):
        task_id = await fleet.submit(job, metadata={"seconds": 600})
        await fleet.runs(task_id)
        began = time.monotonic()
        assert await fleet.broker.cancel(task_id) == "requested"
        task = await fleet.ends(task_id)
        assert (time.monotonic() - began) / slowness() < 2
    assert task.status == TaskStatus.CANCELLED
    assert [event.status for event in await fleet.events(task_id) if is_final(event)] == ["cancelled"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"payload": "not json"}, "Invalid JSON"),
        ({"payload": "[1, 2]"}, "Input should be an object"),
        ({"something": "else"}, "no field 'payload'"),
        ({"payload": '{"task_id": 5}'}, "task_id: Input should be a valid string"),
        ({"payload": b"\xff\xfe"}, "JSON"),
        ({"payload": '{"a":' * 100_000}, "JSON"),
    ],
)
async def test_an_entry_that_is_no_task_is_a_dead_letter_with_the_reason(
    fleet: Fleet, fields: dict[Any, Any], reason: str
) -> None:
    async with working(fleet):
        await fleet.client.xadd(QUEUE, fields)
        await wait_until(lambda: fleet.client.xlen("{orbiter:tasks}:dead"))
        task = await fleet.ends(await fleet.submit("echo", "unharmed"))
    assert task.status == TaskStatus.COMPLETED
    [(_, letter)] = await fleet.client.xrange("{orbiter:tasks}:dead")
    assert reason in letter["reason"]
    assert await fleet.is_empty()


async def test_a_payload_that_names_its_task_fails_that_task(fleet: Fleet) -> None:
    async with working(fleet):
        await fleet.client.xadd(QUEUE, {"payload": '{"task_id": "t1", "timeout_seconds": "soon"}'})
        task = await fleet.ends("t1")
    assert (task.status, task.attempt) == (TaskStatus.FAILED, 1)
    assert task.error is not None
    assert task.error.startswith("timeout_seconds: ")


async def test_a_payload_of_the_old_system_is_executed(fleet: Fleet) -> None:
    """wire-format: keys in their order, json.dumps defaults, XADDed by hand."""
    payload = {
        "task_id": "0123456789abcdef0123456789abcdef",
        "agent_config": {
            "name": "old",
            "model": "test",
            "instructions": "",
            "max_steps": 10,
            "temperature": 1.0,
            "max_tokens": None,
        },
        "input": "hello",
        "messages": [],
        "model": None,
        "detailed": False,
        "metadata": {},
        "created_at": time.time(),
        "timeout_seconds": 300.0,
    }
    async with working(fleet):
        await fleet.client.xadd(QUEUE, {"payload": json.dumps(payload)})
        task = await fleet.ends(str(payload["task_id"]))
    assert task.status == TaskStatus.COMPLETED
    raw = await fleet.client.hgetall(keys.task(str(payload["task_id"])))
    assert json.loads(raw["result"])["output"]
    assert float(raw["completed_at"]) >= float(raw["started_at"])
    events = await fleet.events(str(payload["task_id"]))
    assert events[0].type == "text"
    assert events[-1].status == "completed"


async def test_a_late_subscriber_gets_everything_and_ends(fleet: Fleet) -> None:
    async with working(fleet):
        task_id = await fleet.submit("say", "a b")
        await fleet.ends(task_id)
        subscriber = EventSubscriber(fleet.url, client=fleet.client)
        events = [event async for event in subscriber.subscribe(task_id)]
    assert events[-1].status == "completed"  # type: ignore[union-attr]


async def test_the_group_may_vanish(fleet: Fleet) -> None:
    async with working(fleet):
        await fleet.client.delete(QUEUE)
        task = await fleet.ends(await fleet.submit("echo", "x"))
    assert task.status == TaskStatus.COMPLETED


async def test_survives_losing_every_connection(fleet: Fleet) -> None:
    async with working(fleet, concurrency=4) as worker:
        tasks = [await fleet.submit("sleep", metadata={"seconds": 0.3}) for _ in range(12)]
        for _ in range(5):
            await asyncio.sleep(0.1)
            for row in await fleet.client.client_list():
                if row["name"] == worker.worker_id:
                    with contextlib.suppress(Exception):
                        await fleet.client.client_kill_filter(_id=row["id"])
        ended = [await fleet.ends(task_id) for task_id in tasks]
    assert {task.status for task in ended} == {TaskStatus.COMPLETED}
    assert await fleet.is_empty()


@pytest.mark.parametrize("concurrency", [1, 64])
async def test_has_four_connections_whatever_the_concurrency(fleet: Fleet, tmp_path: Path, concurrency: int) -> None:
    until, log = tmp_path / "until", tmp_path / "runs"
    async with working(fleet, concurrency=concurrency) as worker:
        held = {"metadata": {"until": str(until), "log": str(log)}}
        tasks = await fleet.submit_many("hold", concurrency, **held)
        most = 0

        async def look(over: Callable[[], Awaitable[bool]]) -> bool:
            nonlocal most
            names = [row["name"] for row in await fleet.client.client_list()]
            most = max(most, names.count(worker.worker_id))
            return await over()

        async def all_run() -> bool:
            return most == 4 and len(whole_lines(log)) == concurrency

        async def all_ended() -> bool:
            return all(task and task.status.terminal for task in await fleet.store.get_many(tasks))

        await wait_until(lambda: look(all_run))
        until.touch()
        await wait_until(lambda: look(all_ended))
    assert most == 4


async def test_two_calls_with_outcomes_use_a_connection_each(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    turn, under_way, seen = TaskBroker.settle_and_claim, [], set()

    async def watched(broker: TaskBroker, consumer: str, outcomes: Any, count: int, *, client: Any = None) -> Any:
        if not outcomes:
            return await turn(broker, consumer, outcomes, count, client=client)
        under_way.append(id(client))
        seen.add(tuple(under_way))
        try:
            return await turn(broker, consumer, outcomes, count, client=client)
        finally:
            under_way.remove(id(client))

    monkeypatch.setattr(TaskBroker, "settle_and_claim", watched)
    tasks = await fleet.submit_many("echo", 400)
    async with working(fleet, concurrency=16):
        ended = await fleet.all_end(tasks)
    assert {task.status for task in ended} == {TaskStatus.COMPLETED}
    assert {len(calls) for calls in seen} == {1, 2}
    assert 2 in {len(set(calls)) for calls in seen}
    await fleet.check_invariants(tasks)


# -- drain -------------------------------------------------------------------------------------------------------------


async def test_drain_lets_running_tasks_end_and_claims_no_more(fleet: Fleet, tmp_path: Path) -> None:
    until = tmp_path / "until"
    async with working(fleet, concurrency=2) as worker:
        running = [await fleet.submit("hold", metadata={"until": str(until)}) for _ in range(2)]
        for task_id in running:
            await fleet.runs(task_id)
        waiting = await fleet.submit("sleep")
        await worker.stop()
        await wait_until(lambda: worker.state == "draining")
        until.touch()
        await wait_until(lambda: worker.state == "stopped")
    assert [(await fleet.ends(task_id)).status for task_id in running] == [TaskStatus.COMPLETED] * 2
    assert (await fleet.store.get_status(waiting)).status == TaskStatus.PENDING  # type: ignore[union-attr]


@pytest.mark.parametrize("job", ["sleep", "block"])
async def test_drain_hands_back_what_outlives_its_deadline(fleet: Fleet, job: str) -> None:
    async with working(fleet, drain_timeout=0.2):
        task_id = await fleet.submit(job, metadata={"seconds": 3})
        await fleet.runs(task_id)
    task = await fleet.store.get_status(task_id)
    assert task is not None
    async with working(fleet):
        task = await fleet.ends(task_id)
    if job == "sleep":
        assert (task.status, task.handoffs, task.retries, task.attempt) == (TaskStatus.COMPLETED, 1, 0, 2)
    assert task.status == TaskStatus.COMPLETED
    assert await fleet.is_empty()


async def test_a_second_stop_hands_back_at_once(fleet: Fleet) -> None:
    began = time.monotonic()
    async with working(fleet, drain_timeout=600) as worker:
        task_id = await fleet.submit("sleep", metadata={"seconds": 600})
        await fleet.runs(task_id)
        await worker.stop()
        await wait_until(lambda: worker.state == "draining")
    assert time.monotonic() - began < 40
    assert (await fleet.store.get_status(task_id)).status == TaskStatus.PENDING  # type: ignore[union-attr]


@pytest.mark.alone
async def test_an_idle_worker_stops_at_once(fleet: Fleet) -> None:
    worker = Worker(fleet.url)
    life = asyncio.create_task(worker.start())
    await wait_until(lambda: worker.state == "running")
    await asyncio.sleep(0.2)  # let it block in its read: no state shows that from outside
    began = time.monotonic()
    await worker.stop()
    await life
    assert (time.monotonic() - began) / slowness() < 0.2
    assert await fleet.client.xinfo_consumers(QUEUE, keys.group(QUEUE)) == []


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.mark.guide("Tasks stuck in RUNNING", "…and are, without anybody's help (ours)")
@pytest.mark.guide("Graceful Shutdown", "…and they run again elsewhere (ours)")
async def test_kill_9_loses_no_task(fleet: Fleet, tmp_path: Path) -> None:
    """The tasks of a worker that is killed complete elsewhere, once its lease has run out."""
    options = ("--redis-url", fleet.url, "--heartbeat-ttl", "3", "--concurrency", "4", "--allow-import", "tests")
    log, until = tmp_path / "runs", tmp_path / "until"
    with start_orbiter("start", "worker", "--worker-id", "victim", *options) as victim:
        held = {"until": str(until), "log": str(log)}
        tasks = [await fleet.submit("hold", metadata=held) for _ in range(4)]
        # A task counts as running a little before its first line runs: what it needs is imported in between.
        await wait_until(lambda: len(whole_lines(log)) == 4)
        victim.kill()
        until.touch()
        with start_orbiter("start", "worker", "--worker-id", "heir", *options) as heir:
            try:
                # A process needs its time to start, on a busy machine much.
                await wait_until(lambda: fleet.client.exists(keys.worker("heir")))
                began = time.time()
                ended = [await fleet.ends(task_id) for task_id in tasks]
            finally:
                heir.send_signal(signal.SIGTERM)
                heir.communicate(timeout=PATIENCE)
    assert {(task.status, task.worker_id, task.losses, task.crashes, task.retries) for task in ended} == {
        (TaskStatus.COMPLETED, "heir", 1, 0, 0)
    }
    assert {task.last_loss for task in ended} == {"its worker victim was lost"}
    assert max(task.started_at or 0 for task in ended) - began <= 5 * slowness()
    assert sorted(log.read_text().split()[1::2]) == ["1"] * 4 + ["2"] * 4
    assert await fleet.is_empty()


@pytest.mark.parametrize(
    "payload",
    [
        '{"task_id": "index", "agent_config": {}}',
        '{"task_id": "by_time", "agent_config": {}}',
        '{"task_id": "\\ud800"}',
        '{"task_id": "' + "x" * 300 + '"}',
    ],
)
async def test_a_payload_that_names_no_possible_task_harms_nobody(fleet: Fleet, payload: str) -> None:
    async with working(fleet, concurrency=2):
        for _ in range(2):
            await fleet.client.xadd(QUEUE, {"payload": payload})
            good = await fleet.submit("echo", "fine")
            assert (await fleet.ends(good)).status == TaskStatus.COMPLETED
        await wait_until(fleet.is_empty)
    assert await fleet.client.xlen("{orbiter:tasks}:dead") == 2


async def test_an_id_that_is_a_key_of_ours_is_refused(fleet: Fleet) -> None:
    with pytest.raises(ValueError, match="reserved"):
        await fleet.submit("echo", task_id="index")


@pytest.mark.parametrize(("job", "error_type"), [("mute", "MuteError"), ("cancels_itself", "RuntimeError")])
async def test_an_error_of_an_odd_kind_is_an_error_like_others(fleet: Fleet, job: str, error_type: str) -> None:
    async with working(fleet):
        task_id = await fleet.submit(job, max_retries=1)
        task = await fleet.ends(task_id)
    assert (task.status, task.error_type, task.attempt, task.handoffs) == (TaskStatus.FAILED, error_type, 2, 0)
    await fleet.check_invariants([task_id])


async def test_an_event_that_is_not_json_costs_nobody_anything(fleet: Fleet) -> None:
    async with working(fleet):
        task_id = await fleet.submit("odd_event")
        assert (await fleet.ends(task_id)).status == TaskStatus.COMPLETED
    assert "is not JSON" in (await fleet.events(task_id))[0].error
    await fleet.check_invariants([task_id])


async def test_a_group_that_is_made_anew_does_not_run_a_running_task_twice(fleet: Fleet, tmp_path: Path) -> None:
    log = tmp_path / "runs"
    async with working(fleet, concurrency=4):
        task_id = await fleet.submit("sleep", metadata={"seconds": 2, "log": str(log)})
        await wait_until(log.exists)
        await fleet.client.xgroup_destroy(QUEUE, keys.group(QUEUE))
        assert (await fleet.ends(task_id)).status == TaskStatus.COMPLETED
    assert log.read_text().count("\n") == 1
