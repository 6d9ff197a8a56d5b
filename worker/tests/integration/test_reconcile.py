"""Tasks whose entry was lost, on a real Redis and in a real cluster: they are found, and end with the reason."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from orbiter.distributed.broker.cluster_broker import ClusterBroker, broker_for
from orbiter.distributed.broker.dead_letters import DeadLetterError, DeadLetters
from orbiter.distributed.broker.events import EventSubscriber
from orbiter.distributed.broker.housekeeping import Housekeeping
from orbiter.distributed.broker.records import Batch, Claim, Outcome
from orbiter.distributed.broker.store import TaskStore
from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.client.handle import distributed
from orbiter.distributed.models import StatusEvent, TaskPayload, TaskResult, is_final
from orbiter.distributed.worker import reconciler as reconciling
from orbiter.distributed.worker.reconciler import Reconciler
from tests import keys
from tests.servers import Cluster, cluster_of_six, eventually
from tests.support import PATIENCE, wait_until, worker_process

QUEUE = "orbiter:tasks"
# Short, so that a task is old enough soon.
LEASE = 0.05
FINAL = '{"type": "status", "status": "completed", "agent_name": "", "message": "", "seq": 1, "attempt": 1}'
SLEEP = {"runtime": "callable", "name": "sleep", "target": "tests.integration.jobs:sleep"}


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_of_six(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(params=["standalone", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "standalone":
        return str(request.getfixturevalue("redis_url"))
    cluster: Cluster = request.getfixturevalue("six")
    eventually(cluster.healthy, what="the cluster is whole")
    cluster.flush()
    return cluster.url


@pytest.fixture
async def broker(url: str) -> AsyncIterator[TaskBroker]:
    broker = broker_for(url, queue_name=QUEUE)
    await broker.connect()
    await broker.ensure_group()
    yield broker
    await broker.disconnect()


async def rounds(broker: TaskBroker, number: int = 2) -> None:
    """Have so many rounds, each for tasks that are old enough, and as far from the one before as is needed."""
    for _ in range(number):
        await asyncio.sleep(LEASE * 2.5)
        await Reconciler(Housekeeping(broker), lease=LEASE).round()


async def status(broker: TaskBroker, task_id: str) -> TaskResult:
    task = await TaskStore(broker.redis_url, client=broker.client).get_status(task_id)
    assert task is not None
    return task


async def finals(broker: TaskBroker, task_id: str) -> list[str]:
    subscriber = EventSubscriber(broker.redis_url, client=broker.client)
    return [event.status async for event in subscriber.replay(task_id) if is_final(event)]  # type: ignore[union-attr]


async def claim(broker: TaskBroker, worker: str = "w1") -> Claim:
    [(entry, begun)] = await broker.fetch(worker, 1)
    task = TaskPayload.from_json(entry.fields["payload"])
    if begun.verdict == "read":
        [begun] = await broker.start(worker, [(entry, task)])
    assert begun.verdict == "run"
    return Claim(entry.entry_id, task, begun.deliveries, begun.attempt, begun.retries)


async def delete_entries(broker: TaskBroker) -> None:
    """Delete what is on the queue, as somebody does who does not know it."""
    for entry_id, _ in await broker.client.xrange(QUEUE):
        await broker.client.xdel(QUEUE, entry_id)


# -- what ends ---------------------------------------------------------------------------------------------------------


async def test_a_waiting_task_whose_entry_was_deleted_fails_with_the_reason(broker: TaskBroker) -> None:
    lost, kept = await broker.submit(TaskPayload()), await broker.submit(TaskPayload())
    first, _ = await broker.client.xrange(QUEUE)
    await broker.client.xdel(QUEUE, first[0])
    await rounds(broker, 1)
    assert (await status(broker, lost)).status == "pending"
    await rounds(broker, 1)
    task = await status(broker, lost)
    assert (task.status, task.error_type) == ("failed", "EntryLostError")
    assert QUEUE in (task.error or "")
    assert await finals(broker, lost) == ["error"]
    [letter] = [letter async for letter in DeadLetters(broker.redis_url, client=broker.client).newest()]
    assert (letter.task_id, letter.error_type, letter.reason) == (lost, "EntryLostError", task.error)
    with pytest.raises(DeadLetterError, match="submit the task anew"):
        letter.task()
    assert (await status(broker, kept)).status == "pending"
    assert await finals(broker, kept) == []


async def test_running_task_fails_with_reason_where_entry_and_claim_are_gone(broker: TaskBroker) -> None:
    task_id = await broker.submit(TaskPayload())
    await claim(broker, "w7")
    await broker.client.delete(QUEUE)
    await broker.ensure_group()
    await rounds(broker)
    task = await status(broker, task_id)
    assert (task.status, task.error_type) == ("failed", "EntryLostError")
    assert "w7" in (task.error or "")
    assert await finals(broker, task_id) == ["error"]


async def test_a_delayed_task_whose_place_is_gone_fails(broker: TaskBroker) -> None:
    task_id = await broker.submit(TaskPayload(not_before=time.time() + 600))
    await rounds(broker, 3)
    assert (await status(broker, task_id)).status == "pending"
    await broker.client.delete(keys.tagged(QUEUE, "delayed"), keys.tagged(QUEUE, "parked"))
    await rounds(broker)
    assert (await status(broker, task_id)).status == "failed"


async def test_a_delayed_task_whose_payload_is_kept_gets_its_place_again(broker: TaskBroker) -> None:
    due = round(time.time() + 600, 3)
    task_id = await broker.submit(TaskPayload(not_before=due))
    await broker.client.delete(keys.tagged(QUEUE, "delayed"))
    await rounds(broker, 3)
    assert (await status(broker, task_id)).status == "pending"
    assert await broker.client.zscore(keys.tagged(QUEUE, "delayed"), task_id) == due * 1000


async def test_a_run_without_an_entry_is_renewed_and_ends(broker: TaskBroker) -> None:
    runs, gives_up = await broker.submit_many([TaskPayload(), TaskPayload()])
    claims = [await claim(broker) for _ in range(2)]
    await broker.client.xtrim(QUEUE, 0, approximate=False)
    for _ in range(3):
        assert await broker.renew(broker.client, "w1", claims, lease=30) == ["ok", "ok"]
        # Two rounds later it would be lost, were it not renewed.
        await rounds(broker, 1)
    assert await broker.renew(broker.client, "w2", claims, lease=30) == ["lost", "lost"]
    claims[1].payload = claims[1].task.to_json()
    assert await broker.retry("w1", claims[1], delay=0, error="e", error_type="E") == "retrying"
    again = await claim(broker, "w2")
    assert (again.task.task_id, again.attempt) == (gives_up, 2)
    assert await broker.finish("w1", [Outcome(claims[0], "completed", "{}", "", 1, FINAL)]) == ["completed"]
    assert (await status(broker, runs)).status == "completed"


async def test_a_run_without_an_entry_whose_worker_is_lost_fails(broker: TaskBroker) -> None:
    task_id = await broker.submit(TaskPayload())
    running = await claim(broker)
    await broker.client.delete(QUEUE)
    await broker.ensure_group()
    assert await broker.renew(broker.client, "w1", [running], lease=LEASE) == ["ok"]
    await rounds(broker, 4)
    assert (await status(broker, task_id)).error_type == "EntryLostError"


async def test_records_that_nobody_lists_are_listed_again(broker: TaskBroker) -> None:
    task_id = await broker.submit(TaskPayload())
    await broker.client.delete(QUEUE)
    await broker.client.delete(keys.INDEX)
    await broker.client.delete(keys.BY_TIME)
    await rounds(broker, 4)
    assert (await status(broker, task_id)).error_type == "EntryLostError"


# -- what is spoilt ----------------------------------------------------------------------------------------------------


async def spoil(broker: TaskBroker, key: str) -> None:
    await broker.client.delete(key)
    await broker.client.sadd(key, "x")


async def test_keys_of_another_type_are_mended(broker: TaskBroker) -> None:
    beside = [QUEUE, *(keys.tagged(QUEUE, name) for name in ("delayed", "parked", "dead", "moving", "id"))]
    for key in [*beside, keys.BY_TIME]:
        await spoil(broker, key)
    mended = dict(await broker.mend())
    assert set(mended) == {*beside, keys.BY_TIME}
    for key in beside:
        assert await broker.client.smembers(mended[key]) == {"x"}
        assert await broker.client.ttl(mended[key]) > 0
    assert await broker.mend() == []
    task_id = await broker.submit(TaskPayload())
    assert (await claim(broker)).task.task_id == task_id


async def test_a_stream_without_ids_left_is_replaced_and_keeps_its_claims(broker: TaskBroker) -> None:
    first, second, third = await broker.submit_many([TaskPayload() for _ in range(3)])
    running = await claim(broker)
    await broker.client.xadd(QUEUE, {"payload": "x"}, id="18446744073709551615-18446744073709551615")
    with pytest.raises(redis.ResponseError):
        await broker.submit(TaskPayload(task_id="refused"))
    assert await broker.renew_stream() is True
    assert await broker.renew_stream() is False
    assert running.task.task_id == first
    assert await broker.renew(broker.client, "w1", [running]) == ["ok"]
    assert [(await claim(broker, "w2")).task.task_id for _ in range(2)] == [second, third]
    assert await broker.finish("w1", [Outcome(running, "completed", "{}", "", 1, FINAL)]) == ["completed"]
    # What stood there for no task comes last, and is to be read.
    [(entry, begun)] = await broker.fetch("w2", 5)
    assert (entry.fields, begun.verdict) == ({"payload": "x"}, "read")
    await broker.submit(TaskPayload(task_id="accepted"))


@pytest.mark.parametrize("value", ["abc", "-1", "9" * 30, ""])
async def test_counts_that_are_none_begin_anew(broker: TaskBroker, value: str) -> None:
    task_id = await broker.submit(TaskPayload())
    names = ("attempt", "retries", "crashes", "losses", "worker_losses", "expiries", "handoffs")
    await broker.client.hset(keys.task(task_id), mapping=dict.fromkeys(names, value))
    running = await claim(broker)
    assert (running.attempt, running.retries) == (1, 0)
    assert await broker.retry("w1", running, delay=0, error="e", error_type="E") == "retrying"
    running = await claim(broker)
    assert (running.attempt, running.retries) == (2, 1)
    why = {"reason": "killed", "error_type": "E"}
    assert await broker.lose("w1", running, **why, guilty=True, host=False) == "pending"
    assert await broker.requeue("w1", await claim(broker)) == "pending"
    assert await broker.client.hmget(keys.task(task_id), "losses", "handoffs") == ["1", "1"]


async def test_a_record_or_an_event_stream_of_another_type_costs_others_nothing(broker: TaskBroker) -> None:
    task_ids = await broker.submit_many([TaskPayload() for _ in range(3)])
    claims = [await claim(broker) for _ in range(3)]
    await spoil(broker, keys.task(task_ids[0]))
    await spoil(broker, keys.stream(task_ids[1]))
    verdicts = await broker.renew(broker.client, "w1", claims)
    assert verdicts[1:] == ["ok", "ok"]
    await broker.append_events([Batch(one.task.task_id, 1, 1, ['{"type": "text"}']) for one in claims])
    ended = await broker.finish("w1", [Outcome(one, "completed", "{}", "", 2, FINAL) for one in claims])
    assert ended[1:] == ["completed", "completed"]
    for task_id in task_ids[1:]:
        assert await finals(broker, task_id) == ["completed"]


async def test_a_lost_task_that_somebody_cancelled_ends_as_cancelled(broker: TaskBroker) -> None:
    task_id = await broker.submit(TaskPayload())
    await claim(broker)
    await broker.cancel(task_id)
    await broker.client.delete(QUEUE)
    await rounds(broker)
    assert (await status(broker, task_id)).status == "cancelled"
    assert await finals(broker, task_id) == ["cancelled"]
    assert await broker.client.xlen(keys.tagged(QUEUE, "dead")) == 0


async def test_a_queue_that_was_emptied_ends_all_its_tasks(broker: TaskBroker) -> None:
    task_ids = await broker.submit_many([TaskPayload() for _ in range(600)])
    await broker.client.delete(QUEUE)
    await rounds(broker)
    ended = await TaskStore(broker.redis_url, client=broker.client).get_many(task_ids)
    assert {task.status for task in ended if task} == {"failed"}


async def test_a_submit_that_stopped_half_way_ends_after_a_minute(
    broker: TaskBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"task_id": "half", "status": "pending", "queue": QUEUE, "submitting": "1"}
    await broker.client.hset(keys.task("half"), mapping=record)
    await broker.client.zadd(keys.BY_TIME, {"half": 1})
    await rounds(broker, 3)
    assert (await status(broker, "half")).status == "pending"
    monkeypatch.setattr(reconciling, "HALF_WAY", 0)
    await rounds(broker)
    task = await status(broker, "half")
    assert task.status == "failed"
    assert "half-way" in (task.error or "")
    # Its client goes on after all: that changes nothing any more.
    await broker.submit(TaskPayload(task_id="half"))
    assert await broker.client.xlen(QUEUE) == 0


async def test_a_lost_task_that_is_on_no_list_either_is_found_in_a_cluster(six: Cluster) -> None:
    eventually(six.healthy, what="the cluster is whole")
    six.flush()
    broker = broker_for(six.url, queue_name=QUEUE)
    await broker.connect()
    await broker.ensure_group()
    task_ids = await broker.submit_many([TaskPayload() for _ in range(30)])
    for name in (QUEUE, keys.INDEX, keys.BY_TIME):
        await broker.client.delete(name)
    await rounds(broker, 3)
    for task_id in task_ids:
        assert (await status(broker, task_id)).error_type == "EntryLostError"
    await broker.disconnect()


# -- what does not -----------------------------------------------------------------------------------------------------


async def test_a_task_that_is_held_anywhere_is_left_alone(broker: TaskBroker) -> None:
    """Waiting, running, handed back, put back after an error, promoted, retried from the dead letters, Temporal's."""
    running = await broker.submit(TaskPayload())
    await claim(broker, "w1")
    back = await broker.submit(TaskPayload())
    await broker.requeue("w1", await claim(broker))
    again = await claim(broker)
    assert again.task.task_id == back
    await broker.requeue("w1", again)
    soon = await broker.submit(TaskPayload(not_before=time.time() + 0.05))
    await wait_until(lambda: _promoted(broker))
    retried = await broker.submit(TaskPayload())
    await _put_at_once(broker, retried)
    durable = await broker.submit(TaskPayload())
    await _give_to_temporal(broker, durable)
    dead = await _retried_letter(broker)
    waiting = await broker.submit(TaskPayload())
    await rounds(broker, 4)
    for task_id in (running, back, soon, retried, durable, dead, waiting):
        task = await status(broker, task_id)
        assert not task.status.terminal, task
    assert await broker.client.hgetall(keys.tagged(QUEUE, "missing")) == {}


