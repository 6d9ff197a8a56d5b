"""The queue in a cluster of six: its steps, a worker that dies between them, a node that dies under load."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from orbiter.distributed.alerts import read_queue
from orbiter.distributed.broker.calls import cluster as cluster_calls
from orbiter.distributed.broker.cluster_broker import ClusterBroker, broker_for
from orbiter.distributed.broker.dead_letters import DeadLetterError, DeadLetters
from orbiter.distributed.broker.events import EventSubscriber
from orbiter.distributed.broker.housekeeping import Housekeeping
from orbiter.distributed.broker.rates import Counts, Rates
from orbiter.distributed.broker.records import CancelOutcome, Claim, Entry, Outcome
from orbiter.distributed.broker.storage import Threat, read_storage
from orbiter.distributed.broker.store import TaskStore
from orbiter.distributed.broker.usage import UsageOfQueue
from orbiter.distributed.client.handle import distributed
from orbiter.distributed.connection.connected import redis_time
from orbiter.distributed.connection.patience import answer
from orbiter.distributed.connection.redis_url import connect
from orbiter.distributed.health import get_worker_fleet_status
from orbiter.distributed.models import StatusEvent, TaskPayload, TaskStatus, is_final
from tests import keys, rights
from tests.integration.load import Load, all_end, keep_submitting
from tests.servers import Cluster, Server, cluster_of_six, eventually, nothing_refused
from tests.support import PATIENCE, orbiter, slowness, start_orbiter, wait_until, worker_process

QUEUE = "orbiter:tasks"
ECHO = {"runtime": "callable", "name": "echo", "target": "tests.integration.jobs:echo"}


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_of_six(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(six: Cluster) -> Cluster:
    eventually(six.healthy, what="the cluster is whole")
    six.flush()
    return six


@pytest.fixture
async def broker(cluster: Cluster) -> AsyncIterator[ClusterBroker]:
    broker = broker_for(cluster.url, queue_name=QUEUE)
    assert isinstance(broker, ClusterBroker)
    await broker.connect()
    await broker.ensure_group()
    yield broker
    await broker.disconnect()


@pytest.fixture
def store(broker: ClusterBroker) -> TaskStore:
    return TaskStore(broker.redis_url, client=broker.client)


async def started(broker: ClusterBroker, worker: str, entry: Entry) -> Claim | str:
    task = TaskPayload.from_json(entry.fields["payload"])
    [row] = await broker.start(worker, [(entry, task)])
    return (
        Claim(entry.entry_id, task, row.deliveries, row.attempt, row.retries, row.alone)
        if row.verdict == "run"
        else row.verdict
    )


async def claim(broker: ClusterBroker, worker: str = "w1") -> Claim:
    [(entry, _)] = await broker.fetch(worker, 1)
    mine = await started(broker, worker, entry)
    assert isinstance(mine, Claim)
    return mine


async def taken_over(broker: ClusterBroker, worker: str, owner: str) -> Entry:
    [entry] = await Housekeeping(broker).reclaim(worker, 1, {owner: 0})
    return entry


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


async def test_a_namespace_in_braces_keeps_a_whole_fleet_in_one_slot(cluster: Cluster, tmp_path: Path) -> None:
    where = {"redis_url": cluster.url, "namespace": "{acme}", "queue": "mail"}
    log, options = tmp_path / "log", ("--queue", "mail", "--concurrency", "4", "--retry-backoff", "0.01")
    with worker_process(cluster.url, "w1", log, *options, namespace="{acme}"):
        for number in range(4):
            task = await distributed(ECHO, f"text {number}", **where)
            assert await task.result() == {"output": f"text {number}"}
        failing = {"runtime": "callable", "name": "fail", "target": "tests.integration.jobs:fail"}
        task = await distributed(failing, "", max_retries=1, **where)
        with pytest.raises(RuntimeError):
            await task.result()
        later = await distributed(ECHO, "later", not_before=time.time() + 3600, **where)
        client = connect(cluster.url)
        async with contextlib.aclosing(client):
            await wait_until(lambda: client.xlen("{acme}:{mail}:dead"))
            assert await client.zcard("{acme}:{mail}:delayed") == 1
            assert await later.cancel() == CancelOutcome.CANCELLED
            names = [name async for name in client.scan_iter()]
            assert len(names) > 10
            assert {client.keyslot(name) for name in names} == {client.keyslot("{acme}")}
            assert [name for name in names if not name.startswith("{acme}:")] == []


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
    fields = ["error", "broken"] if status == "failed" else []
    assert await broker.run(cluster_calls.settle(broker.keys, "dies", mine, status, fields)) == status
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
    assert await broker.requeue("frozen", frozen) == "lost"
    assert await lose(broker, "frozen", frozen) == "lost"
    assert await broker.renew(broker.client, "frozen", [frozen]) == ["lost"]
    assert await broker.renew(broker.client, "successor", [successor]) == ["ok"]
    task = await store.get_status(task_id)
    assert (task.status, task.worker_id, task.losses, task.crashes) == (TaskStatus.RUNNING, "successor", 1, 0)
    assert task.last_loss == "its worker frozen was lost"


async def lose(broker: ClusterBroker, worker: str, claim: Claim, *, guilty: bool = False, host: bool = False) -> str:
    """Let the process die that ran a claim."""
    why = {"reason": "killed by signal 11 (SIGSEGV)", "error_type": "ProcessDiedError"}
    return await broker.lose(worker, claim, **why, guilty=guilty, host=host)


@pytest.mark.parametrize("max_crashes", [0, 1, 3])
async def test_a_task_that_loses_too_many_workers_is_a_dead_letter(
    broker: ClusterBroker, store: TaskStore, max_crashes: int
) -> None:
    broker.max_crashes = max_crashes
    task_id = await broker.submit(TaskPayload())
    ran: list[Claim | str] = [await claim(broker, "w0")]
    while isinstance(ran[-1], Claim):
        worker = f"w{len(ran)}"
        entry = await taken_over(broker, worker, f"w{len(ran) - 1}")
        ran.append(await started(broker, worker, entry))
    *runs, last = ran
    assert [run.alone for run in runs if isinstance(run, Claim)] == ["", "", "worker", "worker", "worker"][: len(runs)]
    assert (len(runs), last) == (max_crashes + 2 if max_crashes else 1, "dead")
    task = await store.get_status(task_id)
    assert (task.status, task.losses, task.crashes) == (TaskStatus.FAILED, len(runs), max_crashes)
    assert re.fullmatch(f"lost its worker {len(runs)} times?", task.error)
    assert await finals(broker, task_id) == ["error"]
    assert await broker.client.xlen("{orbiter:tasks}:dead") == 1
    await assert_queue_empty(broker)


async def test_start_sent_again_counts_no_second_loss(broker: ClusterBroker, store: TaskStore) -> None:
    task_id = await broker.submit(TaskPayload())
    await claim(broker, "w0")
    for owner, worker in (("w0", "w1"), ("w1", "w2")):
        entry = await taken_over(broker, worker, owner)
        first, again = [await started(broker, worker, entry) for _ in range(2)]
        assert first == again
    assert isinstance(again, Claim)
    assert again.alone == "worker"
    task = await store.get_status(task_id)
    assert (task.losses, task.crashes, task.attempt) == (2, 0, 3)


async def test_process_that_dies_is_counted_once_however_often_that_is_sent(
    broker: ClusterBroker, store: TaskStore
) -> None:
    broker.max_crashes = 1
    task_id = await broker.submit(TaskPayload())
    alone = []
    for stands in ("pending", "pending", "failed"):
        mine = await claim(broker)
        alone.append(mine.alone)
        for _ in range(2):
            assert await lose(broker, "w1", mine, guilty=True) == stands
        assert await broker.client.xlen(QUEUE) == (1 if stands == "pending" else 0)
        assert await finals(broker, task_id) == ([] if stands == "pending" else ["error"])
    assert alone == ["", "child", "child"]
    task = await store.get_status(task_id)
    error = "killed by signal 11 (SIGSEGV); 3 runs lost, 2 charged as crashes"
    assert (task.status, task.error, task.error_type) == (TaskStatus.FAILED, error, "ProcessDiedError")
    assert (task.losses, task.crashes, task.handoffs) == (3, 2, 0)
    [(_, letter)] = await broker.client.xrange("{orbiter:tasks}:dead")
    assert (letter["task_id"], letter["reason"], letter["error_type"]) == (task_id, error, "ProcessDiedError")
    await assert_queue_empty(broker)
    letters = DeadLetters(broker.redis_url, queue_name=QUEUE, client=broker.client)
    assert await letters.retry_task(task_id) == task_id
    history = {"losses", "worker_losses", "expiries", "alone", "died_at", "last_loss"}
    assert not history & set(await broker.client.hkeys(keys.task(task_id)))
    assert (await claim(broker)).alone == ""


async def test_process_that_died_of_its_host_or_of_a_cancelled_task_is_not_counted(
    broker: ClusterBroker, store: TaskStore
) -> None:
    broker.max_crashes = 0
    task_id = await broker.submit(TaskPayload())
    assert await lose(broker, "w1", await claim(broker), host=True) == "pending"
    again = await claim(broker)
    assert again.alone == ""
    assert await broker.cancel(task_id) == CancelOutcome.REQUESTED
    assert await lose(broker, "w1", again, guilty=True) == "cancelled"
    task = await store.get_status(task_id)
    assert (task.status, task.losses, task.crashes, task.handoffs) == (TaskStatus.CANCELLED, 0, 0, 1)
    assert await finals(broker, task_id) == ["cancelled"]
    await assert_queue_empty(broker)


async def test_worker_that_dies_before_it_lets_go_of_a_lost_run_counts_it_once(
    broker: ClusterBroker, store: TaskStore
) -> None:
    task_id = await broker.submit(TaskPayload())
    mine = await claim(broker, "dies")
    # As far as the first step only.
    why = {"reason": "killed", "error_type": "E"}
    assert (
        await broker.run(cluster_calls.lose(broker.keys, "dies", mine, **why, guilty=False, max_crashes=3))
    ).status == "pending"
    again = await started(broker, "w2", await taken_over(broker, "w2", "dies"))
    assert isinstance(again, Claim)
    assert (again.attempt, again.alone) == (2, "child")
    assert (await store.get_status(task_id)).losses == 1


async def test_retry_counts_once_and_runs_again_when_due(broker: ClusterBroker, store: TaskStore) -> None:
    task_id = await broker.submit(TaskPayload())
    mine = await claim(broker)
    for _ in range(2):
        assert await broker.retry("w1", mine, delay=60, error="boom", error_type="ValueError") == "retrying"
    assert (await store.get_status(task_id)).retries == 1
    assert await broker.fetch("w1", 1) == []
    assert await broker.client.zscore("{orbiter:tasks}:delayed", task_id) > (time.time() + 1) * 1000
    await broker.client.zadd("{orbiter:tasks}:delayed", {task_id: 1})
    [(entry, _)] = await wait_until(lambda: broker.fetch("w1", 1))
    again = await started(broker, "w1", entry)
    assert isinstance(again, Claim)
    assert (again.attempt, again.retries) == (2, 1)
    for _ in range(2):
        assert await broker.requeue("w1", again) == "pending"
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


@pytest.mark.guide("Sentinel / Cluster", "Cluster")
async def test_start_worker_works_with_a_cluster(cluster: Cluster, tmp_path: Path, executor: dict[str, str]) -> None:
    log = tmp_path / "worker.log"
    with worker_process(cluster.url, "w1", log, **executor) as process:
        async with await distributed(ECHO, "hello", redis_url=cluster.url) as task, asyncio.timeout(PATIENCE):
            assert await task.result() == {"output": "hello"}
        assert [worker.worker_id for worker in await get_worker_fleet_status(cluster.url)] == ["w1"]
        began = time.monotonic()
        process.terminate()
        await asyncio.to_thread(process.wait, PATIENCE)
    assert (process.returncode, (time.monotonic() - began) / slowness() < 3) == (0, True), log.read_text()
    assert "CROSSSLOT" not in log.read_text()


@pytest.mark.guide("Sentinel / Cluster", "Cluster")
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
            first = await wait_until(lambda: load.completed_after(taken_over))
        assert first - taken_over < 5 * slowness()
        await all_end(cluster.url, load)
        assert process.poll() is None
    assert process.returncode == 0, log.read_text()
    assert "CROSSSLOT" not in log.read_text()


async def test_each_master_is_asked_how_it_keeps_what_it_holds(broker: ClusterBroker, cluster: Cluster) -> None:
    odd = cluster.master_of(QUEUE)
    odd.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        storage = await read_storage(cluster.url, broker.client)
        reading = await read_queue(cluster.url)
        shown = await asyncio.to_thread(orbiter, "queue", "info", "--redis-url", cluster.url)
    finally:
        odd.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert [server.replica for server in storage.servers] == [False] * 3 + [True] * 3
    evicting = [warning for warning in storage.warnings if warning.kind is Threat.EVICTION]
    assert [warning.server for warning in evicting] == [f"127.0.0.1:{odd.port}"]
    assert reading.redis_evicting == 1
    assert shown.returncode == 0
    assert f"Redis 127.0.0.1:{odd.port}: maxmemory-policy is allkeys-lru" in shown.stdout


async def test_heartbeats_bring_counts_and_usage(broker: ClusterBroker) -> None:
    counts = [Counts(number, 3, 2, 1, usage=(("p:m", "a", 1, 30, 4),)) for number in (1, 2)]
    await broker.beat(broker.client, "w1", 30, {"state": "running"}, life="l", counts=counts[0])
    await broker.deregister("w1", life="l", counts=counts[1])
    now = await redis_time(broker.client)
    minutes = await Rates(broker.redis_url, client=broker.client).last(QUEUE, 2, now=now)
    assert [sum(getattr(minute, name) for minute in minutes) for name in ("started", "ended", "failed")] == [6, 4, 2]
    used = await UsageOfQueue(broker.redis_url, client=broker.client).last(QUEUE, 30, now=now)
    assert [(row.model, row.agent, row.requests, row.input, row.output) for row in used] == [("p:m", "a", 2, 60, 8)]


async def test_many_steps_at_the_same_time_wait_for_a_connection(broker: ClusterBroker) -> None:
    await broker.submit_many([TaskPayload() for _ in range(64)])
    claims = [await claim(broker) for _ in range(64)]
    assert await asyncio.gather(*(broker.requeue("w1", mine) for mine in claims)) == ["pending"] * 64


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
        assert await asyncio.to_thread(victim.wait, PATIENCE) == -signal.SIGKILL
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


async def test_the_roles_rights_are_enough_in_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    for node in cluster.nodes:
        for line in rights.lines(cluster=True):
            node.ask("ACL", "SETUSER", *line.split()[1:])
        node.ask("ACL", "LOG", "RESET")
    urls = {user: cluster.url.replace("//", f"//{user}:{user.upper()}-PASSWORD@") for user in ("worker", "client")}
    log = tmp_path / "worker.log"
    with worker_process(urls["worker"], "w1", log, "--heartbeat-ttl", "1"):
        for name, told in {"echo": "completed", "fail": "error"}.items():
            agent = {**ECHO, "target": f"tests.integration.jobs:{name}"}
            async with await distributed(agent, "", redis_url=urls["client"], max_retries=1) as task:
                async with asyncio.timeout(PATIENCE):
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
    for node in cluster.nodes:
        nothing_refused(node)
    assert "NOPERM" not in log.read_text()


@pytest.mark.alone  # a worker needs twenty seconds to leave the frozen master, thrice that where others compute
@pytest.mark.parametrize(
    "in_step",
    [
        pytest.param(True, id="its replica in step"),
        pytest.param(False, id="its replica behind", marks=pytest.mark.nightly),
    ],
)
async def test_every_accepted_task_ends_once_after_a_master_was_frozen(
    cluster: Cluster, broker: ClusterBroker, tmp_path: Path, in_step: bool
) -> None:
    """What a master accepts in its last moments is lost as its replica takes over: records, entries or events."""
    log = tmp_path / "worker.log"
    options = ("--concurrency", "8", "--heartbeat-ttl", "3")
    with worker_process(cluster.url, "w1", log, *options) as process:
        async with keep_submitting(cluster.url) as load:
            await wait_until(lambda: len(load.accepted) > 50)
            victim = cluster.master_of(QUEUE)
            replica = next(node for node in cluster.nodes if node.ask("ROLE")[2] == victim.port)  # type: ignore[index]
            if not in_step:
                replica.ask("CONFIG", "SET", "masterauth", "no such password")
                replica.ask("CLIENT", "KILL", "TYPE", "master")
            # Some that wait for a while, so that it is certain that some of the lost ones have not ended.
            later = [TaskPayload(agent_config=ECHO, not_before=time.time() + 15) for _ in range(20)]
            load.accepted += await broker.submit_many(later)
            victim.process.send_signal(signal.SIGSTOP)
            try:
                other = next(node for node in cluster.nodes if node is not victim)
                await asyncio.to_thread(
                    eventually, lambda: str(victim.port) not in _masters(other), what="the replica takes over"
                )
                taken_over = time.time()
                await wait_until(lambda: _completed_after(load, taken_over), PATIENCE * slowness())
            finally:
                victim.process.send_signal(signal.SIGCONT)
                replica.ask("CONFIG", "SET", "masterauth", "")
            await asyncio.to_thread(eventually, cluster.healthy, what="the cluster is whole")
        client = connect(cluster.url)
        store, subscriber = TaskStore("", client=client), EventSubscriber("", client=client)

        async def over() -> bool:
            tasks = [task for task in await store.get_many(load.accepted) if task is not None]
            return all(task.status.terminal for task in tasks)

        await wait_until(over, interval=0.2)
        ended = [task for task in await store.get_many(load.accepted) if task is not None]
        assert {task.error_type for task in ended} == {None} | (set() if in_step else {"EntryLostError"})

        left: list[str] = []

        async def said() -> bool:
            left.clear()
            for task_id in load.accepted:
                ends = [is_final(event) async for event in subscriber.replay(task_id)]
                if await store.get_status(task_id) is not None and (ends.count(True) != 1 or not ends[-1]):
                    left.append(task_id)
            return not left

        try:
            await wait_until(said, interval=1)
        finally:
            print("without one final event at the end:", await store.get_many(left[:5]))
            await client.aclose()
        assert process.poll() is None
    assert process.returncode == 0, log.read_text()


async def _completed_after(load: Load, moment: float) -> float | None:
    # The load's client may have asked the frozen node.
    with contextlib.suppress(TimeoutError):
        return await answer(load.completed_after(moment), within=3)
    return None


def _masters(asked: Server) -> set[str]:
    return {str(master[1]) for _, _, master, *_ in asked.ask("CLUSTER", "SLOTS")}  # type: ignore[attr-defined]
