"""The queue's steps, one at a time, against a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from orbiter.distributed.broker.housekeeping import Housekeeping
from orbiter.distributed.broker.records import Batch, CancelOutcome, Claim, Entry, Outcome, StartResult
from orbiter.distributed.broker.store import TaskStore
from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.connection.redis_url import connect
from orbiter.distributed.models import StatusEvent, TaskPayload, TaskStatus, TextEvent
from orbiter.distributed.worker.sweeper import Sweeper
from tests import keys
from tests.support import slowness, wait_until

QUEUE = "orbiter:tasks"


@pytest.fixture
async def broker(redis_url: str) -> AsyncIterator[TaskBroker]:
    broker = TaskBroker(redis_url)
    await broker.connect()
    await broker.ensure_group()
    yield broker
    await broker.disconnect()


@pytest.fixture
def store(redis_url: str, redis_client: Redis) -> TaskStore:
    return TaskStore(redis_url, client=redis_client)


async def claim(broker: TaskBroker, worker: str = "w1") -> Claim:
    """Fetch and start one task."""
    [(entry, started)] = await broker.fetch(worker, 1)
    assert started.verdict == "run"
    task = TaskPayload.from_json(entry.fields["payload"])
    return Claim(entry.entry_id, task, started.deliveries, started.attempt, started.retries, started.alone)


def completed(claim: Claim) -> Outcome:
    return Outcome(claim, "completed", '{"output": "done"}', "", 1, StatusEvent(status="completed", seq=1).to_json())


async def pending(client: Redis) -> int:
    return int((await client.xpending(QUEUE, keys.group(QUEUE)))["pending"])


async def test_a_finished_task_leaves_an_empty_queue(broker: TaskBroker, store: TaskStore, redis_client: Redis) -> None:
    task_id = await broker.submit(TaskPayload(input="hello"))
    mine = await claim(broker)
    assert (await store.get_status(task_id)).status == TaskStatus.RUNNING
    assert await broker.finish("w1", [completed(mine)]) == ["completed"]
    task = await store.get_status(task_id)
    assert (task.status, task.result, task.attempt) == (TaskStatus.COMPLETED, {"output": "done"}, 1)
    assert await redis_client.xlen(QUEUE) == 0
    assert await pending(redis_client) == 0
    assert 86000 < await redis_client.ttl(keys.task(task_id)) <= 86400


async def test_submitting_an_id_twice_is_one_task(broker: TaskBroker, redis_client: Redis) -> None:
    await broker.submit(TaskPayload(task_id="same", input="first"))
    await broker.submit(TaskPayload(task_id="same", input="second"))
    assert await redis_client.xlen(QUEUE) == 1


async def test_finishing_twice_is_harmless(broker: TaskBroker, redis_client: Redis) -> None:
    task_id = await broker.submit(TaskPayload())
    mine = await claim(broker)
    assert await broker.finish("w1", [completed(mine)]) == ["completed"]
    assert await broker.finish("w1", [completed(mine)]) == ["completed"]
    # The record tells the end of a task that has said nothing: a stream for that alone is the dearest of all it keeps.
    assert not await redis_client.exists(keys.stream(task_id))


async def test_a_final_event_stands_behind_the_others_once(broker: TaskBroker, redis_client: Redis) -> None:
    task_id = await broker.submit(TaskPayload())
    mine = await claim(broker)
    await broker.append_events([Batch(task_id, 1, 1, [TextEvent(text="hi").to_json(seq=1, attempt=1)])])
    final = StatusEvent(status="completed").to_json(seq=2, attempt=1)
    for _ in range(2):
        assert await broker.finish("w1", [Outcome(mine, "completed", "{}", "", 2, final)]) == ["completed"]
    assert [fields["event"] for _, fields in await redis_client.xrange(keys.stream(task_id))][1:] == [final]


async def test_a_stream_keeps_so_many_events_the_newest(redis_url: str, redis_client: Redis) -> None:
    broker = TaskBroker(redis_url, stream_events=100)
    await broker.connect()
    await broker.ensure_group()
    task_id = await broker.submit(TaskPayload())
    await claim(broker)
    events = [TextEvent(text=str(number)).to_json(seq=number, attempt=1) for number in range(1, 1_001)]
    await broker.append_events([Batch(task_id, 1, 1, events)])
    kept = [fields["event"] for _, fields in await redis_client.xrange(keys.stream(task_id))]
    await broker.disconnect()
    # Redis drops whole nodes, of a hundred entries with its own settings.
    assert 100 <= len(kept) < 300
    assert kept == events[-len(kept) :]


async def test_nothing_follows_the_end_that_the_record_tells(broker: TaskBroker, redis_client: Redis) -> None:
    task_id = await broker.submit(TaskPayload())
    assert await broker.finish("w1", [completed(await claim(broker))]) == ["completed"]
    await broker.append_events([Batch(task_id, 1, 1, [TextEvent(text="late").to_json(seq=1, attempt=1)])])
    assert not await redis_client.exists(keys.stream(task_id))


async def test_a_worker_that_lost_its_claim_records_nothing(broker: TaskBroker, store: TaskStore) -> None:
    task_id = await broker.submit(TaskPayload())
    frozen = await claim(broker, "frozen")
    [entry] = await reclaim(broker, "successor")
    [started] = await broker.start("successor", [(entry, frozen.task)])
    assert started.attempt == 2
    assert await broker.finish("frozen", [completed(frozen)]) == ["lost"]
    assert await broker.retry("frozen", frozen, delay=0, error="e", error_type="E") == "lost"
    assert await broker.requeue("frozen", frozen) == "lost"
    assert await lose(broker, "frozen", frozen) == "lost"
    assert await broker.renew(broker.client, "frozen", [frozen]) == ["lost"]
    task = await store.get_status(task_id)
    assert (task.status, task.worker_id, task.losses, task.crashes) == (TaskStatus.RUNNING, "successor", 1, 0)
    assert task.last_loss == "its worker frozen was lost"


async def lose(
    broker: TaskBroker, worker: str, claim: Claim, *, alone: str | None = None, guilty: bool = False, host: bool = False
) -> str:
    """Let the process die that ran a claim."""
    died = claim if alone is None else replace(claim, alone=alone)
    return await broker.lose(
        worker, died, reason="killed by signal 11 (SIGSEGV)", error_type="ProcessDiedError", guilty=guilty, host=host
    )


async def reclaim(broker: TaskBroker, worker: str) -> list[Entry]:
    """Sweep until the leases of one second have run out."""
    return await wait_until(lambda: Sweeper(Housekeeping(broker), worker, lease=1).sweep(10))


async def test_a_renewed_claim_is_not_reclaimed(broker: TaskBroker, redis_client: Redis) -> None:
    await broker.submit(TaskPayload())
    mine = await claim(broker)
    lease = round(2 * slowness())
    until = time.monotonic() + 1.5 * lease
    while time.monotonic() < until:
        assert await broker.renew(redis_client, "w1", [mine]) == ["ok"]
        assert await Sweeper(Housekeeping(broker), "w2", lease=lease).sweep(10) == []
        await asyncio.sleep(0.1)
    rows = await redis_client.xpending_range(QUEUE, keys.group(QUEUE), "-", "+", 10)
    assert rows[0]["times_delivered"] == 1


async def test_a_sweeper_respects_the_longer_lease_of_a_living_owner(broker: TaskBroker, redis_client: Redis) -> None:
    await broker.submit(TaskPayload(task_id="slow"))
    await broker.submit(TaskPayload(task_id="dead"))
    await broker.beat(redis_client, "slow", 30, {"heartbeat_ttl": "30", "version": "0.1.0", "status": "running"})
    await claim(broker, "slow")
    await claim(broker, "dead")
    entries = await reclaim(broker, "sweeper")
    assert [TaskPayload.from_json(entry.fields["payload"]).task_id for entry in entries] == ["dead"]


@pytest.mark.parametrize("dies", [False, True])
async def test_leases_that_run_out_at_living_workers_do_not_soon_end_a_task(
    broker: TaskBroker, store: TaskStore, dies: bool
) -> None:
    """As while Redis is away again and again, which says nothing about the task; it is given up for 25 of them."""
    task_id = await broker.submit(TaskPayload())
    mine = await claim(broker, "w0")
    for number in range(24):
        owner, worker = f"w{number}", f"w{number + 1}"
        [entry] = await Housekeeping(broker).reclaim(worker, 1, {owner: 0})
        [row] = await broker.start(worker, [(entry, mine.task)], alive=[owner])
        assert (row.verdict, row.alone) == ("run", "")
    task = await store.get_status(task_id)
    assert (task.losses, task.crashes, task.last_loss) == (24, 0, "its lease ran out at worker w23")
    if dies:
        # A process that dies is one of the losses that are few, and the first of them.
        last = Claim(entry.entry_id, mine.task, row.deliveries, row.attempt, row.retries, row.alone)
        why = {"reason": "killed", "error_type": "E"}
        assert await broker.lose("w24", last, **why, guilty=False, host=False) == "pending"
        return
    [entry] = await Housekeeping(broker).reclaim("w25", 1, {"w24": 0})
    [row] = await broker.start("w25", [(entry, mine.task)], alive=["w24"])
    task = await store.get_status(task_id)
    assert (row.verdict, task.status, task.error_type) == ("dead", TaskStatus.FAILED, "WorkerLostError")


async def test_a_living_worker_of_the_old_system_keeps_its_entries(broker: TaskBroker, redis_client: Redis) -> None:
    await broker.submit(TaskPayload(task_id="old"))
    await broker.submit(TaskPayload(task_id="dead"))
    await redis_client.hset(keys.worker("old"), mapping={"status": "running", "last_heartbeat": "1.0"})
    await claim(broker, "old")
    await claim(broker, "dead")
    entries = await reclaim(broker, "sweeper")
    assert [TaskPayload.from_json(entry.fields["payload"]).task_id for entry in entries] == ["dead"]


@pytest.mark.parametrize(
    ("max_crashes", "crashes", "last"),
    [(0, [0], "1 time"), (1, [0, 0, 1], "3 times"), (3, [0, 0, 1, 2, 3], "5 times")],
)
async def test_a_task_that_loses_too_many_workers_is_a_dead_letter(
    broker: TaskBroker, store: TaskStore, redis_client: Redis, *, max_crashes: int, crashes: list[int], last: str
) -> None:
    """The first two losses say nothing about it: so does what else ran there. After those it runs alone in a worker."""
    broker.max_crashes = max_crashes
    task_id = await broker.submit(TaskPayload())
    mine = await claim(broker, "w0")
    seen, ran = [], [mine.alone]
    for number in range(len(crashes)):
        owner, worker = f"w{number}", f"w{number + 1}"
        [entry] = await Housekeeping(broker).reclaim(worker, 1, {owner: 0})
        [row] = await broker.start(worker, [(entry, mine.task)])
        task = await store.get_status(task_id)
        seen.append((task.losses, task.crashes))
        ran += [row.alone] if row.verdict == "run" else []
        assert task.last_loss == f"its worker {owner} was lost"
    assert row.verdict == "dead"
    assert seen == [(number + 1, charged) for number, charged in enumerate(crashes)]
    assert ran == ["", "", *["worker"] * len(crashes)][: len(crashes)]
    assert (task.status, task.error) == (TaskStatus.FAILED, f"lost its worker {last}")
    assert task.error_type == "WorkerLostError"
    [(_, letter)] = await redis_client.xrange("{orbiter:tasks}:dead")
    assert TaskPayload.from_json(letter["payload"]).task_id == task_id
    assert await redis_client.xlen(QUEUE) == 0
    assert await pending(redis_client) == 0
    assert await redis_client.xlen(keys.stream(task_id)) == 1


async def test_deliveries_alone_charge_nothing(broker: TaskBroker, store: TaskStore) -> None:
    """Entries that go from worker to worker and are not started by any, as in the moment before each of them dies."""
    task = TaskPayload()
    await broker.client.xadd(QUEUE, {"text": "", "payload": task.to_json()})
    [(entry, said)] = await broker.fetch("w0", 1)
    assert said.verdict == "read"
    for number in range(20):
        await Housekeeping(broker).reclaim(f"w{number + 1}", 1, {f"w{number}": 0})
    [row] = await broker.start("w20", [(entry, task)])
    assert (row.verdict, row.deliveries, row.attempt, row.alone) == ("run", 21, 1, "")
    known = await store.get_status(task.task_id)
    assert (known.losses, known.crashes) == (0, 0)


async def test_start_sent_again_counts_no_second_loss(broker: TaskBroker, store: TaskStore) -> None:
    task_id = await broker.submit(TaskPayload())
    mine = await claim(broker, "w0")
    for owner, worker in (("w0", "w1"), ("w1", "w2")):
        [entry] = await Housekeeping(broker).reclaim(worker, 1, {owner: 0})
        rows = [(await broker.start(worker, [(entry, mine.task)]))[0] for _ in range(2)]
        assert rows[0] == rows[1]
    assert rows[0].alone == "worker"
    task = await store.get_status(task_id)
    assert (task.losses, task.crashes, task.attempt) == (2, 0, 3)


async def test_innocent_beside_a_process_that_dies_runs_again_alone_uncharged(
    broker: TaskBroker, store: TaskStore, redis_client: Redis
) -> None:
    task_id, other = await broker.submit_many([TaskPayload(), TaskPayload()])
    mine = await claim(broker)
    assert await lose(broker, "w1", mine, guilty=True) == "pending"
    task = await store.get_status(task_id)
    assert (task.status, task.losses, task.crashes, task.handoffs, task.retries) == (TaskStatus.PENDING, 1, 0, 0, 0)
    assert task.last_loss == "killed by signal 11 (SIGSEGV)"
    # Its run has no final event, as the task has not ended; it is last in the queue.
    assert await redis_client.xlen(keys.stream(task_id)) == 0
    assert await pending(redis_client) == 0
    assert (await claim(broker, "w2")).task.task_id == other
    again = await claim(broker, "w2")
    assert (again.task.task_id, again.attempt, again.alone) == (task_id, 2, "child")
    assert await broker.finish("w2", [completed(again)]) == ["completed"]
    assert (await store.get_status(task_id)).crashes == 0


@pytest.mark.parametrize(
    ("deaths", "crashes"),
    [
        ([("w1", "child", False)], 0),
        ([("w1", "child", False), ("w1", "child", False)], 0),
        ([("w1", "child", False), ("w2", "child", False)], 1),
        ([("w1", "child", False), ("w2", "child", False), ("w2", "child", False)], 1),
        ([("w1", "child", True)], 1),
        ([("w1", "worker", True)], 1),
        ([("w1", "", True), ("w2", "", False)], 0),
        ([("w1", "", True), ("w2", "child", False)], 0),
    ],
    ids=[
        *("one worker saw it", "the same worker twice", "two workers", "back at the second", "guilty in a child"),
        *("guilty in a worker", "never alone", "once alone"),
    ],
)
async def test_death_alone_is_charged_where_guilt_is_known_or_two_workers_saw_it(
    broker: TaskBroker, store: TaskStore, deaths: list[tuple[str, str, bool]], crashes: int
) -> None:
    task_id = await broker.submit(TaskPayload())
    for worker, alone, guilty in deaths:
        assert await lose(broker, worker, await claim(broker, worker), alone=alone, guilty=guilty) == "pending"
    task = await store.get_status(task_id)
    assert (task.status, task.losses, task.crashes) == (TaskStatus.PENDING, len(deaths), crashes)


@pytest.mark.parametrize(
    ("max_crashes", "guilty", "crashes", "history"),
    [
        (0, False, 0, "1 run lost, 0 charged as crashes"),
        (1, True, 2, "3 runs lost, 2 charged as crashes"),
        (3, True, 4, "5 runs lost, 4 charged as crashes"),
        (1, False, 0, "3 runs lost, 0 charged as crashes"),
    ],
    ids=["none allowed", "one allowed", "three allowed", "never charged"],
)
async def test_task_whose_processes_die_ends_as_a_dead_letter_with_its_history(
    broker: TaskBroker,
    store: TaskStore,
    redis_client: Redis,
    *,
    max_crashes: int,
    guilty: bool,
    crashes: int,
    history: str,
) -> None:
    broker.max_crashes = max_crashes
    task_id = await broker.submit(TaskPayload())
    stands = []
    while stands[-1:] in ([], ["pending"]):
        stands.append(await lose(broker, "w1", await claim(broker), guilty=guilty))
    assert stands == ["pending"] * (int(history[0]) - 1) + ["failed"]
    task = await store.get_status(task_id)
    error = f"killed by signal 11 (SIGSEGV); {history}"
    assert (task.status, task.error, task.error_type) == (TaskStatus.FAILED, error, "ProcessDiedError")
    assert (task.losses, task.crashes) == (len(stands), crashes)
    [(_, letter)] = await redis_client.xrange("{orbiter:tasks}:dead")
    assert (letter["task_id"], letter["reason"], letter["error_type"]) == (task_id, error, "ProcessDiedError")
    assert TaskPayload.from_json(letter["payload"]).task_id == task_id
    [(_, fields)] = await redis_client.xrange(keys.stream(task_id))
    assert '"status": "error"' in fields["event"]
    assert error in fields["event"]
    assert (await redis_client.xlen(QUEUE), await pending(redis_client)) == (0, 0)
    assert 86000 < await redis_client.ttl(keys.task(task_id)) <= 86400


async def test_task_that_was_alone_from_the_first_run_fails_by_its_crashes(
    broker: TaskBroker, store: TaskStore
) -> None:
    """As where each task has a process of its own: there is no loss beside others before the crashes."""
    broker.max_crashes = 1
    task_id = await broker.submit(TaskPayload())
    stands = [await lose(broker, "w1", await claim(broker), alone="child", guilty=True) for _ in range(2)]
    assert stands == ["pending", "failed"]
    task = await store.get_status(task_id)
    assert (task.losses, task.crashes) == (2, 2)
    assert task.error == "killed by signal 11 (SIGSEGV); 2 runs lost, 2 charged as crashes"


async def test_losses_of_workers_and_of_processes_count_together(broker: TaskBroker, store: TaskStore) -> None:
    """And what runs alone in a worker is never let back among others."""
    broker.max_crashes = 2
    task_id = await broker.submit(TaskPayload())
    mine = await claim(broker, "w0")
    for owner, worker in (("w0", "w1"), ("w1", "w2")):
        [entry] = await Housekeeping(broker).reclaim(worker, 1, {owner: 0})
        [row] = await broker.start(worker, [(entry, mine.task)])
    died = Claim(entry.entry_id, mine.task, row.deliveries, row.attempt, row.retries, row.alone)
    assert await lose(broker, "w2", died) == "pending"
    again = await claim(broker, "w3")
    assert (again.alone, (await store.get_status(task_id)).losses) == ("worker", 3)
    assert await lose(broker, "w3", again) == "failed"
    task = await store.get_status(task_id)
    assert (task.losses, task.crashes) == (4, 1)


async def test_process_that_dies_of_its_host_costs_nothing(broker: TaskBroker, store: TaskStore) -> None:
    broker.max_crashes = 0
    task_id = await broker.submit(TaskPayload())
    for number in range(3):
        mine = await claim(broker)
        assert (mine.attempt, mine.alone) == (number + 1, "")
        assert await lose(broker, "w1", mine, guilty=True, host=True) == "pending"
    task = await store.get_status(task_id)
    assert (task.status, task.losses, task.crashes, task.handoffs, task.last_loss) == ("pending", 0, 0, 3, None)


async def test_host_to_blame_leaves_a_suspect_alone(broker: TaskBroker) -> None:
    await broker.submit(TaskPayload())
    await lose(broker, "w1", await claim(broker))
    await lose(broker, "w1", await claim(broker), host=True)
    assert (await claim(broker)).alone == "child"


@pytest.mark.parametrize("host", [False, True])
async def test_task_that_shall_be_cancelled_ends_so_where_its_process_dies(
    broker: TaskBroker, store: TaskStore, redis_client: Redis, host: bool
) -> None:
    task_id = await broker.submit(TaskPayload())
    mine = await claim(broker)
    assert await broker.cancel(task_id) is CancelOutcome.REQUESTED
    assert await lose(broker, "w1", mine, host=host) == "cancelled"
    task = await store.get_status(task_id)
    assert (task.status, task.losses) == (TaskStatus.CANCELLED, 0)
    assert await redis_client.xlen(keys.stream(task_id)) == 1
    assert (await redis_client.xlen(QUEUE), await pending(redis_client)) == (0, 0)


async def test_death_of_a_run_whose_task_has_ended_changes_nothing(
    broker: TaskBroker, store: TaskStore, redis_client: Redis
) -> None:
    """Of a task with two entries, where the other one's run has recorded the end."""
    task_id = await broker.submit(TaskPayload())
    await redis_client.xadd(QUEUE, {"payload": (await redis_client.xrange(QUEUE))[0][1]["payload"]})
    first = await claim(broker)
    await redis_client.hdel(keys.task(task_id), "fence")
    second = await claim(broker)
    assert await broker.finish("w1", [completed(second)]) == ["completed"]
    losses = (await store.get_status(task_id)).losses
    assert await lose(broker, "w1", first, guilty=True) == "lost"
    task = await store.get_status(task_id)
    assert (task.status, task.losses) == (TaskStatus.COMPLETED, losses)
    assert (await redis_client.xlen(QUEUE), await pending(redis_client)) == (0, 0)


