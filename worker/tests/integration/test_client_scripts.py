"""Clients that may run our scripts by their hashes, and load none: they go on as soon as a worker is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, NoScriptError

from orbiter.distributed.broker.loading import Missing
from orbiter.distributed.broker.scripts import client_scripts, script
from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.client.client import Client
from orbiter.distributed.connection.redis_url import connect
from orbiter.distributed.models import TaskPayload
from tests.rights import RULES, rules
from tests.servers import Server, eventually, nothing_refused, plain_server
from tests.support import worker_process

ECHO = {"runtime": "callable", "name": "echo", "target": "tests.integration.jobs:echo"}
SHORT = ("--heartbeat-ttl", "3")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    # Some of these tests are about what is refused; the others look themselves.
    with plain_server(tmp_path, *RULES, refuses=True) as server:
        yield server


def url(server: Server, user: str) -> str:
    return f"redis://{user}:{user.upper()}-PASSWORD@127.0.0.1:{server.port}/0"


@pytest.fixture
async def limited(server: Server) -> AsyncIterator[Redis]:
    """A connection as a client's user."""
    connection = connect(url(server, "client"))
    yield connection
    await connection.aclose()


async def completes(client: Client, *, within: float = 45) -> None:
    async with asyncio.timeout(within):
        task = await client.submit(ECHO, "x")
        assert (await task.result())["output"] == "x"


async def test_a_client_that_came_before_the_first_worker_waits_for_it(server: Server, tmp_path: Path) -> None:
    async with Client(url(server, "client")) as client:
        submitting = asyncio.create_task(completes(client))
        await asyncio.sleep(1)
        assert not submitting.done()
        with worker_process(url(server, "worker"), "w1", tmp_path / "worker.log", *SHORT):
            await submitting


async def test_a_client_goes_on_after_scripts_were_lost_while_a_worker_lives(server: Server, tmp_path: Path) -> None:
    async with Client(url(server, "client")) as client:
        with worker_process(url(server, "worker"), "w1", tmp_path / "worker.log", *SHORT):
            await completes(client)
            server.ask("SCRIPT", "FLUSH")
            await completes(client)
            server.kill()
            server.start()
            eventually(server.answers)
            await completes(client)


async def test_a_client_goes_on_after_redis_restarted_while_no_worker_lived(server: Server, tmp_path: Path) -> None:
    async with Client(url(server, "client")) as client:
        with worker_process(url(server, "worker"), "w1", tmp_path / "worker.log", *SHORT):
            await completes(client)
        server.kill()
        server.start()
        eventually(server.answers)
        submitting = asyncio.create_task(completes(client))
        await asyncio.sleep(1)
        assert not submitting.done()
        with worker_process(url(server, "worker"), "w2", tmp_path / "worker.log", *SHORT):
            await submitting


async def test_a_client_whose_scripts_nobody_loads_gives_up_in_the_end(limited: Redis) -> None:
    missing = Missing(limited, script(limited, "core/submit"), within=0.5)

    async def wait() -> None:
        while True:
            await missing.load()

    with pytest.raises(NoScriptError, match="start a worker"):
        await asyncio.wait_for(wait(), 30)


async def test_a_client_that_submits_by_a_broker_needs_no_right_to_make_the_group(server: Server) -> None:
    server.ask("SCRIPT", "LOAD", next(text for text in client_scripts().values() if "Accepts tasks, each once" in text))
    broker = TaskBroker(url(server, "client"))
    await broker.connect()
    async with asyncio.timeout(30):
        await broker.submit(TaskPayload(agent_config=ECHO))
    await broker.disconnect()
    assert server.ask("XLEN", "orbiter:tasks") == 1


async def test_whoever_may_load_scripts_waits_for_nobody(server: Server) -> None:
    async with Client(f"redis://127.0.0.1:{server.port}/0") as client, asyncio.timeout(30):
        await client.submit(ECHO, "x")


async def test_a_client_of_another_release_is_told_what_to_do(server: Server) -> None:
    hashes = [f"+evalsha|{sha}" for sha in client_scripts()]
    rules = next(rule for rule in RULES if rule.startswith("user client "))
    for known in hashes:
        rules = rules.replace(known, f"+evalsha|{'0' * 40}")
    server.ask("ACL", "SETUSER", "client", "reset", *rules.split()[2:])
    async with Client(url(server, "client")) as client, asyncio.timeout(30):
        with pytest.raises(NoPermissionError, match="redis_client_scripts_extra"):
            await client.submit(ECHO, "x")


@pytest.mark.parametrize("namespace", ["acme", "{acme}"])
async def test_users_of_another_namespace_work_in_it_and_touch_nothing_outside(
    server: Server, tmp_path: Path, namespace: str
) -> None:
    for user in ("worker", "client"):
        words = rules(user, namespace=namespace).split()
        server.ask("ACL", "SETUSER", user, "reset", "on", f">{user.upper()}-PASSWORD", *words)
    server.ask("ACL", "LOG", "RESET")
    log = tmp_path / "worker.log"
    async with Client(url(server, "client"), namespace=namespace) as client:
        with worker_process(url(server, "worker"), "w1", log, *SHORT, namespace=namespace):
            await completes(client)
            later = await client.submit(ECHO, "x", not_before=timedelta(hours=1))
            assert await later.cancel() == "cancelled"
    nothing_refused(server)
    assert "NOPERM" not in log.read_text()
    async with Client(url(server, "client")) as outside:
        with pytest.raises(NoPermissionError):
            await outside.submit(ECHO, "x")
