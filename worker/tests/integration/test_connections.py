"""`orbiter start worker` against every kind of Redis that one process serves; what its connections do."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode, urlsplit

import pytest
import redis
import uvloop

from orbiter.distributed.client.handle import distributed
from orbiter.distributed.connection.redis_url import connect, connect_sync
from orbiter.distributed.connection.transports import NotMasterError, hang_up
from orbiter.distributed.connection.wire import CommandWire
from tests.servers import Certificates, SentinelTrio, Server, free_port, plain_server, sentinel_trio, tls_server
from tests.support import PATIENCE, orbiter, wait_until, worker_process

ECHO = {"runtime": "callable", "name": "echo", "target": "tests.integration.jobs:echo"}


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelTrio]:
    with sentinel_trio(tmp_path_factory.mktemp("sentinel")) as trio:
        yield trio


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a password, and a socket."""
    directory = tmp_path_factory.mktemp("secured")
    options = ("requirepass p@ss/word", f"unixsocket {directory}/redis.sock")
    with plain_server(directory, *options) as server:
        yield server


async def runs_a_task_and_drains(url: str, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    with worker_process(url, "w1", log) as process:
        async with await distributed(ECHO, "hello", redis_url=url) as task, asyncio.timeout(PATIENCE):
            assert await task.result() == {"output": "hello"}
        listed = await asyncio.to_thread(orbiter, "worker", "list", "--redis-url", url)
        assert (listed.returncode, "w1" in listed.stdout) == (0, True), listed
    assert process.returncode == 0, log.read_text()
    assert "p@ss" not in log.read_text()


@pytest.mark.guide("Sentinel / Cluster", "standard: `redis://redis-primary:6379`")
async def test_start_worker_works_with_a_plain_url(redis_url: str, tmp_path: Path) -> None:
    await runs_a_task_and_drains(redis_url, tmp_path)


async def test_start_worker_works_with_a_password(secured: Server, tmp_path: Path) -> None:
    await runs_a_task_and_drains(f"redis://:p%40ss%2Fword@127.0.0.1:{secured.port}/2", tmp_path)


async def test_start_worker_works_with_a_unix_socket(secured: Server, tmp_path: Path) -> None:
    socket = secured.log.parent.parent / "redis.sock"
    await runs_a_task_and_drains(f"unix://:p%40ss%2Fword@{socket}?db=1", tmp_path)


async def test_start_worker_works_with_tls(tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path / "certificates")
    with tls_server(tmp_path, certificates) as server:
        await runs_a_task_and_drains(
            f"rediss://localhost:{server.port}/0?{urlencode(certificates.options)}",
            tmp_path,
        )


async def test_start_worker_works_with_sentinels(trio: SentinelTrio, tmp_path: Path) -> None:
    await runs_a_task_and_drains(trio.url, tmp_path)


@pytest.mark.guide("Sentinel / Cluster", "`redis+sentinel://sentinel1:26379,sentinel2:26379/mymaster`")
async def test_start_worker_works_with_the_sentinel_url_of_the_guide(trio: SentinelTrio, tmp_path: Path) -> None:
    """``redis+sentinel://sentinel1:26379,sentinel2:26379/mymaster``: two of them, and no number of a database."""
    hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in trio.sentinels[:2])
    await runs_a_task_and_drains(f"redis+sentinel://{hosts}/mymaster", tmp_path)


async def test_one_living_sentinel_is_enough(trio: SentinelTrio) -> None:
    port = trio.sentinels[0].port
    url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:2,127.0.0.1:{port}/mymaster/1"
    client = connect(url, max_connections=1)
    assert await client.set("k", "v")
    assert (await client.client_info())["db"] == 1
    await client.aclose()
    with connect_sync(url) as sync:
        assert sync.get("k") == "v"


async def test_sentinels_that_know_no_such_master_say_so(trio: SentinelTrio) -> None:
    url = trio.url.replace("mymaster", "other")
    async with contextlib.aclosing(connect(url, retries=0)) as client:
        with pytest.raises(redis.ConnectionError, match=r"no sentinel named a master for 'other'.*knows no such"):
            await client.ping()
    with connect_sync(url) as sync, pytest.raises(redis.ConnectionError, match="knows no such master"):
        sync.ping()


async def test_who_gives_up_while_the_sentinels_are_asked_leaves_no_connection(trio: SentinelTrio) -> None:
    with warnings.catch_warnings(record=True) as unclosed:
        warnings.simplefilter("always", ResourceWarning)
        for turns in range(150):
            async with contextlib.aclosing(connect(trio.url, retries=0)) as client:
                asking = asyncio.create_task(client.ping())
                for _ in range(turns):
                    await asyncio.sleep(0)
                asking.cancel()
                await asyncio.wait({asking})
        del asking
        gc.collect()
    assert [str(warning.message) for warning in unclosed] == []


async def test_a_sentinel_that_names_a_replica_is_not_believed(trio: SentinelTrio, tmp_path: Path) -> None:
    [replica] = [server for server in trio.servers if server is not trio.master()]
    # A sentinel of its own mind: it watches the replica as if that were a master, and alone.
    option = f"sentinel monitor mymaster 127.0.0.1 {replica.port} 1"
    with plain_server(tmp_path, option, sentinel=True) as liar:
        hosts = f"127.0.0.1:{liar.port},127.0.0.1:{trio.sentinels[0].port}"
        url = f"redis+sentinel://{hosts}/mymaster"
        client = connect(url, retries=3)
        assert await client.set("k", "v")
        await client.aclose()
        with connect_sync(url) as sync:
            assert sync.set("k", "v")