async def test_queue_holds_a_task_whose_process_died(broker: TaskBroker, redis_client: Redis) -> None:
    """Reconciling finds its entry by the record."""
    task_id = await broker.submit(TaskPayload())
    await lose(broker, "w1", await claim(broker))
    [(entry_id, _)] = await redis_client.xrange(QUEUE)
    assert await redis_client.hget(keys.task(task_id), "entry") == entry_id


async def test_retry_parks_the_task_and_fetch_promotes_it_when_due(
    broker: TaskBroker, store: TaskStore, redis_client: Redis
) -> None:
    task_id = await broker.submit(TaskPayload())
    mine = await claim(broker)
    before = await broker.now()
    assert await broker.retry("w1", mine, delay=60, error="boom", error_type="ValueError") == "retrying"
    after = await broker.now()
    task = await store.get_status(task_id)
    assert (task.status, task.error, task.retries) == (TaskStatus.RETRYING, "boom", 1)
    assert await broker.fetch("w1", 1) == []
    assert await redis_client.xlen(QUEUE) == 0
    due = await redis_client.zscore("{orbiter:tasks}:delayed", task_id)
    assert before + 59.999 <= due / 1000 <= after + 60.001
    await redis_client.zadd("{orbiter:tasks}:delayed", {task_id: after * 1000})
    [(entry, _)] = await broker.fetch("w1", 1)
    assert entry.fields["payload"] == mine.task.to_json()
    assert await redis_client.exists("{orbiter:tasks}:delayed", "{orbiter:tasks}:parked") == 0