async def _promoted(broker: TaskBroker) -> bool:
    await broker.fetch("w1", 0) if isinstance(broker, ClusterBroker) else await broker.fetch("nobody", 1)
    return await broker.client.zcard(keys.tagged(QUEUE, "delayed")) == 0


async def _claim_of(broker: TaskBroker, task_id: str) -> Claim:
    while True:
        mine = await claim(broker)
        if mine.task.task_id == task_id:
            return mine


async def _put_at_once(broker: TaskBroker, task_id: str) -> None:
    await broker.retry("w1", await _claim_of(broker, task_id), delay=0, error="e", error_type="E")


async def _give_to_temporal(broker: TaskBroker, task_id: str) -> None:
    await broker.delegate("w1", await _claim_of(broker, task_id), "workflow")


async def _retried_letter(broker: TaskBroker) -> str:
    task_id = await broker.submit(TaskPayload())
    mine = await _claim_of(broker, task_id)
    event = StatusEvent(status="error", seq=1, attempt=mine.attempt).to_json()
    await broker.finish("w1", [Outcome(mine, "failed", "boom", "E", 1, event)])
    return await DeadLetters(broker.redis_url, client=broker.client).retry_task(task_id)


async def test_an_entry_that_its_record_does_not_name_is_found_and_named(broker: TaskBroker) -> None:
    """An 0.1 worker puts a task back without a word in its record; so did releases before this one."""
    task_id = await broker.submit(TaskPayload())
    [(old, fields)] = await broker.client.xrange(QUEUE)
    # Written by others: the id stands elsewhere in the text.
    payload = json.dumps(dict(reversed(json.loads(fields["payload"]).items())))
    await broker.client.xadd(QUEUE, {"payload": "no task"})
    new = await broker.client.xadd(QUEUE, {"payload": payload})
    await broker.client.xdel(QUEUE, old)
    await rounds(broker, 4)
    assert (await status(broker, task_id)).status == "pending"
    assert await broker.client.hget(keys.task(task_id), "entry") == new


