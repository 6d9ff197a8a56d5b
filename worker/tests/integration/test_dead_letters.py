"""DeadLetters on a real Redis: what can run again does, exactly once, and what cannot says why."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from redis.asyncio import Redis

from orbiter.distributed.broker.dead_letters import DeadLetter, DeadLetterError, DeadLetters
from orbiter.distributed.broker.events import EventSubscriber
from orbiter.distributed.broker.records import CancelOutcome, Claim, Outcome
from orbiter.distributed.broker.store import TaskStore
from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.models import StatusEvent, TaskPayload, TaskStatus, TextEvent

DEAD = "{q}:dead"


@pytest.fixture
async def broker(redis_url: str, redis_client: Redis) -> TaskBroker:
    made = TaskBroker(redis_url, queue_name="q", client=redis_client)
    await made.connect()
    await made.ensure_group()
    return made


@pytest.fixture
def letters(redis_url: str, redis_client: Redis) -> DeadLetters:
    return DeadLetters(redis_url, queue_name="q", client=redis_client)


async def start(broker: TaskBroker) -> Claim:
    """Claim the next entry and start its task."""
    [(entry, started)] = await broker.fetch("w1", 1)
    assert started.verdict == "run"
    task = TaskPayload.from_fields(entry.fields)
    return Claim(entry.entry_id, task, started.deliveries, started.attempt, started.retries, started.alone)


async def end(broker: TaskBroker, claim: Claim, status: str, value: str = "boom") -> None:
    final = "completed" if status == "completed" else "error"
    event = StatusEvent(status=final, seq=1, attempt=claim.attempt).to_json()  # type: ignore[arg-type]
    assert await broker.finish("w1", [Outcome(claim, status, value, "RuntimeError", 1, event)]) == [status]


async def fail(broker: TaskBroker, task_id: str, **fields: Any) -> DeadLetter:
    """Submit a task, let it fail for good, and return its dead letter."""
    await broker.submit(TaskPayload(task_id=task_id, agent_config={"name": "a"}, created_at=12.5, **fields))
    await end(broker, await start(broker), "failed")
    letter = await DeadLetters("", queue_name="q", client=broker.client).find(task_id)
    assert letter is not None
    return letter


async def test_a_failed_task_runs_again_as_if_just_submitted(
    broker: TaskBroker, letters: DeadLetters, redis_client: Redis, redis_url: str
) -> None:
    letter = await fail(broker, "t1", metadata={"a": 1})
    await redis_client.hset("orbiter:task:t1", mapping={"retries": 3, "crashes": 2, "cancel_requested_at": "1"})
    history = {
        "losses": 4,
        "worker_losses": 2,
        "expiries": 1,
        "alone": "worker",
        "died_at": "w7",
        "last_loss": "killed",
    }
    await redis_client.hset("orbiter:task:t1", mapping=history)
    assert await letters.retry(letter) == "t1"

    task = await TaskStore(redis_url, client=redis_client).get_status("t1")
    assert task is not None
    assert (task.status, task.retries, task.crashes, task.attempt) == (TaskStatus.PENDING, 0, 0, 1)
    assert not set(history) & set(await redis_client.hkeys("orbiter:task:t1"))
    assert (task.created_at, task.queue, task.agent_name) == (12.5, "q", "a")
    assert (task.error, task.error_type, task.completed_at) == (None, None, None)
    assert not await redis_client.hexists("orbiter:task:t1", "cancel_requested_at")
    assert 0 < await redis_client.ttl("orbiter:task:t1") <= 86400
    assert await redis_client.xlen(DEAD) == 0
    assert not await redis_client.exists("orbiter:stream:t1")

    claim = await start(broker)
    assert (claim.task.metadata, claim.attempt, claim.alone) == ({"a": 1}, 2, "")
    await end(broker, claim, "completed", '{"output": "fine"}')
    assert await redis_client.xlen("q") == 0


async def test_a_new_subscriber_hears_the_new_run_and_not_the_old_end(
    broker: TaskBroker, letters: DeadLetters, redis_client: Redis, redis_url: str
) -> None:
    await letters.retry(await fail(broker, "t1"))
    claim = await start(broker)
    text = TextEvent(text="again", seq=1, attempt=2).to_json()
    await redis_client.xadd("orbiter:stream:t1", {"event": text})
    await end(broker, claim, "completed", "{}")
    heard = [event async for event in EventSubscriber(redis_url, client=redis_client).subscribe("t1")]
    assert [(event.type, event.attempt) for event in heard] == [("text", 2), ("status", 2)]


async def test_a_task_whose_record_has_expired_runs_again(
    broker: TaskBroker, letters: DeadLetters, redis_client: Redis
) -> None:
    await fail(broker, "t1")
    await redis_client.delete("orbiter:task:t1", "orbiter:task:index", "orbiter:task:by_time")
    await letters.retry_task("t1")
    known = await redis_client.hgetall("orbiter:task:t1")
    assert (known["task_id"], known["status"], known["created_at"]) == ("t1", "pending", "12.5")
    assert await redis_client.smembers("orbiter:task:index") == {"t1"}
    assert await redis_client.zrange("orbiter:task:by_time", 0, -1) == ["t1"]
    assert (await start(broker)).attempt == 1


async def test_many_who_retry_at_once_run_it_once(
    broker: TaskBroker, letters: DeadLetters, redis_client: Redis
) -> None:
    letter = await fail(broker, "t1")
    said = await asyncio.gather(*(letters.retry(letter) for _ in range(8)), return_exceptions=True)
    assert [one for one in said if not isinstance(one, DeadLetterError)] == ["t1"]
    assert await redis_client.xlen("q") == 1


async def test_a_letter_that_somebody_dropped_meanwhile_is_gone(
    broker: TaskBroker, letters: DeadLetters, redis_client: Redis
) -> None:
    letter = await fail(broker, "t1")
    await letters.drop([letter.entry_id])
    with pytest.raises(DeadLetterError, match="somebody else has just retried or dropped it"):
        await letters.retry(letter)
    assert await redis_client.hget("orbiter:task:t1", "status") == "failed"
    with pytest.raises(DeadLetterError, match="t1 is failed and its payload is gone from queue q; submit it again"):
        await letters.retry_task("t1")


@pytest.mark.parametrize("status", ["pending", "running", "retrying", "completed"])
async def test_only_what_failed_or_was_cancelled_runs_again(
    status: str, broker: TaskBroker, letters: DeadLetters, redis_client: Redis
) -> None:
    letter = await fail(broker, "t1")
    await redis_client.hset("orbiter:task:t1", "status", status)
    for retrying in (letters.retry(letter), letters.retry_task("t1")):
        with pytest.raises(DeadLetterError, match=f"Task t1 is {status}: only a failed or cancelled task"):
            await retrying
    assert await redis_client.xlen(DEAD) == 1
    assert await redis_client.xlen("q") == 0


async def test_an_entry_s_other_fields_come_back_with_it(letters: DeadLetters, redis_client: Redis) -> None:
    payload = TaskPayload(task_id="t1").to_json()
    await redis_client.xadd(DEAD, {"task_id": "t1", "reason": "r", "entry_sig": "abc", "payload": payload})
    await letters.retry_task("t1")
    ((_, fields),) = await redis_client.xrange("q")
    assert fields == {"payload": payload, "sig": "abc"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"payload": "nonsense"}, "its payload is no task: task: Invalid JSON"),
        ({"payload": ""}, "its payload is lost"),
        ({"payload": '{"task_id": 3}'}, "its payload is no task: task_id: "),
        ({"payload": '{"task_id": "t1"}', "truncated": "1"}, "only a part of its payload was kept"),
    ],
)
async def test_what_is_no_task_cannot_be_retried(
    fields: dict[str, str], said: str, letters: DeadLetters, redis_client: Redis
) -> None:
    entry_id = await redis_client.xadd(DEAD, {"task_id": "", "reason": "r", "error_type": "E", **fields})
    letter = await letters.find(entry_id)
    assert letter is not None
    with pytest.raises(DeadLetterError, match=f"Dead letter {entry_id} cannot be retried: {said}"):
        await letters.retry(letter)
    assert await letters.count() == 1


async def test_a_task_cancelled_while_it_waited_runs_once_again(
    broker: TaskBroker, letters: DeadLetters, redis_client: Redis
) -> None:
    for task_id in ("t0", "t1"):
        await broker.submit(TaskPayload(task_id=task_id, input=task_id))
    assert await broker.cancel("t1") is CancelOutcome.CANCELLED
    await letters.retry_task("t1")
    assert await redis_client.hget("orbiter:task:t1", "status") == "pending"
    assert await redis_client.xlen("q") == 2, "the entry that it had left is used again"
    assert [(await start(broker)).task.input for _ in range(2)] == ["t0", "t1"]


async def test_a_task_cancelled_while_it_ran_has_left_no_payload(broker: TaskBroker, letters: DeadLetters) -> None:
    await broker.submit(TaskPayload(task_id="t1"))
    await end(broker, await start(broker), "cancelled", "")
    with pytest.raises(DeadLetterError, match="Task t1 is cancelled and its payload is gone"):
        await letters.retry_task("t1")


async def test_an_unknown_task_is_not_found(letters: DeadLetters) -> None:
    with pytest.raises(DeadLetterError, match=r"^Task not found: t1$"):
        await letters.retry_task("t1")


async def test_a_full_redis_refuses_and_nothing_is_lost(
    broker: TaskBroker, letters: DeadLetters, redis_client: Redis
) -> None:
    letter = await fail(broker, "t1")
    await redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(Exception, match=r"OOM|maxmemory"):
            await letters.retry(letter)
    finally:
        await redis_client.config_set("maxmemory", 0)
    assert await redis_client.hget("orbiter:task:t1", "status") == "failed"
    assert await letters.retry(letter) == "t1"


async def test_letters_are_listed_the_newest_first_and_found_by_both_names(
    letters: DeadLetters, redis_client: Redis
) -> None:
    for n in range(230):
        fields = {"task_id": f"t{n % 200}", "reason": f"r{n}", "error_type": "E", "payload": "{}"}
        await redis_client.xadd(DEAD, fields, id=f"{1000 + n}-1")
    assert [letter.reason async for letter in letters.newest(3)] == ["r229", "r228", "r227"]
    assert len([letter async for letter in letters.newest()]) == 230
    by_task, by_entry = await letters.find("t5"), await letters.find("1005-1")
    assert by_task is not None
    assert by_entry is not None
    assert (by_task.reason, by_entry.reason) == ("r205", "r5")
    assert by_entry.dead_since == 1.005
    assert await letters.find("t999") is None
    assert await letters.find("9-9") is None


async def test_dropping_all_spares_what_nobody_has_seen(letters: DeadLetters, redis_client: Redis) -> None:
    assert await letters.drop_all() == 0
    for n in range(3):
        await redis_client.xadd(DEAD, {"task_id": f"t{n}", "payload": "{}"})
    assert await letters.drop([]) == 0
    assert await letters.drop_all() == 3
    assert await letters.count() == 0


async def test_the_payload_survives_byte_for_byte(letters: DeadLetters, redis_client: Redis) -> None:
    payload = json.dumps({"task_id": "ü", "input": "é\n\u2028", "novel": [1.0, 1e300]}, ensure_ascii=False)
    await redis_client.xadd(DEAD, {"task_id": "ü", "reason": "", "error_type": "", "payload": payload})
    await letters.retry_task("ü")
    ((_, fields),) = await redis_client.xrange("q")
    assert fields == {"payload": payload}