async def test_of_two_ports_it_is_that_of_the_url_whichever_the_sentinels_name(
    tmp_path: Path,
) -> None:
    """As while a group moves to TLS: the sentinels know the port of those who have not moved yet."""
    files = Certificates.make(tmp_path / "certificates")
    tls = (f"tls-cert-file {files.cert}", f"tls-key-file {files.key}", f"tls-ca-cert-file {files.ca}")
    options = (*tls, "tls-auth-clients no")
    secure, asked = free_port(), free_port()
    with plain_server(tmp_path, f"tls-port {secure}", *options) as server:
        watch = f"sentinel monitor mymaster 127.0.0.1 {server.port} 1"
        with plain_server(tmp_path, watch, f"tls-port {asked}", *options, sentinel=True) as sentinel:
            url = f"rediss+sentinel://127.0.0.1:{asked}/mymaster?ssl_ca_certs={files.ca}"
            client = connect(f"{url}&server_port={secure}")
            assert await client.ping()
            await client.aclose()
            with connect_sync(f"{url}&server_port={secure}") as sync:
                assert sync.ping()
            # Who has not moved finds it all along.
            with connect_sync(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster") as sync:
                assert sync.ping()


async def test_sentinels_may_have_a_login_of_their_own(tmp_path: Path, redis_server: str) -> None:
    port = int(redis_server.rpartition(":")[2].partition("/")[0])
    page = (Path(__file__).parents[3] / "docs" / "redis-users.md").read_text()
    [rights] = re.findall(r"sentinels allow `([^`]*)`", page)
    options = (
        f"sentinel monitor mymaster 127.0.0.1 {port} 1",
        f"user watcher on >s@crt -@all {rights}",
        "user default off",
    )
    with plain_server(tmp_path, *options, sentinel=True) as sentinel:
        place = f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster"
        client = connect(f"{place}?sentinel_username=watcher&sentinel_password=s%40crt")
        assert await client.ping()
        await client.aclose()
        wrong = f"{place}?sentinel_username=watcher&sentinel_password=wrong"
        async with contextlib.aclosing(connect(wrong, retries=0)) as client:
            with pytest.raises(redis.AuthenticationError) as error:
                await client.ping()
        assert "wrong" not in str(error.value).replace("wrong password", "")


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_server_that_became_a_replica_is_left_at_once(kind: str, tmp_path: Path, redis_url: str) -> None:
    port = redis_url.rpartition(":")[2].partition("/")[0]
    with plain_server(tmp_path) as server:
        url = f"redis://127.0.0.1:{server.port}"
        if kind == "async":
            client = connect(url, max_connections=1, retries=0)
            first = await client.client_id()
            await asyncio.to_thread(server.ask, "REPLICAOF", "127.0.0.1", port)
            with pytest.raises(NotMasterError):
                await client.set("k", "v")
            assert await client.client_id() != first
            await client.aclose()
        else:
            with connect_sync(url) as sync:
                first = sync.client_id()
                server.ask("REPLICAOF", "127.0.0.1", port)
                with pytest.raises(NotMasterError):
                    sync.set("k", "v")
                assert sync.client_id() != first


async def test_a_blocked_read_ends_when_its_server_becomes_a_replica(tmp_path: Path, redis_url: str) -> None:
    port = redis_url.rpartition(":")[2].partition("/")[0]
    with plain_server(tmp_path) as server:
        client = connect(f"redis://127.0.0.1:{server.port}", max_connections=1, retries=0)
        await client.xgroup_create("q", "g", mkstream=True)
        reading = asyncio.ensure_future(client.xreadgroup("g", "c", {"q": ">"}, block=600_000))
        await wait_until(lambda: server.ask("INFO", "clients")["blocked_clients"] == 1)
        await asyncio.to_thread(server.ask, "REPLICAOF", "127.0.0.1", port)
        with pytest.raises(redis.ConnectionError):
            async with asyncio.timeout(PATIENCE):
                await reading
        await client.aclose()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


async def close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    for _ in range(3):  # the loop closes it in its next turn
        await asyncio.sleep(0)


def test_a_connection_that_has_ended_is_hung_up_in_peace(redis_url: str, runner: asyncio.Runner) -> None:
    """As in a drain on a busy host: it ended while it was made, before anybody asked uvloop for its socket."""

    async def hang_up_one() -> None:
        _, ended = await asyncio.open_connection("127.0.0.1", urlsplit(redis_url).port)
        await close(ended)
        hang_up(SimpleNamespace(_writer=ended, mark_for_reconnect=lambda: None))

    runner.run(hang_up_one())


def test_a_connection_that_ends_as_it_is_taken_over_is_known_to_have_failed(
    redis_url: str, runner: asyncio.Runner
) -> None:
    async def take_over() -> None:
        async with connect(redis_url) as client:
            connection = await client.connection_pool.get_connection()
            await close(connection._writer)
            wire = CommandWire(connection)
            with pytest.raises(redis.ConnectionError):
                wire.ask([b"PING\r\n"])
            await client.connection_pool.release(connection)

    runner.run(take_over())