async def test_hand_back_costs_nothing(broker: TaskBroker, store: TaskStore) -> None:
    task_id = await broker.submit(TaskPayload())
    mine = await claim(broker, "w1")
    assert await broker.requeue("w1", mine) == "pending"
    again = await claim(broker, "w2")
    assert (again.attempt, again.retries) == (2, 0)
    task = await store.get_status(task_id)
    assert (task.handoffs, task.retries, task.losses, task.crashes) == (1, 0, 0, 0)


@pytest.mark.parametrize("where", ["waiting", "delayed"])
async def test_cancelling_a_task_that_waits_ends_it_at_once(
    broker: TaskBroker, store: TaskStore, redis_client: Redis, where: str
) -> None:
    task_id = await broker.submit(TaskPayload())
    if where == "delayed":
        await broker.retry("w1", await claim(broker), delay=60, error="e", error_type="E")
    assert await broker.cancel(task_id) is CancelOutcome.CANCELLED
    assert (await store.get_status(task_id)).status == TaskStatus.CANCELLED
    assert {started.verdict for _, started in await broker.fetch("w1", 1)} <= {"drop"}
    assert await redis_client.xlen(QUEUE) == 0
    assert await pending(redis_client) == 0
    assert await redis_client.zcard("{orbiter:tasks}:delayed") == 0
    assert await redis_client.xlen(keys.stream(task_id)) == 1
    assert await broker.cancel(task_id) is CancelOutcome.FINISHED