async def test_a_search_that_takes_several_rounds_ends_only_what_it_did_not_find(
    broker: TaskBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "WALK_STEP", 20)
    monkeypatch.setattr(reconciling, "WALK_STEPS", 1)
    task_ids = await broker.submit_many([TaskPayload() for _ in range(70)])
    for task_id in task_ids:
        await broker.client.hdel(keys.task(task_id), "entry")
    rows = await broker.client.xrange(QUEUE)
    lost = {json.loads(fields["payload"])["task_id"] for _, fields in rows[::10]}
    for entry_id, _ in rows[::10]:
        await broker.client.xdel(QUEUE, entry_id)
    await rounds(broker, 2)
    assert not (await status(broker, min(lost))).status.terminal
    await rounds(broker, 5)
    for task_id in task_ids:
        assert (await status(broker, task_id)).status == ("failed" if task_id in lost else "pending")


async def test_a_task_that_changed_since_it_was_searched_for_is_left_alone(broker: TaskBroker) -> None:
    task_id = await broker.submit(TaskPayload())
    await delete_entries(broker)
    await rounds(broker, 1)
    await broker.client.hset(keys.task(task_id), "started_at", "1.5")
    await rounds(broker, 1)
    assert (await status(broker, task_id)).status == "pending"
    await rounds(broker, 1)
    assert (await status(broker, task_id)).status == "failed"


