"""``Client`` and ``SyncClient``: two connections for everything, batches, lost connections, closing and forks."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import redis
from redis.asyncio import Redis

from orbiter.distributed import Client, InvalidPayloadError, SyncClient, TaskStatus, distributed, submit_many
from orbiter.distributed.client import batches
from orbiter.distributed.models import TextEvent, is_final
from orbiter.distributed.worker.worker import Worker
from tests import keys
from tests.servers import (
    Certificates,
    Cluster,
    Server,
    cluster_of_six,
    eventually,
    plain_server,
    sentinel_trio,
    tls_server,
)
from tests.support import PATIENCE, WORKER_DIRECTORY, complaints, environment, wait_until

JOBS = "tests.integration.jobs"
FINAL = '{"type": "status", "status": "completed", "agent_name": "", "message": "", "seq": 1, "attempt": 1}'


def job(name: str) -> dict[str, Any]:
    return {"runtime": "callable", "name": name, "target": f"{JOBS}:{name}"}


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url) as client:
        yield client


@pytest.fixture
async def working(redis_url: str) -> AsyncIterator[Worker]:
    worker = Worker(redis_url, allow_import=(JOBS,), retry_backoff=0, drain_timeout=1, concurrency=16)
    running = asyncio.create_task(worker.start())
    await wait_until(lambda: worker.state == "running" or running.done())
    yield worker
    await worker.stop()
    await asyncio.wait_for(running, PATIENCE)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with plain_server(tmp_path) as server:
        yield server


async def connections(redis_client: Redis) -> list[dict[str, Any]]:
    return [row for row in await redis_client.client_list() if row["name"] == "orbiter-client"]


async def append(redis_client: Redis, task_id: str, event: str) -> None:
    """Add an event to a task's stream and announce it, as a worker does."""
    await redis_client.xadd(keys.stream(task_id), {"event": event})
    await redis_client.publish(keys.events(task_id), event)


# -- connections -----------------------------------------------------------------------------------------------------


async def test_two_connections_serve_200_results_and_50_streams(client: Client, redis_client: Redis) -> None:
    tasks = await client.submit_many(job("echo"), (str(number) for number in range(250)))
    results = [asyncio.create_task(task.result()) for task in tasks[:200]]
    streams = [asyncio.create_task(_read(task.stream())) for task in tasks[200:]]
    most = 0

    async def all_listen() -> bool:
        nonlocal most
        most = max(most, len(await connections(redis_client)))
        counts = await redis_client.pubsub_numsub(*(keys.events(task.task_id) for task in tasks))
        return all(count for _, count in counts)

    await wait_until(all_listen)
    assert most == 2
    worker = Worker(client.redis_url, allow_import=(JOBS,), drain_timeout=1, concurrency=16)
    running = asyncio.create_task(worker.start())
    async with asyncio.timeout(60):
        outputs = [result["output"] for result in await asyncio.gather(*results)]
        events = await asyncio.gather(*streams)
    assert outputs == [str(number) for number in range(200)]
    assert all(is_final(read[-1]) for read in events)
    assert len(await connections(redis_client)) == 2
    await worker.stop()
    await asyncio.wait_for(running, PATIENCE)


async def _read(events: AsyncIterator[Any]) -> list[Any]:
    return [event async for event in events]


async def test_two_readers_of_one_task_both_hear_its_events(client: Client, redis_client: Redis) -> None:
    task = await client.submit(job("echo"), "x")
    readers = [asyncio.create_task(_read(client.task(task.task_id).stream())) for _ in range(2)]
    await wait_until(lambda: _listeners(redis_client, task.task_id))
    await append(redis_client, task.task_id, '{"type": "text", "text": "a"}')
    third = client.stream(task.task_id)
    assert (await anext(third)).text == "a"  # type: ignore[union-attr]
    await third.aclose()  # type: ignore[attr-defined]
    assert await _listeners(redis_client, task.task_id) == 1, "who has left does not end it for others"
    await append(redis_client, task.task_id, FINAL)
    async with asyncio.timeout(PATIENCE):
        assert [len(events) for events in await asyncio.gather(*readers)] == [2, 2]
    await wait_until(lambda: _nobody_listens(redis_client, task.task_id))