async def test_cancelling_an_unknown_task_says_so(broker: TaskBroker, redis_client: Redis) -> None:
    assert await broker.cancel("nobody") is CancelOutcome.UNKNOWN
    assert await redis_client.exists(keys.task("nobody")) == 0


@pytest.mark.guide("Software of 0.1 in the same fleet", "what it cancelled stays so")
async def test_a_cancel_of_the_old_system_stands(broker: TaskBroker, store: TaskStore, redis_client: Redis) -> None:
    """0.1 clients write the status themselves, without an end time or an event."""
    task_id = await broker.submit(TaskPayload())
    mine = await claim(broker)
    await redis_client.hset(keys.task(task_id), "status", "cancelled")
    assert await broker.renew(redis_client, "w1", [mine]) == ["cancel"]
    assert await broker.finish("w1", [completed(mine)]) == ["cancelled"]
    task = await store.get_status(task_id)
    assert task.status == TaskStatus.CANCELLED
    assert task.completed_at
    [(_, fields)] = await redis_client.xrange(keys.stream(task_id))
    assert '"cancelled"' in fields["event"]


async def test_only_one_sweeps_at_a_time(broker: TaskBroker, redis_client: Redis) -> None:
    await broker.submit(TaskPayload())
    await claim(broker, "dead")
    await redis_client.set("{orbiter:tasks}:sweep", "w1", px=60_000)
    await asyncio.sleep(1.05)  # the lease of one second runs out; nothing announces that
    assert await Sweeper(Housekeeping(broker), "w2", lease=1).sweep(10) == []
    await redis_client.delete("{orbiter:tasks}:sweep")
    assert len(await Sweeper(Housekeeping(broker), "w2", lease=1).sweep(10)) == 1