async def test_a_record_without_a_queue_is_left_alone(broker: TaskBroker) -> None:
    """An 0.1 worker writes none; its entry may be on any queue."""
    await broker.client.hset(keys.task("old"), mapping={"task_id": "old", "status": "running", "worker_id": "old01"})
    await broker.client.zadd(keys.BY_TIME, {"old": 1})
    await rounds(broker, 3)
    assert (await status(broker, "old")).status == "running"


async def test_records_of_a_round_are_few_and_the_next_round_goes_on(
    broker: TaskBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "PAGE", 10)
    monkeypatch.setattr(reconciling, "PAGES", 1)
    task_ids = await broker.submit_many([TaskPayload() for _ in range(45)])
    last = task_ids[-1]
    order = await broker.client.zrange(keys.BY_TIME, 0, -1)
    lost = order[-1]
    for entry_id, fields in await broker.client.xrange(QUEUE):
        if json.loads(fields["payload"])["task_id"] == lost:
            await broker.client.xdel(QUEUE, entry_id)
    await rounds(broker, 4)
    assert (await status(broker, lost)).status == "pending"
    await rounds(broker, 2)
    assert (await status(broker, lost)).status == "failed"
    assert last == lost or (await status(broker, last)).status == "pending"


# -- final events ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ended", "said"), [("completed", "completed"), ("failed", "error")])
async def test_a_task_that_ended_without_a_final_event_gets_one(broker: TaskBroker, ended: str, said: str) -> None:
    """In a cluster its worker died between two steps, and its entry is gone as well; an 0.1 worker says none."""
    now = time.time() - 1
    record = {"task_id": "over", "status": ended, "queue": QUEUE, "completed_at": str(now), "error": "boom"}
    await broker.client.hset(keys.task("over"), mapping=record)
    await broker.client.zadd(keys.BY_TIME, {"over": 1})
    await broker.client.xadd(keys.stream("over"), {"event": '{"type": "text", "text": "x", "seq": 1, "attempt": 1}'})
    await rounds(broker, 3)
    assert await finals(broker, "over") == [said]
    assert await broker.client.ttl(keys.stream("over")) > 0