async def _listeners(redis_client: Redis, task_id: str) -> int:
    [(_, count)] = await redis_client.pubsub_numsub(keys.events(task_id))
    return int(count)


async def _nobody_listens(redis_client: Redis, task_id: str) -> bool:
    return await _listeners(redis_client, task_id) == 0


@pytest.mark.parametrize("kind", ["pubsub", "normal", "both"])
async def test_no_event_is_lost_or_doubled_while_connections_are_killed(
    client: Client, redis_client: Redis, kind: str
) -> None:
    tasks = await client.submit_many(job("echo"), ["x"] * 20)
    readers = [asyncio.create_task(_read(task.stream())) for task in tasks]
    await wait_until(lambda: _listeners(redis_client, tasks[-1].task_id))
    killed = 0
    for number in range(60):
        for task in tasks:
            await append(redis_client, task.task_id, f'{{"type": "text", "text": "{number}"}}')
        if number % 15 == 7:
            await wait_until(lambda: _listeners(redis_client, tasks[-1].task_id))
            for row in await connections(redis_client):
                if kind in {"both", "pubsub" if int(row["sub"]) else "normal"}:
                    await redis_client.client_kill_filter(_id=row["id"])
                    killed += 1
    for task in tasks:
        await append(redis_client, task.task_id, FINAL)
    async with asyncio.timeout(PATIENCE):
        read = await asyncio.gather(*readers)
    assert killed >= 3
    for events in read:
        assert [event.text for event in events if isinstance(event, TextEvent)] == [str(n) for n in range(60)]
        assert is_final(events[-1])


async def test_calls_under_way_survive_a_lost_connection(client: Client, redis_client: Redis) -> None:
    await client.submit(job("echo"), "x")
    submitting = [asyncio.create_task(client.submit(job("echo"), str(number))) for number in range(300)]
    await asyncio.sleep(0)
    [row] = await connections(redis_client)
    await redis_client.client_kill_filter(_id=row["id"])
    async with asyncio.timeout(PATIENCE):
        handles = await asyncio.gather(*submitting)
    assert len({handle.task_id for handle in handles}) == 300
    assert await redis_client.xlen("orbiter:tasks") == 301, "what was sent twice was accepted once"


async def test_a_server_that_says_nothing_is_left_by_who_gives_up(server: Server) -> None:
    async with Client(f"redis://127.0.0.1:{server.port}") as client:
        task = await client.submit(job("echo"), "x")
        before = await client.redis.client_id()
        server.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3):
                    await task.status()
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert await client.redis.client_id() != before
        after = await client.redis.client_id()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await task.status()
        assert await client.redis.client_id() == after, "an impatient caller ends no connection of others"


async def test_a_call_that_is_cancelled_leaves_replies_in_order(client: Client) -> None:
    first, second = await client.submit(job("echo"), "1"), await client.submit(job("echo"), "2")
    for _ in range(50):
        asked = asyncio.create_task(first.status())
        other = asyncio.create_task(second.status())
        await asyncio.sleep(0)
        asked.cancel()
        found = await other
        assert found is not None
        assert found.task_id == second.task_id


async def test_a_client_works_with_tls(tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path / "certificates")
    with tls_server(tmp_path, certificates) as server:
        url = f"rediss://localhost:{server.port}/0?{urlencode(certificates.options)}"
        async with Client(url) as client:
            tasks = await client.submit_many(job("echo"), ["x" * 10_000] * 600)
            reading = asyncio.create_task(_read(tasks[0].stream()))
            await wait_until(lambda: _listeners(client.redis, tasks[0].task_id))
            await append(client.redis, tasks[0].task_id, FINAL)
            assert is_final((await asyncio.wait_for(reading, PATIENCE))[-1])


async def test_a_stream_goes_on_at_the_master_that_the_sentinels_promote(tmp_path: Path) -> None:
    with sentinel_trio(tmp_path) as trio:
        async with Client(trio.url) as client:
            task = await client.submit(job("echo"), "x")
            reading = asyncio.create_task(_read(task.stream()))
            await wait_until(lambda: _listeners(client.redis, task.task_id))
            await append(client.redis, task.task_id, '{"type": "text", "text": "a"}')
            old = trio.master()
            await client.redis.wait(1, 2000)
            old.kill()
            await asyncio.to_thread(eventually, lambda: trio.master() is not old, what="the replica is promoted")
            async with asyncio.timeout(PATIENCE):
                await _until_done(lambda: append(client.redis, task.task_id, FINAL))
                events = await reading
            assert [event.type for event in events] == ["text", "status"]