async def test_list_tasks_is_newest_first_and_filters(broker: TaskBroker, store: TaskStore) -> None:
    for number in range(5):
        await broker.submit(TaskPayload(task_id=f"t{number}"))
    await broker.cancel("t3")
    assert {task.task_id for task in await store.list_tasks()} == {"t0", "t1", "t2", "t3", "t4"}
    assert [task.task_id for task in await store.list_tasks(TaskStatus.CANCELLED)] == ["t3"]
    assert len(await store.list_tasks(limit=2)) == 2


async def recover(broker: TaskBroker, *, born: float = 0, given_up: Mapping[str, int] | None = None) -> list[Entry]:
    return await broker.recover("w1", 10, running=[], given_up=given_up or {}, born=born)


async def test_a_delivery_whose_answer_was_lost_is_the_same_attempt(broker: TaskBroker, store: TaskStore) -> None:
    """Nobody has run it: it costs no budget, however often that happens."""
    task_id = await broker.submit(TaskPayload())
    first = await claim(broker)
    for _ in range(10):
        [entry] = await recover(broker)
        [again] = await broker.start("w1", [(entry, first.task)])
        assert (again.verdict, again.attempt, again.deliveries) == ("run", 1, 1)
    assert await broker.finish("w1", [completed(first)]) == ["completed"]
    task = await store.get_status(task_id)
    assert (task.attempt, task.losses, task.crashes) == (1, 0, 0)
    assert await recover(broker) == []


