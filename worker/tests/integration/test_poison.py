"""What the holder of the client's password can write: no worker stops for it, and other tasks end as they would.

Each test writes with rights that a client had in earlier releases, or has by rules of one's own, beside a worker with
those of ``worker``.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import RedisError

from orbiter.distributed.alerts import read_queue
from orbiter.distributed.broker.loading import load_client_scripts
from orbiter.distributed.broker.store import TaskStore
from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.client.handle import distributed
from orbiter.distributed.connection.redis_url import connect
from tests import keys
from tests.fleet import Fleet, job_payload
from tests.rights import WITH_CARELESS_CLIENT, rules
from tests.servers import Server, plain_server
from tests.support import free_port, wait_until, worker_process

QUEUE = "orbiter:tasks"
DELAYED, PARKED, DEAD = (keys.tagged(QUEUE, name) for name in ("delayed", "parked", "dead"))
LAST_ID = "18446744073709551615-18446744073709551615"
# A CI machine is slow and busy.
PATIENT = 60
# A worker's, three times in which it renews what it holds.
LEASE = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with plain_server(tmp_path_factory.mktemp("poison"), *WITH_CARELESS_CLIENT) as server:
        yield server


def url(server: Server, user: str) -> str:
    return f"redis://{user}:{user.upper()}-PASSWORD@127.0.0.1:{server.port}/0"


@pytest.fixture
def evil(server: Server) -> Iterator[redis.Redis]:
    """Somebody with a client's password, and more rights than the role gives."""
    server.ask("FLUSHALL")
    with redis.Redis.from_url(url(server, "careless"), decode_responses=True) as client:
        yield client


@pytest.fixture
async def fleet(server: Server, evil: redis.Redis) -> AsyncIterator[Fleet]:
    """Submits as a client does, and looks at everything."""
    client = connect(url(server, "admin"))
    await load_client_scripts(client)
    fleet = Fleet(url(server, "client"), client)
    fleet.broker = TaskBroker(fleet.url)
    await fleet.broker.connect()
    yield fleet
    await fleet.broker.disconnect()
    await client.aclose()


@contextmanager
def worker(server: Server, tmp_path: Path, *options: str, name: str = "w1") -> Iterator[Path]:
    """Run a worker; give its log."""
    log = tmp_path / f"{name}.log"
    options = ("--heartbeat-ttl", str(LEASE), "--retry-backoff", "0.01", "--concurrency", "4", *options)
    with worker_process(url(server, "worker"), name, log, *options) as process:
        yield log
        assert process.poll() is None, log.read_text()


def make_set(evil: redis.Redis, key: str) -> None:
    """Make a key of ours a set, by the rights that a client has."""
    evil.expire(key, 0)
    evil.sadd(key, "x")


async def submitted(fleet: Fleet, job: str = "noop", **fields: Any) -> str:
    """Submit a task as soon as that is possible: while a key is spoilt, Redis refuses."""

    async def accepted() -> str:
        try:
            return await fleet.submit(job, **fields)
        except RedisError:
            return ""

    return await wait_until(accepted, PATIENT)