async def _until_done(work: Any) -> None:
    while True:
        try:
            return await work()
        except redis.RedisError:
            await asyncio.sleep(0.2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_of_six(tmp_path_factory.mktemp("cluster")) as cluster:
        eventually(cluster.healthy, what="the cluster is whole")
        yield cluster


async def test_at_most_two_connections_go_to_each_node_of_a_cluster(cluster: Cluster) -> None:
    async with Client(cluster.url) as client:
        tasks = await client.submit_many(job("echo"), (str(number) for number in range(60)))
        results = [asyncio.create_task(task.result()) for task in tasks[:40]]
        streams = [asyncio.create_task(_read(task.stream())) for task in tasks[40:]]
        most: Counter[int] = Counter()

        def all_listen() -> bool:
            listening = 0
            for node in cluster.nodes:
                rows = str(node.ask("CLIENT", "LIST")).splitlines()
                most[node.port] = max(most[node.port], sum("name=orbiter-client" in row for row in rows))
                listening += int(node.ask("INFO", "stats")["pubsub_channels"])  # type: ignore[index]
            return listening == len(tasks)

        await wait_until(all_listen)
        for task in tasks:
            await client.redis.hset(keys.task(task.task_id), mapping={"status": "completed", "result": '{"output": 1}'})
            await append(client.redis, task.task_id, FINAL)
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.gather(*results) == [{"output": 1}] * 40
            assert all(is_final(events[-1]) for events in await asyncio.gather(*streams))
        all_listen()
        assert max(most.values()) <= 2, most


# -- many ------------------------------------------------------------------------------------------------------------


async def test_many_are_sent_while_the_next_ones_are_read(client: Client, redis_client: Redis) -> None:
    waiting: list[int] = []

    async def inputs() -> AsyncIterator[str]:
        for number in range(5000):
            if number % 1000 == 999:
                waiting.append(number + 1 - await redis_client.xlen("orbiter:tasks"))
            yield str(number)

    tasks = await client.submit_many(job("echo"), inputs())
    assert await redis_client.xlen("orbiter:tasks") == 5000
    assert len({task.task_id for task in tasks}) == 5000
    assert max(waiting) <= batches.BATCH * (batches.UNDER_WAY + 1)


@pytest.mark.parametrize(("length", "batch"), [(1, batches.BATCH), (400_000, 3)], ids=["small", "large"])
@pytest.mark.parametrize("kind", ["iterable", "async"])
async def test_no_more_inputs_are_read_than_redis_accepts(
    server: Server, monkeypatch: pytest.MonkeyPatch, kind: str, length: int, batch: int
) -> None:
    total, read = 8 * batch, 0
    monkeypatch.setattr(batches, "GATHERED_FOR", PATIENCE)  # on a busy machine a batch would leave before it is full

    def inputs() -> Iterator[str]:
        nonlocal read
        for read in range(1, total + 1):  # noqa: B007 - looked at below
            yield "x" * length

    async def slowly() -> AsyncIterator[str]:
        for text in inputs():
            await asyncio.sleep(0)
            yield text

    async with Client(f"redis://127.0.0.1:{server.port}") as client:
        await client.submit(job("echo"), "x")
        server.process.send_signal(signal.SIGSTOP)
        try:
            submitting = asyncio.create_task(client.submit_many(job("echo"), slowly() if kind == "async" else inputs()))
            await wait_until(lambda: read >= batch * (batches.UNDER_WAY + 1))
            await asyncio.sleep(0.2)
            assert read <= batch * (batches.UNDER_WAY + 1)
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert len(await asyncio.wait_for(submitting, PATIENCE)) == total


async def test_a_slow_source_holds_no_task_back(client: Client, redis_client: Redis) -> None:
    more = asyncio.Event()

    async def inputs() -> AsyncIterator[str]:
        yield "first"
        await more.wait()
        yield "second"

    submitting = asyncio.create_task(client.submit_many(job("echo"), inputs()))
    await wait_until(lambda: redis_client.xlen("orbiter:tasks"))
    more.set()
    assert len(await submitting) == 2


async def test_an_input_that_cannot_be_sent_ends_it_and_what_was_accepted_stays(
    client: Client, redis_client: Redis
) -> None:
    inputs = [*["x"] * 2000, "x" * 2_000_000, "x"]
    with pytest.raises(InvalidPayloadError, match="ORBITER_MAX_PAYLOAD_BYTES"):
        await client.submit_many(job("echo"), inputs)
    assert 1000 <= await redis_client.xlen("orbiter:tasks") <= 2000
    with pytest.raises(InvalidPayloadError, match="input"):
        await client.submit_many(job("echo"), ["x", 7])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="task_id"):
        await client.submit_many(job("echo"), ["x"], task_id="t1")