async def test_a_final_event_of_an_0_1_worker_is_one(broker: TaskBroker) -> None:
    record = {"task_id": "over", "status": "completed", "queue": QUEUE, "completed_at": str(time.time() - 1)}
    await broker.client.hset(keys.task("over"), mapping=record)
    await broker.client.zadd(keys.BY_TIME, {"over": 1})
    await broker.client.xadd(
        keys.stream("over"), {"event": '{"type": "status", "status": "completed", "agent_name": "a", "message": ""}'}
    )
    await rounds(broker, 3)
    assert await finals(broker, "over") == ["completed"]


# -- workers -----------------------------------------------------------------------------------------------------------


async def test_whoever_waits_for_a_lost_task_is_told(url: str, broker: TaskBroker, tmp_path: Path) -> None:
    """A worker is killed, and meanwhile somebody trims the queue; a task that waits behind others is lost as well."""
    options = ("--heartbeat-ttl", "1")
    slow = {"metadata": {"seconds": 600}, "redis_url": url}
    with worker_process(url, "w1", tmp_path / "w1.log", *options) as worker:
        async with await distributed(SLEEP, "", **slow) as running, await distributed(SLEEP, "", **slow) as waiting:
            await wait_until(lambda: _runs(broker, running.task_id))
            worker.send_signal(signal.SIGKILL)
            await broker.client.xtrim(QUEUE, maxlen=0, approximate=False)
            with worker_process(url, "w2", tmp_path / "w2.log", *options):
                async with asyncio.timeout(PATIENCE):
                    for task in (running, waiting):
                        with pytest.raises(RuntimeError, match="lost"):
                            await task.result()
                        assert [event.status async for event in task.stream()] == ["error"]  # type: ignore[union-attr]
    assert await broker.client.xlen(keys.tagged(QUEUE, "dead")) == 2