@pytest.mark.parametrize("why", ["an earlier process", "given up"])
async def test_lost_run_is_fenced_out_by_the_next_attempt(broker: TaskBroker, store: TaskStore, why: str) -> None:
    task_id = await broker.submit(TaskPayload())
    first = await claim(broker)
    await asyncio.sleep(0.005)  # the clock that tells earlier processes apart counts milliseconds
    asked: dict[str, Any] = {"given_up": {first.entry_id: 1}}
    if why == "an earlier process":
        asked = {"born": await broker.now()}
    [entry] = await recover(broker, **asked)
    [again] = await broker.start("w1", [(entry, first.task)])
    assert (again.attempt, again.deliveries) == (2, 2)
    # The same call once more, as one that arrives late: the run that goes on now is not touched.
    await recover(broker, **asked)
    assert await broker.renew(broker.client, "w1", [replace(first, deliveries=2)]) == ["ok"]
    assert await broker.finish("w1", [completed(first)]) == ["lost"]
    task = await store.get_status(task_id)
    assert (task.status, task.losses, task.crashes) == (TaskStatus.RUNNING, 1, 0)


async def test_what_runs_is_not_recovered(broker: TaskBroker) -> None:
    await broker.submit(TaskPayload())
    mine = await claim(broker)
    assert await broker.recover("w1", 10, running=[mine.entry_id], given_up={}, born=time.time() + 60) == []


async def test_a_second_entry_of_a_task_does_not_end_it_a_second_time(
    broker: TaskBroker, store: TaskStore, redis_client: Redis
) -> None:
    """Both run where the first one's worker says of no claim that it is its own: one of 0.1, beside ours."""
    task_id = await broker.submit(TaskPayload())
    await redis_client.xadd(QUEUE, {"payload": (await redis_client.xrange(QUEUE))[0][1]["payload"]})
    first = await claim(broker)
    await redis_client.hdel(keys.task(task_id), "fence")
    second = await claim(broker)
    assert await broker.finish("w1", [completed(second)]) == ["completed"]
    failed = Outcome(first, "failed", "boom", "E", 1, StatusEvent(status="error", seq=1).to_json())
    assert await broker.finish("w1", [failed]) == ["lost"]
    task = await store.get_status(task_id)
    assert (task.status, task.error) == (TaskStatus.COMPLETED, None)
    assert not await redis_client.exists(keys.stream(task_id))
    assert await pending(redis_client) == 0