async def test_a_source_that_fails_is_raised_as_it_is(client: Client) -> None:
    def inputs() -> Iterator[str]:
        yield "x"
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await client.submit_many(job("echo"), inputs())


async def test_a_refused_batch_is_raised(client: Client, redis_client: Redis) -> None:
    await client.submit(job("echo"), "x")
    await redis_client.delete("orbiter:tasks")
    await redis_client.set("orbiter:tasks", "no stream")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await client.submit_many(job("echo"), ["x"] * 2000)


# -- closing ---------------------------------------------------------------------------------------------------------


async def test_closing_ends_who_still_waits(redis_url: str, redis_client: Redis) -> None:
    client = Client(redis_url)
    task = await client.submit(job("echo"), "x")
    result = asyncio.create_task(task.result())
    await wait_until(lambda: _listeners(redis_client, task.task_id))
    await client.aclose()
    for waiting in (result, task.status(), client.submit(job("echo"), "x"), task.result()):
        with pytest.raises(RuntimeError, match="client is closed"):
            await asyncio.wait_for(waiting, PATIENCE)
    await client.aclose()
    await wait_until(lambda: _gone(redis_client))


@pytest.mark.parametrize("connecting", [True, False], ids=["connecting", "pausing"])
async def test_closing_while_redis_is_away_ends_who_waits_for_it(server: Server, connecting: bool) -> None:
    client = Client(f"redis://127.0.0.1:{server.port}")
    task = await client.submit(job("echo"), "x")
    waiting = [asyncio.create_task(task.result()) for _ in range(20)]
    await wait_until(lambda: server.ask("PUBSUB", "CHANNELS"))
    server.kill()
    await wait_until(lambda: client.subscriptions._kept._opening is not None)
    await wait_until(lambda: (client.subscriptions._kept._opening is not None) is connecting, interval=0.001)
    await client.aclose()
    for result in waiting:
        with pytest.raises(RuntimeError, match="client is closed"):
            await asyncio.wait_for(result, PATIENCE)


async def test_a_call_that_begins_while_an_idle_client_closes_is_done(client: Client, redis_client: Redis) -> None:
    submitting = asyncio.create_task(client.submit(job("echo"), "x"))
    await wait_until(lambda: client.redis.connection_pool.kept._opening is not None, interval=0)
    await client._disconnect()
    await asyncio.wait_for(submitting, PATIENCE)
    assert await redis_client.xlen("orbiter:tasks") == 1
    await client.redis.aclose()
    assert await client.redis.ping()
    await client.aclose()
    await client.redis.aclose()
    with pytest.raises(RuntimeError, match="client is closed"):
        await client.redis.ping()


async def _gone(redis_client: Redis) -> bool:
    return not await connections(redis_client)


def test_another_event_loop_is_told_to_make_its_own(redis_url: str) -> None:
    client = Client(redis_url)

    async def use() -> None:
        await client.submit(job("echo"), "x")

    async def use_and_close() -> None:
        await use()
        await client.aclose()

    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(use())
        with pytest.raises(RuntimeError, match="another event loop"):
            second.run(use())
        first.run(client.aclose())
        with pytest.raises(RuntimeError, match="closed"):
            first.run(use_and_close())