async def test_a_worker_without_room_finds_lost_tasks_too(url: str, broker: TaskBroker, tmp_path: Path) -> None:
    with worker_process(url, "w1", tmp_path / "w1.log", "--heartbeat-ttl", "1"):
        busy, lost = [TaskPayload(agent_config=SLEEP, metadata={"seconds": 600}) for _ in range(2)]
        await broker.submit(busy)
        await wait_until(lambda: _runs(broker, busy.task_id))
        await broker.submit(lost)
        [(_, _), (entry_id, _)] = await broker.client.xrange(QUEUE)
        await broker.client.xdel(QUEUE, entry_id)
        await wait_until(lambda: _ended(broker, lost.task_id))
        assert (await status(broker, busy.task_id)).status == "running"


async def _runs(broker: TaskBroker, task_id: str) -> bool:
    return (await status(broker, task_id)).status == "running"


async def _ended(broker: TaskBroker, task_id: str) -> bool:
    return (await status(broker, task_id)).status.terminal


async def test_a_user_without_the_rights_for_it_claims_all_the_same(redis_url: str, tmp_path: Path) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "narrow", "on", ">x", "~*", "&*", "+@all", "-hgetall")
    narrow = redis_url.replace("//", "//narrow:x@")
    echo = {**SLEEP, "name": "echo", "target": "tests.integration.jobs:echo"}
    # Made known by a user who may read it.
    log = tmp_path / "w1.log"
    with worker_process(narrow, "w1", log, "--heartbeat-ttl", "1"):
        await wait_until(lambda: "cannot be compared" in log.read_text())
        async with await distributed(echo, "x", redis_url=redis_url) as task, asyncio.timeout(PATIENCE):
            assert await task.result() == {"output": "x"}
