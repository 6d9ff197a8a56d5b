"""Readers while Redis is away: they wait for it, and say at once what no waiting mends. A real Redis and cluster."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import redis
from redis.exceptions import NoPermissionError, ResponseError

from orbiter.distributed.broker.cluster_broker import broker_for
from orbiter.distributed.client.handle import distributed
from orbiter.distributed.client.sync import SyncTaskHandle
from orbiter.distributed.connection import patience
from orbiter.distributed.models import is_final
from tests import keys
from tests.servers import Cluster, Server, cluster_of_six, eventually, plain_server
from tests.support import PATIENCE, start_orbiter, wait_until

AGENT = {"runtime": "callable", "name": "echo", "target": "tests.integration.jobs:echo"}
FINAL = '{"type": "status", "status": "completed", "agent_name": "", "message": "", "seq": 1, "attempt": 1}'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    # Loading takes a while, in which it says so.
    with plain_server(tmp_path, "key-load-delay 300000", "loading-process-events-interval-bytes 1024") as server:
        yield server


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
def waits(caplog: pytest.LogCaptureFixture) -> Callable[[int], Awaitable[None]]:
    """Wait until readers of this process have waited so often for a Redis that is away."""
    caplog.set_level(logging.DEBUG, logger=patience.__name__)

    async def waited(times: int) -> None:
        await wait_until(lambda: sum(row.name == patience.__name__ for row in caplog.records) >= times)

    return waited


def url_of(server: Server) -> str:
    return f"redis://127.0.0.1:{server.port}/0"


@contextmanager
def frozen(*servers: Server) -> Iterator[None]:
    """Let servers do nothing, though their connections stay open."""
    for server in servers:
        server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for server in servers:
            server.process.send_signal(signal.SIGCONT)


@contextmanager
def ended_at_last(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Give a process, and end it whatever becomes of the test."""
    with process:
        try:
            yield process
        finally:
            process.kill()


async def end(url: str, task_id: str) -> None:
    """End a task as a worker does."""
    broker = broker_for(url)
    await broker.connect()
    await broker.client.hset(
        keys.task(task_id), mapping={"status": "completed", "completed_at": "1", "result": '{"output": "done"}'}
    )
    await broker.client.xadd(keys.stream(task_id), {"event": FINAL, "at": "1-1!"})
    await broker.client.publish(keys.events(task_id), FINAL)
    await broker.disconnect()


@asynccontextmanager
async def readers(url: str) -> AsyncIterator[tuple[str, list[asyncio.Task[object]]]]:
    """Submit a task; give its id and everybody who waits for it."""
    async with await distributed(AGENT, "x", redis_url=url) as handle:

        async def streams() -> object:
            return [event async for event in handle.stream()][-1]

        sync = SyncTaskHandle(handle.task_id, redis_url=url)
        waiting: list[asyncio.Task[object]] = [
            asyncio.create_task(handle.result()),
            asyncio.create_task(streams()),
            asyncio.create_task(_in_thread(sync.result)),
            asyncio.create_task(_in_thread(lambda: list(sync.stream())[-1])),
        ]
        try:
            yield handle.task_id, waiting
        finally:
            for reader in waiting:
                reader.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


async def _in_thread(read: Callable[[], object]) -> object:
    """Read in a thread of its own, which no failing test waits for."""
    done: Future[object] = Future()

    def work() -> None:
        try:
            done.set_result(read())
        except Exception as error:  # noqa: BLE001 - raised again where it is awaited
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return await asyncio.wrap_future(done)


async def all_have_read(waiting: list[asyncio.Task[object]]) -> None:
    async with asyncio.timeout(PATIENCE):
        result, event, same, again = await asyncio.gather(*waiting)
    assert result == same == {"output": "done"}
    assert is_final(event)  # type: ignore[arg-type]
    assert is_final(again)  # type: ignore[arg-type]


async def test_every_reader_waits_for_a_redis_that_restarts_and_loads(
    server: Server, waits: Callable[[int], Awaitable[None]]
) -> None:
    url = url_of(server)
    async with readers(url) as (task_id, waiting):
        command = ["task", "events", task_id, "--follow", "--redis-url", url]
        with ended_at_last(start_orbiter(*command)) as following:
            # One connection for the readers of this loop, one for those in threads, one of the command.
            await wait_until(lambda: server.ask("PUBSUB", "NUMSUB", keys.events(task_id))[1] == 3)  # type: ignore[index]
            for number in range(8):
                server.ask("SET", f"filler{number}", random.randbytes(2000).hex())
            server.ask("SAVE")
            server.kill()
            await waits(8)
            assert [reader.done() for reader in waiting] == [False] * 4
            server.start()
            await wait_until(lambda: _says(server, "LOADING"))
            await asyncio.to_thread(eventually, server.answers)
            await end(url, task_id)
            await all_have_read(waiting)
            out, errors = await asyncio.to_thread(following.communicate, timeout=PATIENCE)
        assert (following.returncode, errors) == (0, "")
        assert "status completed" in out