async def test_calls_of_distributed_share_a_client_that_closes_when_idle(redis_url: str, redis_client: Redis) -> None:
    before = (await redis_client.info("stats"))["total_connections_received"]
    for number in range(100):
        async with await distributed(job("echo"), str(number), redis_url=redis_url):
            pass
    other = await distributed(job("echo"), "x", redis_url=redis_url, queue="other")
    opened = (await redis_client.info("stats"))["total_connections_received"] - before
    assert (opened, len(await connections(redis_client))) == (2, 2), "one for each queue"
    await wait_until(lambda: _gone(redis_client))
    assert (await other.status()).status is TaskStatus.PENDING  # type: ignore[union-attr]
    waiting = asyncio.create_task(other.result())
    await asyncio.sleep(1.5)
    assert len(await connections(redis_client)) == 2, "who waits uses it"
    waiting.cancel()
    await wait_until(lambda: _gone(redis_client))


LOOPS = {
    "asyncio": "asyncio.run(main())",
    "uvloop": "import uvloop\nuvloop.run(main())",
    "again and again": "for _ in range(3): asyncio.run(main())",
    "runner": "with asyncio.Runner() as runner: runner.run(main()); runner.run(main())",
}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_ends_leaves_no_connection_and_no_warning(redis_url: str, loop: str) -> None:
    script = f"""
import asyncio
from orbiter.distributed import distributed
async def main():
    handle = await distributed({job("echo")!r}, "hi")
    reading = asyncio.create_task(handle.result())
    await asyncio.sleep(0.1)
    print((await handle.status()).status, flush=True)
{LOOPS[loop]}
import gc; gc.collect()
"""
    done = run_script(script, redis_url, "-X", "dev", "-W", "error")
    assert (complaints(done.stderr), done.returncode) == ([], 0)
    assert set(done.stdout.split()) == {"pending"}