# -- keys of the queue -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [QUEUE, DELAYED, PARKED, DEAD, keys.tagged(QUEUE, "missing")])
async def test_key_of_another_type_is_moved_aside_and_the_queue_goes_on(
    key: str, server: Server, evil: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    with worker(server, tmp_path, "--max-retries", "1") as log:
        make_set(evil, key)
        await fleet.ends(await submitted(fleet), PATIENT)
        # This one needs all of them: it is delayed, and ends as a dead letter.
        failed = await fleet.ends(await submitted(fleet, "fail"), PATIENT)
        assert failed.status == "failed"

        async def aside() -> list[str]:
            return [name async for name in fleet.client.scan_iter(match=keys.tagged(QUEUE, "broken:*"))]

        [name] = await wait_until(aside, PATIENT)
        assert await fleet.client.ttl(name) > 0
        assert await fleet.client.type(name) == "set"

        # A script that moves a key aside leaves a note; a worker's next round reports it.
        async def reported() -> bool:
            return key in log.read_text()

        await wait_until(reported, PATIENT)


async def test_worker_starts_although_the_queue_is_of_another_type(
    server: Server, evil: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    make_set(evil, QUEUE)
    with worker(server, tmp_path):
        task = await fleet.ends(await submitted(fleet), PATIENT)
        assert task.status == "completed"


@pytest.mark.parametrize("key", [keys.INDEX, keys.BY_TIME])
async def test_list_of_tasks_of_another_type_is_made_anew(
    key: str, server: Server, evil: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    with worker(server, tmp_path):
        evil.expire(key, 0)
        evil.hset(key, "a", "b")
        task = await fleet.ends(await submitted(fleet), PATIENT)
        assert task.status == "completed"
        await wait_until(lambda: _type_is_not(fleet, key, "hash"), PATIENT)


async def _type_is_not(fleet: Fleet, key: str, kind: str) -> bool:
    return await fleet.client.type(key) != kind


@pytest.mark.parametrize("spoil", ["set", "for ever"])
async def test_nobody_keeps_a_turn_for_ever(
    spoil: str, server: Server, evil: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    for name in ("sweep", "reconciling"):
        if spoil == "set":
            make_set(evil, keys.tagged(QUEUE, name))
        else:
            await fleet.client.set(keys.tagged(QUEUE, name), "w9")
    lost = await fleet.submit("noop", not_before=4e9)
    await fleet.client.delete(DELAYED, PARKED)
    with worker(server, tmp_path):
        assert (await fleet.ends(lost, PATIENT)).error_type == "EntryLostError"


async def test_spoilt_progress_of_the_rounds_begins_anew(
    server: Server, evil: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    garbage = {"score": "soon", "skip": "-1", "began": "x", "walked": LAST_ID * 2, "walking": "1e999", "relisted": "x"}
    evil.hset(keys.tagged(QUEUE, "reconcile"), mapping=garbage)
    evil.hset(keys.tagged(QUEUE, "missing"), mapping={"a": "{", "b": "1", "c": "[1, 2, 3]"})
    evil.zadd(keys.BY_TIME, {"index": 5, "gone": -7, "\x00": 9, "never": "inf"})
    make_set(evil, keys.task("gone"))
    lost = await fleet.submit("noop", not_before=4e9)
    await fleet.client.delete(DELAYED, PARKED)
    with worker(server, tmp_path) as log:
        assert (await fleet.ends(lost, PATIENT)).error_type == "EntryLostError"
        assert "Traceback" not in log.read_text()


# -- the stream --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trimmed", [False, True])
async def test_stream_whose_last_id_is_the_largest_is_replaced(
    trimmed: bool, server: Server, evil: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    with worker(server, tmp_path, "--concurrency", "1") as log:
        until = tmp_path / "until"
        runs = await fleet.submit("hold", metadata={"until": str(until)})
        await fleet.runs(runs)
        waiting = await fleet.submit_many("noop", 3)
        if trimmed:
            evil.xadd(QUEUE, {"payload": "x"}, id=LAST_ID, maxlen=0, approximate=False)
        else:
            evil.xadd(QUEUE, {"payload": "x"}, id=LAST_ID)
        later = await submitted(fleet)
        await asyncio.sleep(LEASE)
        until.touch()
        ended = await fleet.all_end([runs, *waiting, later], PATIENT)
        by_id = {task.task_id: task for task in ended}
        # What ran goes on, under the claim that it had.
        assert (by_id[runs].status, by_id[runs].attempt) == ("completed", 1)
        assert by_id[later].status == "completed"
        wanted = ("failed", "EntryLostError") if trimmed else ("completed", None)
        assert {(by_id[task].status, by_id[task].error_type) for task in waiting} == {wanted}
        await wait_until(fleet.is_empty, PATIENT)
        assert "Traceback" not in log.read_text()


async def test_group_that_begins_at_the_end_of_time_is_replaced(
    server: Server, evil: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    with worker(server, tmp_path):
        evil.expire(QUEUE, 0)
        with pytest.raises(redis.ResponseError, match="BUSYGROUP") if evil.exists(QUEUE) else _nothing():
            evil.xgroup_create(QUEUE, keys.group(QUEUE), id=LAST_ID, mkstream=True)
        assert (await fleet.ends(await submitted(fleet), PATIENT)).status == "completed"


@contextmanager
def _nothing() -> Iterator[None]:
    yield


async def _emptied(how: str, evil: redis.Redis) -> None:
    if how == "expire":
        evil.expire(QUEUE, 0)
    else:
        evil.xadd(QUEUE, {"payload": "x"}, maxlen=0, approximate=False)


@pytest.mark.parametrize("how", ["expire", "xadd"])
async def test_tasks_of_a_queue_that_was_emptied_end_with_the_reason(
    how: str, server: Server, evil: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    waiting = await fleet.submit_many("noop", 50)
    agent = {"runtime": "callable", "name": "noop", "target": "tests.integration.jobs:noop"}
    async with await distributed(agent, "", redis_url=fleet.url) as handle:
        await _emptied(how, evil)
        with worker(server, tmp_path):
            ended = await fleet.all_end([*waiting, handle.task_id], PATIENT)
            assert {(task.status, task.error_type) for task in ended} == {("failed", "EntryLostError")}
            async with asyncio.timeout(PATIENT):
                with pytest.raises(RuntimeError, match=QUEUE):
                    await handle.result()
            assert (await fleet.ends(await submitted(fleet), PATIENT)).status == "completed"


async def _has_run(fleet: Fleet, task_id: str) -> bool:
    task = await fleet.store.get_status(task_id)
    return task is not None and task.attempt > 0


@pytest.mark.parametrize("how", ["expire", "xadd"])
async def test_run_goes_on_although_its_entry_is_gone(
    how: str, server: Server, evil: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    with worker(server, tmp_path, "--max-retries", "1"):
        until = tmp_path / "until"
        runs = await fleet.submit("hold", metadata={"until": str(until)})
        fails = await fleet.submit("fail")
        await fleet.runs(runs)
        # Claimed, if not over: what nobody has claimed is lost with the queue.
        await wait_until(lambda: _has_run(fleet, fails), PATIENT)
        await _emptied(how, evil)
        await asyncio.sleep(2 * LEASE)
        until.touch()
        task = await fleet.ends(runs, PATIENT)
        assert (task.status, task.attempt, task.losses) == ("completed", 1, 0)
        # Its payload is its worker's to put back.
        task = await fleet.ends(fails, PATIENT)
        assert (task.status, task.attempt, task.error_type) == ("failed", 2, "RuntimeError")


# -- records -----------------------------------------------------------------------------------------------------------


GARBAGE = [
    "attempt",
    "retries",
    "crashes",
    "losses",
    "worker_losses",
    "expiries",
    "handoffs",
    "started_at",
    "alone",
    "fence",
]


@pytest.mark.parametrize("value", ["abc", "-1", "1e999", "9223372036854775807", ""])
async def test_garbage_in_records_stops_no_worker(
    value: str, server: Server, evil: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    with worker(server, tmp_path, "--concurrency", "2", "--max-retries", "1") as log:
        spoilt = []
        for number in range(6):
            task = job_payload("noop" if number % 2 else "fail", task_id=f"evil{number}")
            evil.hset(keys.task(task.task_id), mapping=dict.fromkeys(GARBAGE, value) | {"status": "pending"})
            evil.xadd(QUEUE, {"payload": task.to_json()})
            spoilt.append(task.task_id)
            task = job_payload("noop", task_id=f"lost{number}")
            evil.hset(keys.task(task.task_id), mapping=dict.fromkeys(GARBAGE, value) | {"status": "running"})
            evil.xadd(QUEUE, {"payload": task.to_json()})
            spoilt.append(task.task_id)
        honest = await fleet.submit_many("noop", 10)
        assert {task.status for task in await fleet.all_end(honest, PATIENT)} == {"completed"}

        async def over() -> bool:
            statuses = [await fleet.client.hget(keys.task(task_id), "status") for task_id in spoilt]
            return set(statuses) <= {"completed", "failed"}

        await wait_until(over, PATIENT)
        assert "Traceback" not in log.read_text()


async def test_record_made_a_set_costs_its_neighbours_nothing(
    server: Server, evil: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    with worker(server, tmp_path):
        tasks = [await fleet.submit("sleep", metadata={"seconds": 9}) for _ in range(4)]
        for task_id in tasks:
            await fleet.runs(task_id)
        make_set(evil, keys.task(tasks[0]))
        make_set(evil, keys.stream(tasks[1]))
        neighbours = await fleet.all_end(tasks[1:], PATIENT)
        assert {(task.status, task.attempt, task.losses) for task in neighbours} == {("completed", 1, 0)}
        # Even that one's end is recorded.
        assert (await fleet.ends(tasks[0], PATIENT)).status == "completed"


@pytest.mark.parametrize("what", ["set", "full"])
async def test_event_stream_that_cannot_be_written_costs_its_neighbours_nothing(
    what: str, server: Server, evil: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    with worker(server, tmp_path):
        task = job_payload("say", "a b c")
        if what == "set":
            evil.sadd(keys.stream(task.task_id), "x")
        else:
            evil.xadd(keys.stream(task.task_id), {"event": "x"}, id=LAST_ID)
        await fleet.broker.submit(task)
        others = [await fleet.submit("say", "a b c") for _ in range(4)]
        ended = await fleet.all_end([task.task_id, *others], PATIENT)
        assert {found.status for found in ended} == {"completed"}
        await fleet.check_invariants(others)


# -- payloads ----------------------------------------------------------------------------------------------------------


def malformed(number: int) -> dict[Any, Any]:
    """Return the fields of an entry that is not a task, of one kind after the other."""
    task_id = f"bad{number}"
    good: dict[str, Any] = json.loads(job_payload("noop", task_id=task_id).to_json())
    kinds: list[dict[Any, Any]] = [
        {"payload": "x"},
        {"payload": ""},
        {"nothing": "of ours"},
        {b"payload": b"\xff\xfe\x00"},
        {"payload": "[" * 5000},
        {"payload": '{"task_id": "' + task_id},
        {"payload": json.dumps(good | {"task_id": "index"})},
        {"payload": json.dumps(good | {"task_id": "x" * 500})},
        {"payload": json.dumps(good | {"task_id": "\ud800"})},
        {
            "payload": json.dumps(
                good | {"agent_config": {"name": "\ud800\x00", "runtime": "callable", "target": "no.x:y"}}
            )
        },
        {"payload": json.dumps(good | {"agent_config": [1]})},
        {"payload": json.dumps(good | {"timeout_seconds": "never"})},
        {"payload": json.dumps(good | {"max_retries": "x", "created_at": "then"})},
        {"payload": json.dumps(good)[:-1] + ', "metadata": NaN}'},
        {f"field{n}": "x" for n in range(300)},
        {"payload": f'{{"task_id": "{task_id}", "task_id": "other{number}"}}'},
    ]
    return kinds[number % len(kinds)]


@pytest.mark.parametrize("number", [2000])
async def test_malformed_payloads_between_good_ones_become_dead_letters(
    number: int, server: Server, evil: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    good = []
    for at in range(0, number, 100):
        good += await fleet.submit_many("noop", 50)
        with evil.pipeline(transaction=False) as pipeline:
            for one in range(at, at + 100):
                pipeline.xadd(QUEUE, malformed(one))
            pipeline.execute()
        good += await fleet.submit_many("noop", 50)
    with worker(server, tmp_path, "--isolation", "none", "--concurrency", "16") as log:
        ended = await fleet.all_end(good, PATIENT * 4)
        assert {task.status for task in ended} == {"completed"}
        await wait_until(fleet.is_empty, PATIENT)
        # One whose task id is given twice is the failure of that task; its dead letter counts, too.
        assert await fleet.client.xlen(DEAD) == number
        assert "Traceback" not in log.read_text()


# -- telling -----------------------------------------------------------------------------------------------------------


def ready(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(("right", "step"), [("xreadgroup", "claim"), ("xack", "record outcomes"), ("xclaim", "claim")])
async def test_worker_that_cannot_work_for_a_lease_says_so(
    right: str, step: str, server: Server, fleet: Fleet, tmp_path: Path
) -> None:
    port = free_port()
    with worker(server, tmp_path, "--health-port", str(port), "--heartbeat-ttl", "2"):
        await wait_until(lambda: ready(port)[0] == 200, PATIENT)
        task_ids = [await fleet.submit("sleep", metadata={"seconds": 3}) for _ in range(2)]
        for task_id in task_ids:
            await fleet.runs(task_id)
        reset = ("ACL", "SETUSER", "worker", "reset", "on", ">WORKER-PASSWORD")
        server.ask(*reset, *(word for word in rules("worker").split() if word.rstrip(")") != f"+{right}"))
        try:
            for _ in range(20):
                await fleet.submit("noop")
            await wait_until(lambda: ready(port)[0] == 503 and step in ready(port)[1], PATIENT)
            worker_hash = keys.worker("w1")

            async def degraded() -> bool:
                state, problem = await fleet.client.hmget(worker_hash, "state", "problem")
                return state == "degraded" and step in (problem or "")

            await wait_until(degraded, PATIENT)
            assert (await read_queue(url(server, "admin"), client=fleet.client)).degraded == 1
        finally:
            server.ask(*reset, *rules("worker").split())
        await wait_until(lambda: ready(port)[0] == 200, PATIENT)
        # What it was refused until now is what this is about.
        server.ask("ACL", "LOG", "RESET")
        assert (await fleet.ends(await submitted(fleet), PATIENT)).status == "completed"
        assert await TaskStore(fleet.url, client=fleet.client).get_status(task_ids[0]) is not None