async def test_second_entry_of_a_running_task_is_dropped(
    broker: TaskBroker, store: TaskStore, redis_client: Redis
) -> None:
    """A 0.1 client sent its XADD again: the connection broke before the answer came."""
    task = TaskPayload(input="hello")
    for _ in range(2):
        await redis_client.xadd(QUEUE, {"payload": task.to_json()})
    [(entry, _)] = await broker.fetch("w1", 1)
    [first] = await broker.start("w1", [(entry, task)])
    [(second, said)] = await broker.fetch("w2", 1)
    assert (first.verdict, said.verdict, second.entry_id == entry.entry_id) == ("run", "drop", False)
    task_now = await store.get_status(task.task_id)
    assert task_now is not None
    assert (task_now.attempt, task_now.losses, task_now.crashes, task_now.worker_id) == (1, 0, 0, "w1")
    # What a worker that is lost held is still there for another.
    await asyncio.sleep(1.05)
    [reclaimed] = await Sweeper(Housekeeping(broker), "w3", lease=1).sweep(10)
    assert reclaimed.entry_id == entry.entry_id
    [again] = await broker.start("w3", [(reclaimed, task)])
    assert (again.verdict, again.attempt) == ("run", 2)
    mine = Claim(entry.entry_id, task, again.deliveries, again.attempt, again.retries)
    assert await broker.finish("w3", [completed(mine)]) == ["completed"]
    assert (await redis_client.xlen(QUEUE), await pending(redis_client)) == (0, 0)


async def test_records_of_waiting_tasks_are_kept_however_many_were_submitted(
    broker: TaskBroker, redis_client: Redis
) -> None:
    """Far more than a batch with one score: each is looked at, those that are gone are forgotten, none twice."""
    ids = [f"t{number:04}" for number in range(1050)]
    await broker.submit_many(TaskPayload(task_id=task_id) for task_id in ids)
    seconds, _ = await redis_client.time()
    thirteen_hours_ago = (seconds - 13 * 3600) * 1000
    async with redis_client.pipeline(transaction=False) as pipeline:
        for number, task_id in enumerate(ids):
            pipeline.zadd(keys.BY_TIME, {task_id: thirteen_hours_ago + 0.5 + (number >= 1000)})
            pipeline.expire(keys.task(task_id), 1000)
            if number % 10 == 0:
                pipeline.delete(keys.task(task_id))
        await pipeline.execute()
    assert await Sweeper(Housekeeping(broker), "w1", lease=1).sweep(10) == []
    left = [task_id for number, task_id in enumerate(ids) if number % 10]
    assert sorted(await redis_client.zrange(keys.BY_TIME, 0, -1)) == left
    assert await redis_client.scard(keys.INDEX) == len(left)
    short = [task_id for task_id in left if await redis_client.ttl(keys.task(task_id)) <= 1000]
    assert short == []


async def test_a_cancelled_task_that_is_too_large_stays_cancelled(
    broker: TaskBroker, store: TaskStore, redis_client: Redis
) -> None:
    task_id = await broker.submit(TaskPayload(input="x" * 5000))
    await broker.cancel(task_id)
    broker.max_payload_bytes = 1000
    await broker.fetch("w1", 1)
    assert (await store.get_status(task_id)).status == TaskStatus.CANCELLED
    assert await redis_client.xlen(keys.stream(task_id)) == 1
    assert await pending(redis_client) == 0


async def test_one_turn_records_what_ended_and_starts_what_waits(
    broker: TaskBroker, store: TaskStore, redis_client: Redis
) -> None:
    ids = await broker.submit_many(TaskPayload() for _ in range(4))
    first = await claim(broker)
    recorded, begun = await broker.settle_and_claim("w1", [completed(first)], 2)
    assert recorded == ["completed"]
    assert [started.verdict for _, started in begun] == ["run", "run"]
    statuses = [task.status if task else None for task in await store.get_many(ids)]
    assert statuses == [TaskStatus.COMPLETED, TaskStatus.RUNNING, TaskStatus.RUNNING, TaskStatus.PENDING]
    assert await pending(redis_client) == 2


async def test_outcomes_of_a_batch_stand_or_fall_one_by_one(broker: TaskBroker, store: TaskStore) -> None:
    ids = await broker.submit_many(TaskPayload() for _ in range(3))
    claims = [await claim(broker, worker) for worker in ("w1", "gone", "w1")]
    failed = Outcome(claims[2], "failed", "boom", "E", 1, StatusEvent(status="error", seq=1).to_json())
    outcomes = [completed(claims[0]), completed(claims[1]), failed]
    assert await broker.finish("w1", outcomes) == ["completed", "lost", "failed"]
    tasks = [task for task in await store.get_many(ids) if task]
    assert [task.status for task in tasks] == [TaskStatus.COMPLETED, TaskStatus.RUNNING, TaskStatus.FAILED]
    assert (tasks[2].error, tasks[2].error_type, tasks[2].result) == ("boom", "E", None)


