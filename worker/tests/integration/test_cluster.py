"""The queue in a cluster of six: its steps, a worker that dies between them, a node that dies under load."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from orbiter.distributed import keys
from orbiter.distributed.broker_cluster import ClusterBroker, broker_for
from orbiter.distributed.claims import CancelOutcome, Claim, Entry, Outcome
from orbiter.distributed.client import distributed
from orbiter.distributed.dead_letters import DeadLetterError, DeadLetters
from orbiter.distributed.events import EventSubscriber
from orbiter.distributed.health import get_worker_fleet_status
from orbiter.distributed.models import StatusEvent, TaskPayload, TaskStatus, is_final
from orbiter.distributed.redis_url import connect
from orbiter.distributed.store import TaskStore
from tests.integration.load import all_end, keep_submitting
from tests.rights import RULES
from tests.servers import Cluster, cluster_of_six, eventually
from tests.support import start_orbiter, wait_until, worker_process

QUEUE = "orbiter:tasks"
ECHO = {"runtime": "callable", "name": "echo", "target": "tests.integration.jobs:echo"}


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_of_six(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(six: Cluster) -> Cluster:
    eventually(six.healthy, within=30, what="the cluster is whole")
    six.flush()
    return six


@pytest.fixture
async def broker(cluster: Cluster) -> AsyncIterator[ClusterBroker]:
    broker = broker_for(cluster.url, queue_name=QUEUE)
    assert isinstance(broker, ClusterBroker)
    await broker.connect()
    yield broker
    await broker.disconnect()


@pytest.fixture
def store(broker: ClusterBroker) -> TaskStore:
    return TaskStore(broker.redis_url, client=broker.client)


async def started(broker: ClusterBroker, worker: str, entry: Entry) -> Claim | str:
    task = TaskPayload.from_json(entry.fields["payload"])
    [row] = await broker.start(worker, [(entry, task)])
    return (
        Claim(entry.entry_id, task, row.deliveries, row.attempt, row.retries) if row.verdict == "run" else row.verdict
    )


async def claim(broker: ClusterBroker, worker: str = "w1") -> Claim:
    [(entry, _)] = await broker.fetch(worker, 1)
    mine = await started(broker, worker, entry)
    assert isinstance(mine, Claim)
    return mine


async def taken_over(broker: ClusterBroker, worker: str, owner: str) -> Entry:
    args = [broker.group, worker, 1, owner, 0]
    [[entry_id, fields]] = await broker.call("reclaim", [QUEUE], args)
    return Entry(entry_id, dict(zip(fields[::2], fields[1::2], strict=True)))


def outcome(claim: Claim, status: str = "completed") -> Outcome:
    said = "error" if status == "failed" else status
    event = StatusEvent(status=said, seq=1, attempt=claim.attempt).to_json()
    value = '{"output": "done"}' if status == "completed" else "broken"
    return Outcome(claim, status, value, "ValueError" if status == "failed" else "", 1, event)


async def finals(broker: ClusterBroker, task_id: str) -> list[str]:
    subscriber = EventSubscriber(broker.redis_url, client=broker.client)
    return [event.status async for event in subscriber.replay(task_id) if is_final(event)]  # type: ignore[union-attr]


async def assert_queue_empty(broker: ClusterBroker) -> None:
    assert await broker.client.xlen(QUEUE) == 0
    assert (await broker.client.xpending(QUEUE, broker.group))["pending"] == 0
    assert await broker.client.zcard("{orbiter:tasks}:delayed") == 0
    assert await broker.client.hlen("{orbiter:tasks}:parked") == 0


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_an_outcome_is_recorded_once_however_often_it_is_sent(
    broker: ClusterBroker, store: TaskStore, status: str
) -> None:
    task_id = await broker.submit(TaskPayload())
    mine = await claim(broker)
    for _ in range(2):
        assert await broker.finish("w1", [outcome(mine, status)]) == [status]
    assert (await store.get_status(task_id)).status == status
    assert len(await finals(broker, task_id)) == 1
    assert await broker.client.xlen("{orbiter:tasks}:dead") == (1 if status == "failed" else 0)
    await assert_queue_empty(broker)


async def test_submitting_an_id_twice_is_one_task(broker: ClusterBroker) -> None:
    for text in ("first", "second"):
        await broker.submit_many([TaskPayload(task_id=f"same{n}", input=text) for n in range(20)])
    assert await broker.client.xlen(QUEUE) == 20


async def test_a_submit_that_stopped_half_way_is_completed_by_the_next_one(broker: ClusterBroker) -> None:
    await broker.client.hset(keys.task("half"), mapping={"task_id": "half", "status": "pending", "submitting": "1"})
    await broker.submit(TaskPayload(task_id="half"))
    assert await broker.client.xlen(QUEUE) == 1


@pytest.mark.parametrize(
    ("status", "said"), [("completed", "completed"), ("failed", "error"), ("cancelled", "cancelled")]
)
async def test_an_entry_whose_task_has_ended_gets_its_final_event_and_is_acked(
    broker: ClusterBroker, status: str, said: str
) -> None:
    task_id = await broker.submit(TaskPayload())
    mine = await claim(broker, "dies")
    # As far as the first step only.
    ended = ["failed", "error", "broken"] if status == "failed" else [status]
    fence = f"{mine.entry_id} 1 dies"
    assert await broker.call("cluster_settle", [keys.task(task_id)], [fence, *ended]) == status
    entry = await taken_over(broker, "w2", "dies")
    assert await started(broker, "w2", entry) == ("dead" if status == "failed" else "drop")
    assert await finals(broker, task_id) == [said]
    assert await broker.client.xlen("{orbiter:tasks}:dead") == (1 if status == "failed" else 0)
    await assert_queue_empty(broker)


async def test_a_worker_that_lost_its_claim_records_nothing(broker: ClusterBroker, store: TaskStore) -> None:
    task_id = await broker.submit(TaskPayload())
    frozen = await claim(broker, "frozen")
    successor = await started(broker, "successor", await taken_over(broker, "successor", "frozen"))
    assert isinstance(successor, Claim)
    assert successor.attempt == 2
    assert await broker.finish("frozen", [outcome(frozen)]) == ["lost"]
    assert await broker.retry("frozen", frozen, delay=0, error="e", error_type="E") == "lost"
    assert await broker.hand_back("frozen", frozen) == "lost"
    assert await broker.renew(broker.client, "frozen", [frozen]) == ["lost"]
    assert await broker.renew(broker.client, "successor", [successor]) == ["ok"]
    task = await store.get_status(task_id)
    assert (task.status, task.worker_id, task.crashes) == (TaskStatus.RUNNING, "successor", 1)


async def test_retry_counts_once_and_runs_again_when_due(broker: ClusterBroker, store: TaskStore) -> None:
    task_id = await broker.submit(TaskPayload())
    mine = await claim(broker)
    for _ in range(2):
        assert await broker.retry("w1", mine, delay=0.2, error="boom", error_type="ValueError") == "retrying"
    assert (await store.get_status(task_id)).retries == 1
    assert await broker.fetch("w1", 1) == []
    [(entry, _)] = await wait_until(lambda: broker.fetch("w1", 1))
    again = await started(broker, "w1", entry)
    assert isinstance(again, Claim)
    assert (again.attempt, again.retries) == (2, 1)
    for _ in range(2):
        assert await broker.hand_back("w1", again) == "pending"
    assert (await claim(broker, "w2")).attempt == 3
    assert await broker.client.xlen(QUEUE) == 1


async def test_cancel_reaches_a_task_wherever_it_is(broker: ClusterBroker, store: TaskStore) -> None:
    assert await broker.cancel("nobody") == CancelOutcome.UNKNOWN
    waiting, delayed = TaskPayload(), TaskPayload(not_before=time.time() + 60)
    await broker.submit_many([waiting, delayed])
    for task in (waiting, delayed):
        assert await broker.cancel(task.task_id) == CancelOutcome.CANCELLED
        assert await broker.cancel(task.task_id) == CancelOutcome.FINISHED
        assert await finals(broker, task.task_id) == ["cancelled"]
    [(entry, _)] = await broker.fetch("w1", 5)
    assert await started(broker, "w1", entry) == "drop"
    running = await broker.submit(TaskPayload())
    mine = await claim(broker)
    assert await broker.cancel(running) == CancelOutcome.REQUESTED
    assert await broker.renew(broker.client, "w1", [mine]) == ["cancel"]
    assert await broker.retry("w1", mine, delay=0, error="e", error_type="E") == "cancelled"
    assert await finals(broker, running) == ["cancelled"]
    await assert_queue_empty(broker)


async def test_a_dead_letter_runs_again(broker: ClusterBroker, store: TaskStore) -> None:
    task_id = await broker.submit(TaskPayload(agent_config={"name": "a"}))
    mine = await claim(broker)
    final = StatusEvent(status="error", seq=1, attempt=1).to_json()
    assert await broker.finish("w1", [Outcome(mine, "failed", "boom", "E", 1, final)]) == ["failed"]
    letters = DeadLetters(broker.redis_url, queue_name=QUEUE, client=broker.client)
    assert await letters.retry_task(task_id) == task_id
    task = await store.get_status(task_id)
    assert (task.status, task.error, task.retries) == ("pending", None, 0)
    assert await letters.count() == 0
    again = await claim(broker)
    assert (again.task.task_id, again.attempt) == (task_id, 2)
    with pytest.raises(DeadLetterError, match="running"):
        await letters.retry_task(task_id)
    final = StatusEvent(status="completed", seq=1, attempt=2).to_json()
    assert await broker.finish("w1", [Outcome(again, "completed", '{"output": ""}', "", 1, final)]) == ["completed"]
    assert await finals(broker, task_id) == ["completed"]
    await assert_queue_empty(broker)


async def test_start_worker_works_with_a_cluster(cluster: Cluster, tmp_path: Path, executor: dict[str, str]) -> None:
    log = tmp_path / "worker.log"
    with worker_process(cluster.url, "w1", log, **executor) as process:
        async with await distributed(ECHO, "hello", redis_url=cluster.url) as task, asyncio.timeout(15):
            assert await task.result() == {"output": "hello"}
        assert [worker.worker_id for worker in await get_worker_fleet_status(cluster.url)] == ["w1"]
        began = time.monotonic()
        process.terminate()
        await asyncio.to_thread(process.wait, 10)
    assert (process.returncode, time.monotonic() - began < 3) == (0, True), log.read_text()
    assert "CROSSSLOT" not in log.read_text()


async def test_a_worker_goes_on_by_itself_after_a_failover_under_load(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    options = ("--concurrency", "8", "--heartbeat-ttl", "3")
    with worker_process(cluster.url, "w1", log, *options) as process:
        async with keep_submitting(cluster.url) as load:
            await wait_until(lambda: len(load.accepted) > 50)
            victim = cluster.master_of(QUEUE)
            victim.kill()
            # In a thread: the load goes on meanwhile.
            await asyncio.to_thread(
                eventually, lambda: cluster.master_of(QUEUE) is not victim, what="the replica takes over"
            )
            taken_over = time.time()
            first = await wait_until(lambda: load.completed_after(taken_over), timeout=20)
        assert first - taken_over < 5
        await all_end(cluster.url, load)
        assert process.poll() is None
    assert process.returncode == 0, log.read_text()
    assert "CROSSSLOT" not in log.read_text()


async def test_many_steps_at_the_same_time_wait_for_a_connection(broker: ClusterBroker) -> None:
    await broker.submit_many([TaskPayload() for _ in range(64)])
    claims = [await claim(broker) for _ in range(64)]
    assert await asyncio.gather(*(broker.hand_back("w1", mine) for mine in claims)) == ["pending"] * 64


async def test_the_client_of_a_cluster_says_what_is_wrong() -> None:
    import redis

    client = connect("redis+cluster://127.0.0.1:1,127.0.0.1:2", retries=0)
    with pytest.raises(redis.ConnectionError):
        await client.ping()
    await client.aclose()


@pytest.mark.parametrize("point", ["between finish steps", "between event and ack"])
async def test_a_worker_that_dies_between_the_steps_of_finishing_leaves_one_end(
    cluster: Cluster, broker: ClusterBroker, store: TaskStore, tmp_path: Path, point: str
) -> None:
    command = ["start", "worker", "--redis-url", cluster.url, "--allow-import", "tests.integration.jobs"]
    task_id = await broker.submit(TaskPayload(agent_config=ECHO, input="once"))
    with start_orbiter(*command, "--heartbeat-ttl", "1", ORBITER_FAULT=point) as victim:
        assert await asyncio.to_thread(victim.wait, 20) == -signal.SIGKILL
    assert (await store.get_status(task_id)).status == "completed"
    assert (await broker.client.xpending(QUEUE, broker.group))["pending"] == 1
    with worker_process(cluster.url, "w2", tmp_path / "worker.log", "--heartbeat-ttl", "1"):
        await wait_until(lambda: _nothing_pending(broker))
    task = await store.get_status(task_id)
    assert (task.status, task.result, task.attempt) == ("completed", {"output": "once"}, 1)
    assert await finals(broker, task_id) == ["completed"]
    await assert_queue_empty(broker)


async def _nothing_pending(broker: ClusterBroker) -> bool:
    return (await broker.client.xpending(QUEUE, broker.group))["pending"] == 0


async def test_the_documented_rights_are_enough_in_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "redis.md").read_text()
    [more] = re.findall(r"In a cluster, add\s+`([^`]*)` to the", page)
    for node in cluster.nodes:
        for rule in RULES:
            node.ask("ACL", "SETUSER", *rule.split()[1:], *more.split())
        node.ask("ACL", "LOG", "RESET")
    urls = {user: cluster.url.replace("//", f"//{user}:{user.upper()}-PASSWORD@") for user in ("worker", "client")}
    log = tmp_path / "worker.log"
    with worker_process(urls["worker"], "w1", log, "--heartbeat-ttl", "1"):
        for name, told in {"echo": "completed", "fail": "error"}.items():
            agent = {**ECHO, "target": f"tests.integration.jobs:{name}"}
            async with await distributed(agent, "", redis_url=urls["client"], max_retries=1) as task:
                async with asyncio.timeout(15):
                    events = [event async for event in task.stream()]
                assert events[-1].status == told  # type: ignore[union-attr]
        client = connect(urls["client"])
        waits = TaskPayload(not_before=time.time() + 60)
        broker = broker_for(urls["client"], client=client)
        await broker.submit(waits)
        assert await broker.cancel(waits.task_id) == CancelOutcome.CANCELLED
        assert len(await TaskStore("", client=client).list_tasks()) == 3
        assert len(await get_worker_fleet_status(urls["client"], client=client)) == 1
        await client.aclose()
    rows = [row for node in cluster.nodes for row in node.ask("ACL", "LOG")]  # type: ignore[attr-defined]
    assert [f"{row['username']}: {row['object']}" for row in rows if "setinfo" not in row["object"]] == []
    assert "NOPERM" not in log.read_text()