def run_script(script: str, redis_url: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", script],
        env=environment(ORBITER_REDIS_URL=redis_url),
        cwd=WORKER_DIRECTORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# -- forks -----------------------------------------------------------------------------------------------------------

FORKS = f"""
import asyncio, os, sys
from orbiter.distributed import Client, SyncClient, distributed, distributed_sync
AGENT = {job("echo")!r}
PATIENCE = {PATIENCE}

def child(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return pid

def codes(pids):
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]

async def ask(text):
    handle = await distributed(AGENT, text)
    assert (await asyncio.wait_for(handle.result(), PATIENCE))["output"] == text

async def refused(handle):
    try:
        await handle.status()
    except RuntimeError as error:
        assert "forked" in str(error), error
        return
    raise AssertionError("the child used what is its parent's")

def in_child(handle, number):
    asyncio.run(refused(handle))
    for text in range(10):
        asyncio.run(ask(f"{{number}}-{{text}}"))
    import gc; gc.collect()

async def main():
    async with Client() as client:
        await ask("parent")
        handle = await client.submit(AGENT, "x", not_before=__import__("datetime").timedelta(seconds=2))
        reading = asyncio.create_task(handle.result())
        await asyncio.sleep(0.2)
        pids = [child(lambda: in_child(handle, number)) for number in range(3)]
        found = await asyncio.to_thread(codes, pids)
        assert (await asyncio.wait_for(reading, PATIENCE))["output"] == "x"
        await ask("after")
        print("async", found)

asyncio.run(main())

async def forget():
    # Whatever is collected here must not touch the parent's loop, with which this process shares its selector.
    global client, handle
    del client, handle
    import gc; gc.collect()

async def begin():
    global client, handle
    client = Client()
    handle = await client.submit(AGENT, "x")
    await handle.result()

async def end():
    found = await asyncio.wait_for(handle.result(), PATIENCE)
    await client.aclose()
    return found["output"]

with asyncio.Runner() as runner:
    runner.run(begin())
    found = codes([child(lambda: asyncio.run(forget()))])
    print("forgotten", found, runner.run(end()))

with SyncClient() as client:
    handle = client.submit(AGENT, "x")
    def in_sync_child():
        assert handle.result(timeout=PATIENCE)["output"] == "x"
        for text in range(10):
            assert client.submit(AGENT, str(text)).result(timeout=PATIENCE)["output"] == str(text)
            assert distributed_sync(AGENT, str(text)).result(timeout=PATIENCE)["output"] == str(text)
    print("sync", codes([child(in_sync_child) for _ in range(3)]))
    assert client.submit(AGENT, "last").result(timeout=PATIENCE)["output"] == "last"
"""


async def test_a_forked_child_uses_no_connection_of_its_parent(redis_url: str, working: Worker) -> None:
    done = await asyncio.to_thread(run_script, FORKS, redis_url, "-W", "error::ResourceWarning")
    assert (done.stdout, done.stderr, done.returncode) == (
        "async [0, 0, 0]\nforgotten [0] x\nsync [0, 0, 0]\n",
        "",
        0,
    )


# -- the blocking twin -----------------------------------------------------------------------------------------------


async def test_the_blocking_client_does_what_the_client_does(redis_url: str, redis_client: Redis, working: Any) -> None:
    def use() -> list[Any]:
        with SyncClient(redis_url) as client:
            tasks = client.submit_many(job("echo"), (str(number) for number in range(20)))
            outputs = [task.result(timeout=PATIENCE)["output"] for task in tasks]
            task = client.submit(job("sleep"), "x", metadata={"seconds": 600}, task_id="mine")
            again = client.task("mine")
            cancelled = again.cancel()
            kinds = [event.type for event in again.stream()]
            status = task.status()
            with redis.Redis.from_url(redis_url) as looking:
                rows = [row["name"] for row in looking.client_list()].count("orbiter-client")
        with pytest.raises(RuntimeError, match="client is closed"):
            task.status()
        with pytest.raises(RuntimeError, match="client is closed"):
            client.submit(job("echo"), "x")
        return [outputs, cancelled, kinds[-1], status and status.status, rows]

    outputs, cancelled, kind, status, rows = await asyncio.to_thread(use)
    assert outputs == [str(number) for number in range(20)]
    assert cancelled in {"cancelled", "requested"}
    assert (kind, status, rows) == ("status", "cancelled", 2)
    await wait_until(lambda: _gone(redis_client))


async def test_closing_the_blocking_client_ends_threads_that_wait(redis_url: str, redis_client: Redis) -> None:
    client = SyncClient(redis_url)
    task = await asyncio.to_thread(client.submit, job("echo"), "x")
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            task.result()
        except BaseException as error:  # noqa: BLE001 - looked at below
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    await wait_until(lambda: _listeners(redis_client, task.task_id))
    await asyncio.to_thread(client.close)
    await asyncio.to_thread(thread.join, PATIENCE)
    assert [type(error) for error in errors] == [RuntimeError]


def test_inputs_of_the_blocking_client_are_read_in_the_callers_thread(redis_url: str) -> None:
    threads: set[str] = set()

    def inputs() -> Iterator[str]:
        for number in range(10):
            threads.add(threading.current_thread().name)
            yield str(number)

    with SyncClient(redis_url, queue="q") as client:
        assert len(client.submit_many(job("echo"), inputs())) == 10
    assert threads == {threading.current_thread().name}


def test_the_blocking_client_says_who_reads_what_needs_await(redis_url: str) -> None:
    async def inputs() -> AsyncIterator[str]:
        yield "a"

    with (
        SyncClient(redis_url) as client,
        pytest.raises(TypeError, match=r"a async_generator is read with await: use C"),
    ):
        client.submit_many(job("echo"), inputs())  # type: ignore[arg-type]


async def test_a_stream_behind_what_is_no_event_is_refused(client: Client) -> None:
    task = await client.submit(job("echo"), "x")
    with pytest.raises(ValueError, match="'abc' is no entry id of an event"):
        await anext(client.stream(task.task_id, after="abc"))
    with pytest.raises(ValueError, match="'abc' is no entry id of an event"):
        next(iter(SyncClient(client.redis_url).task(task.task_id).stream(after="abc")))


@pytest.mark.parametrize("inputs", ["abc", b"abc", None, 3], ids=repr)
async def test_submit_many_refuses_what_is_no_iterable_of_texts(
    redis_url: str, redis_client: Redis, inputs: Any
) -> None:
    """A text is iterable: it would be a task for each letter."""
    async with Client(redis_url) as client:
        with pytest.raises(TypeError, match=r"inputs: a (str|bytes|NoneType|int)\b"):
            await client.submit_many(job("echo"), inputs)
    for submit in (SyncClient(redis_url).submit_many, partial(submit_many, redis_url=redis_url)):
        with pytest.raises(TypeError, match=r"inputs: a (str|bytes|NoneType|int)\b"):
            await asyncio.to_thread(submit, job("echo"), inputs)
    assert await redis_client.exists("orbiter:task:index") == 0