@pytest.mark.parametrize("scripts", ["known", "unknown"])
async def test_what_a_blocked_read_gives_has_started_when_it_returns(
    broker: TaskBroker, store: TaskStore, redis_url: str, redis_client: Redis, scripts: str
) -> None:
    reader = connect(redis_url, max_connections=1)
    [old] = await broker.submit_many([TaskPayload()])
    held = await claim(broker)
    if scripts == "known":
        await broker.fetch_blocking(reader, "w1", 1, wait=0.01, since=held.entry_id, held=1)
    waiting = asyncio.ensure_future(broker.fetch_blocking(reader, "w1", 5, wait=5, since="0-0", held=1))
    await wait_until(lambda: _blocked(redis_client))
    new = await broker.submit(TaskPayload(input="hello"))
    begun = await waiting
    # What runs already was not given now.
    assert [(entry.fields["payload"].count(new), started) for entry, started in begun] == [
        (1, StartResult("run", 1, 1, 0))
    ]
    for task_id in (old, new):
        task = await store.get_status(task_id)
        assert task is not None
        assert (task.status, task.attempt, task.losses, task.crashes) == (TaskStatus.RUNNING, 1, 0, 0)
    since = begun[-1][0].entry_id
    assert await broker.fetch_blocking(reader, "w1", 5, wait=0.01, since=since, held=2) == []
    await reader.aclose()


@pytest.mark.parametrize("why", ["ran before", "cancelled by 0.1", "cancellation wanted", "too large", "no payload"])
async def test_blocked_read_leaves_entries_that_are_not_new_to_its_reader(
    broker: TaskBroker, redis_url: str, redis_client: Redis, why: str
) -> None:
    task = TaskPayload(input="x" * 1000 if why == "too large" else "")
    key = keys.task(task.task_id)
    await broker.submit(task)
    if why == "ran before":
        await broker.requeue("w1", await claim(broker))
    elif why == "cancelled by 0.1":
        await redis_client.hset(key, "status", "cancelled")
    elif why == "cancellation wanted":
        await redis_client.hset(key, "cancel_requested_at", "1")
    elif why == "no payload":
        await redis_client.xtrim(QUEUE, maxlen=0)
        await redis_client.xadd(QUEUE, {"text": task.to_json()})
    broker.max_payload_bytes = 1000
    before = await redis_client.hgetall(key)
    reader = connect(redis_url, max_connections=1)
    try:
        begun = await broker.fetch_blocking(reader, "w1", 5, wait=0.01, since="0-0", held=0)
    finally:
        await reader.aclose()
    assert [started.verdict for _, started in begun] == ["read"]
    assert await redis_client.hgetall(key) == before


async def _blocked(client: Redis) -> bool:
    return bool((await client.info("clients"))["blocked_clients"])


async def test_blocked_read_without_a_group_fails_and_keeps_its_connection(
    broker: TaskBroker, redis_url: str, redis_client: Redis
) -> None:
    reader = connect(redis_url, max_connections=1)
    await redis_client.xgroup_destroy(QUEUE, keys.group(QUEUE))
    for _ in range(2):
        with pytest.raises(ResponseError, match="NOGROUP"):
            await broker.fetch_blocking(reader, "w1", 1, wait=0.01, since="0-0", held=0)
    assert await reader.ping()
    await reader.aclose()


@pytest.mark.parametrize("turn", ["sweep", "reconciling"])
@pytest.mark.parametrize(
    "command", [("SET", "KEY", "forever"), ("SET", "KEY", "x", "EX", "99999999"), ("SADD", "KEY", "x")], ids=" ".join
)
async def test_a_turn_that_no_worker_can_have_taken_is_nobodys(
    broker: TaskBroker, redis_client: Redis, turn: str, command: tuple[str, ...]
) -> None:
    key = "{orbiter:tasks}:" + turn
    await redis_client.execute_command(*(key if word == "KEY" else word for word in command))
    store = Housekeeping(broker)
    takes = {"sweep": lambda: store.acquire_sweep("w1", 60), "reconciling": lambda: store.begin_round(60_000)}
    assert await takes[turn]()
    assert not await takes[turn]()
    assert 0 < await redis_client.pttl(key) <= 60_000


async def test_a_task_costs_redis_no_more_than_nine_commands(broker: TaskBroker, redis_client: Redis) -> None:
    async def commands() -> int:
        stats = await redis_client.info("commandstats")
        return sum(row["calls"] for name, row in stats.items() if name != "cmdstat_info")

    # Scripts are loaded.
    await broker.submit(TaskPayload())
    await broker.finish("w1", [completed(await claim(broker))])
    before, number, batch = await commands(), 160, 16
    await broker.submit_many([TaskPayload() for _ in range(number)])
    submitting = await commands() - before
    outcomes: list[Outcome] = []
    for _ in range(number // batch + 1):
        _, begun = await broker.settle_and_claim("w1", outcomes, batch)
        claims = [
            Claim(entry.entry_id, TaskPayload.from_fields(entry.fields), run.deliveries, run.attempt, run.retries)
            for entry, run in begun
        ]
        outcomes = [completed(one) for one in claims]
    assert await redis_client.xlen("orbiter:tasks") == 0
    # EXISTS, XADD, HSET, EXPIRE, SADD, ZADD; then HMGET and HSET to start it, and to settle it HMGET, HSET, EXPIRE,
    # XADD, EXPIRE and PUBLISH; besides a few for a batch.
    assert submitting <= 6.2 * number
    assert await commands() - before - submitting <= 8.6 * number
