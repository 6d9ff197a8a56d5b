"""The ACL rules that the role orbiter.fleet.redis gives its users: enough for all that each does, and no more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import NoPermissionError

from orbiter.distributed.broker.loading import load_client_scripts
from orbiter.distributed.broker.records import Claim
from orbiter.distributed.broker.store import TaskStore
from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.client.handle import distributed
from orbiter.distributed.connection.redis_url import connect
from orbiter.distributed.health import get_worker_fleet_status
from orbiter.distributed.models import TaskPayload
from tests.rights import RULES
from tests.servers import Server, nothing_refused, plain_server
from tests.support import PATIENCE, orbiter, wait_until, worker_process


def agent(name: str) -> dict[str, str]:
    return {"runtime": "callable", "name": name, "target": f"tests.integration.jobs:{name}"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with plain_server(tmp_path_factory.mktemp("acl"), *RULES, refuses=True) as server:
        yield server


def url(server: Server, user: str) -> str:
    return f"redis://{user}:{user.upper()}-PASSWORD@127.0.0.1:{server.port}/0"


async def test_a_worker_and_a_client_do_all_they_can_with_their_rights(server: Server, tmp_path: Path) -> None:
    mine, log = url(server, "client"), tmp_path / "worker.log"
    options = ("--heartbeat-ttl", "1", "--retry-backoff", "0.01", "--concurrency", "4", "--max-retries", "1")
    # A dead worker's entry, for the sweep.
    server.ask("XGROUP", "CREATE", "orbiter:tasks", "orbiter:tasks:group", "0", "MKSTREAM")
    server.ask("XADD", "orbiter:tasks", "*", "payload", "more nonsense")
    server.ask("XREADGROUP", "GROUP", "orbiter:tasks:group", "gone", "STREAMS", "orbiter:tasks", ">")
    with worker_process(url(server, "worker"), "w1", log, *options):
        async with await distributed(agent("say"), "some words", redis_url=mine) as task, asyncio.timeout(PATIENCE):
            assert (await task.result())["output"].split() == ["some", "words"]
        async with await distributed(agent("fail"), "", redis_url=mine) as task, asyncio.timeout(PATIENCE):
            with pytest.raises(RuntimeError, match="attempt 2 failed"):
                await task.result()
        client = connect(mine)
        broker, store = TaskBroker(mine, client=client), TaskStore(mine, client=client)
        slow = {"agent_config": agent("sleep"), "metadata": {"seconds": 600}}
        kept, waits = TaskPayload(**slow), TaskPayload(**slow, not_before=4e9)
        ended = TaskPayload(**slow)
        await broker.submit_many([kept, waits, ended])
        await wait_until(lambda: _running(store, ended.task_id))
        assert await broker.cancel(waits.task_id) == "cancelled"
        assert await broker.cancel(ended.task_id) == "requested"
        await wait_until(lambda: _status(store, ended.task_id, "cancelled"))
        server.ask("XADD", "orbiter:tasks", "*", "payload", "nonsense")
        await wait_until(lambda: server.ask("XLEN", "{orbiter:tasks}:dead") == 3)
        assert len(await store.list_tasks()) == 5
        assert [worker.worker_id for worker in await get_worker_fleet_status(mine, client=client)] == ["w1"]
        for words in (["task", "list"], ["task", "status", kept.task_id], ["worker", "list"]):
            shown = await asyncio.to_thread(orbiter, *words, "--redis-url", mine)
            assert shown.returncode == 0, shown
        # On a worker host the command has the worker's URL: playbooks and operators call it there.
        for words in (["task", "list"], ["task", "status", kept.task_id], ["worker", "list"], ["queue", "info"]):
            shown = await asyncio.to_thread(orbiter, *words, "--redis-url", url(server, "worker"))
            assert shown.returncode == 0, shown
        for words in (["worker", "quiet", "w1"], ["task", "cancel", kept.task_id]):
            done = await asyncio.to_thread(orbiter, *words, "--redis-url", url(server, "worker"))
            assert done.returncode == 0, done
        await client.aclose()
    nothing_refused(server)
    assert "NOPERM" not in log.read_text()


async def test_a_worker_has_the_rights_to_lose_a_run(server: Server) -> None:
    server.ask("ACL", "LOG", "RESET")
    server.ask("FLUSHALL")
    broker = TaskBroker(url(server, "worker"), max_crashes=1)
    await broker.connect()
    await broker.ensure_group()
    await TaskBroker(url(server, "client"), client=broker.client).submit(TaskPayload())
    why = {"reason": "killed", "error_type": "E"}
    stands = []
    for _ in range(3):
        [(entry, started)] = await broker.fetch("w1", 1)
        task = TaskPayload.from_fields(entry.fields)
        claim = Claim(entry.entry_id, task, started.deliveries, started.attempt, started.retries, started.alone)
        stands.append(await broker.lose("w1", claim, **why, guilty=True, host=False))
    assert stands == ["pending", "pending", "failed"]
    await broker.disconnect()
    nothing_refused(server)


async def _status(store: TaskStore, task_id: str, status: str) -> bool:
    task = await store.get_status(task_id)
    return task is not None and task.status == status


async def _running(store: TaskStore, task_id: str) -> bool:
    return await _status(store, task_id, "running")


@pytest.mark.parametrize(
    "command",
    [
        ("HSET", "orbiter:workers:me", "status", "running"),
        ("XREADGROUP", "GROUP", "orbiter:tasks:group", "me", "STREAMS", "orbiter:tasks", ">"),
        ("XDEL", "orbiter:tasks", "1-1"),
        ("XTRIM", "orbiter:tasks", "MAXLEN", "0"),
        ("DEL", "orbiter:tasks"),
        ("EXPIRE", "orbiter:tasks", "0"),
        ("EXPIRE", "{orbiter:tasks}:delayed", "0"),
        ("SADD", "{orbiter:tasks}:delayed", "x"),
        ("HSET", "{orbiter:tasks}:delayed", "a", "b"),
        ("SADD", "{orbiter:tasks}:parked", "x"),
        ("EXPIRE", "orbiter:task:index", "0"),
        ("HSET", "orbiter:task:by_time", "a", "b"),
        ("SADD", "orbiter:task:mine", "x"),
        ("DEL", "orbiter:task:mine"),
        ("XGROUP", "CREATE", "orbiter:tasks", "more", "0"),
        ("XRANGE", "orbiter:tasks", "-", "+"),
        ("SCRIPT", "LOAD", "while true do end"),
        ("EVAL", "return 1", "0"),
        ("FUNCTION", "LOAD", "#!lua name=x"),
        ("GET", "other"),
        ("CONFIG", "GET", "*"),
        ("FLUSHALL",),
        ("KEYS", "*"),
    ],
    ids=" ".join,
)
async def test_a_client_can_neither_pose_as_a_worker_nor_do_harm(server: Server, command: tuple[str, ...]) -> None:
    client = connect(url(server, "client"))
    with pytest.raises(NoPermissionError):
        await client.execute_command(*command)
    await client.aclose()


def test_monitoring_sees_everything_and_changes_nothing(server: Server) -> None:
    mine = url(server, "monitor")
    server.ask("ACL", "LOG", "RESET")
    server.ask("FLUSHALL")
    server.ask("XGROUP", "CREATE", "orbiter:tasks", "orbiter:tasks:group", "0", "MKSTREAM")
    server.ask("XADD", "orbiter:tasks", "*", "payload", "{}")
    beat = ("version", "1", "queue", "orbiter:tasks", "recent_completed", "1")
    server.ask("HSET", "orbiter:workers:w9", *beat)
    for words in (("alerts", "check"), ("queue", "info"), ("worker", "list"), ("task", "list")):
        found = orbiter(*words, "--redis-url", mine)
        assert (found.returncode, found.stderr) == (0, ""), words
    nothing_refused(server)
    refused = orbiter("task", "cancel", "x", "--redis-url", mine)
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: orbiter task cancel: the user 'monitor' of Redis may not do this: ")


@pytest.mark.parametrize(
    "command",
    [
        ("queue", "info"),
        ("alerts", "check"),
        ("task", "dead", "list"),
        ("task", "dead", "retry", "--all"),
        ("task", "retry", "unknown"),
        ("worker", "drain", "w1"),
    ],
    ids=" ".join,
)
def test_a_command_that_a_user_may_not_give_names_user_and_remedy(server: Server, command: tuple[str, ...]) -> None:
    refused = orbiter(*command, "--redis-url", url(server, "client"))
    # Of `alerts check`, 1 says that an alert fires.
    assert (refused.returncode, refused.stdout) == (2, "")
    (line,) = refused.stderr.splitlines()
    wanted = " ".join(word for word in command if word not in {"--all", "unknown", "w1"})
    assert line.startswith(f"Error: orbiter {wanted}: the user 'client' of Redis may not do this: ")
    assert "Run it on a worker's host" in line
    assert "docs/redis-users.md" in line
    assert "PASSWORD" not in line


async def test_the_doctor_says_once_what_a_user_may_not_look_at(server: Server) -> None:
    server.ask("FLUSHALL")
    # As a deploy does: clients may not.
    async with contextlib.aclosing(connect(url(server, "worker"))) as worker:
        await load_client_scripts(worker)
    server.ask("XGROUP", "CREATE", "orbiter:tasks", "orbiter:tasks:group", "0", "MKSTREAM")
    lines = orbiter("doctor", "--redis-url", url(server, "client")).stdout.splitlines()
    rights = [line.split(None, 2) for line in lines if line.split()[1] == "rights"]
    assert [state for state, _, _ in rights] == ["ok", "warning"]
    assert rights[1][2].startswith("not looked at: version, storage and queue; the user 'client' of Redis may not: ")
    assert [line.split()[1] for line in lines if not line.startswith(" ")] == [
        "reach",
        "rights",
        "clock",
        "workers",
        "rights",
    ]