async def test_a_reader_waits_while_redis_runs_a_long_script(server: Server) -> None:
    url = url_of(server)
    server.ask("CONFIG", "SET", "busy-reply-threshold", "50")
    async with readers(url) as (task_id, waiting):
        # One connection for the readers of this loop, one for those in threads.
        await wait_until(lambda: server.ask("PUBSUB", "NUMSUB", keys.events(task_id))[1] == 2)  # type: ignore[index]
        script = "local at = redis.call('TIME')[1] while redis.call('TIME')[1] - at < 9 do end"
        busy = subprocess.Popen(["redis-cli", "-p", str(server.port), "EVAL", script, "0"], stdout=subprocess.DEVNULL)
        try:
            await wait_until(lambda: _says(server, "BUSY"))
            await asyncio.to_thread(busy.wait, PATIENCE)
            assert [reader.done() for reader in waiting] == [False] * 4
            await end(url, task_id)
            await all_have_read(waiting)
        finally:
            busy.kill()
            busy.wait()


def _says(server: Server, refusal: str) -> bool:
    try:
        server.ask("PING")
    except redis.BusyLoadingError:
        return refusal == "LOADING"
    except redis.ConnectionError:
        return False
    except ResponseError as error:
        return refusal in str(error)
    return False


@pytest.mark.parametrize("of_record", [True, False], ids=["that holds the record", "that holds something else"])
async def test_readers_wait_for_a_cluster_that_is_down_by_a_frozen_master(
    cluster: Cluster, of_record: bool, waits: Callable[[int], Awaitable[None]]
) -> None:
    async with readers(cluster.url) as (task_id, waiting):
        owner = cluster.master_of(keys.task(task_id))
        if not of_record:
            holders = [owner, cluster.master_of(keys.stream(task_id))]
            owner = next(node for node in map(cluster.master_of, "abcdefgh") if node not in holders)
        # A replica that may not become master: the cluster is down while its master is frozen.
        replicas = [node for node in cluster.nodes if node is not owner and _follows(node, owner)]
        for replica in replicas:
            replica.ask("CONFIG", "SET", "cluster-replica-no-failover", "yes")
        with frozen(owner):
            other = next(node for node in cluster.nodes if node is not owner and node not in replicas)
            await asyncio.to_thread(
                eventually,
                lambda: "cluster_state:fail" in str(other.ask("CLUSTER", "INFO")),
                what="the cluster is down",
            )
            await waits(4)
            assert [reader.exception() for reader in waiting if reader.done()] == []
        for replica in replicas:
            replica.ask("CONFIG", "SET", "cluster-replica-no-failover", "no")
        await asyncio.to_thread(eventually, cluster.healthy, what="the cluster is whole")
        await end(cluster.url, task_id)
        await all_have_read(waiting)


async def test_readers_go_to_the_new_master_while_the_old_one_is_frozen(cluster: Cluster) -> None:
    async with readers(cluster.url) as (task_id, waiting):
        owner = cluster.master_of(keys.task(task_id))
        await wait_until(lambda: _subscribers(cluster, task_id) == 2)
        with frozen(owner):
            other = next(node for node in cluster.nodes if node is not owner)
            await asyncio.to_thread(eventually, lambda: _successor(other, owner), what="the replica takes over")
            async with asyncio.timeout(PATIENCE):
                await end_patiently(cluster.url, task_id)
                await all_have_read(waiting)


async def end_patiently(url: str, task_id: str) -> None:
    await patience.patiently(lambda: end(url, task_id))


def _subscribers(cluster: Cluster, task_id: str) -> int:
    return sum(node.ask("PUBSUB", "NUMSUB", keys.events(task_id))[1] for node in cluster.nodes)  # type: ignore[index]


def _follows(node: Server, master: Server) -> bool:
    role = node.ask("ROLE")
    return role[0] == "slave" and role[2] == master.port  # type: ignore[index]


def _successor(asked: Server, old: Server) -> bool:
    rows = [row.split() for row in str(asked.ask("CLUSTER", "NODES")).splitlines()]
    masters = [row for row in rows if "master" in row[2] and "fail" not in row[2] and len(row) > 8]
    return len(masters) == 3 and all(f":{old.port}@" not in row[1] for row in masters)


async def test_a_reader_without_the_right_is_told_at_once(server: Server) -> None:
    url = url_of(server)
    async with await distributed(AGENT, "x", redis_url=url) as handle:
        server.ask("ACL", "SETUSER", "narrow", "on", ">x", "~*", "&*", "+@all", "-xrange")
        sync = SyncTaskHandle(handle.task_id, redis_url=url.replace("//", "//narrow:x@"))
        began = time.monotonic()
        for read in (sync.result, lambda: list(sync.stream())):
            with pytest.raises(NoPermissionError):
                await asyncio.to_thread(read)
        # A record of a wrong type.
        server.ask("DEL", keys.task(handle.task_id))
        server.ask("SET", keys.task(handle.task_id), "x")
        with pytest.raises(RuntimeError, match="cannot be read"):
            await handle.result()
        assert time.monotonic() - began < patience.RECONNECT_WITHIN / 4


async def test_a_reader_raises_after_the_time_that_is_documented(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert patience.RECONNECT_WITHIN == 60
    async with await distributed(AGENT, "x", redis_url=url_of(server)) as handle:
        monkeypatch.setattr(patience.Patience.__init__, "__defaults__", (2.0,))
        server.kill()
        began = time.monotonic()
        with pytest.raises(redis.ConnectionError):
            await handle.result()
        assert 2 <= time.monotonic() - began < patience.RECONNECT_WITHIN / 2
