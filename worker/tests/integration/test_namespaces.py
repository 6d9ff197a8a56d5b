"""Namespaces: two fleets on one Redis, of which neither sees, drains, lists, reclaims or breaks the other's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from orbiter.distributed import Client, distributed_sync, submit_many
from orbiter.distributed.alerts import read_queue
from orbiter.distributed.broker.dead_letters import DeadLetters
from orbiter.distributed.broker.housekeeping import Housekeeping
from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.broker.queue_info import get_queue_info
from orbiter.distributed.broker.records import Command
from orbiter.distributed.client.control import WorkerControl
from orbiter.distributed.health import WorkerHealthCheck, get_worker_fleet_status
from orbiter.distributed.models import TaskPayload, TaskStatus
from orbiter.distributed.worker.sweeper import Sweeper
from orbiter.distributed.worker.worker import Worker
from tests.fleet import job_payload
from tests.integration.test_faults import died
from tests.support import orbiter, wait_until, worker_process
from tests.temporal import TemporalServer

PASSWORD = "fleet-password"
PATIENCE = 60.0
BOTH = ("acme", "orbiter")


def agent(job: str) -> dict[str, str]:
    return {"runtime": "callable", "target": f"tests.integration.jobs:{job}", "name": job}


class Tenant:
    """A fleet that may touch its own namespace only: Redis refuses everything else, and keeps what it refused."""

    def __init__(self, url: str, admin: Redis, namespace: str) -> None:
        self.namespace = namespace
        self.url = url.replace("//", f"//{self.user}:{PASSWORD}@")
        self.admin = admin
        self.keys = Keys(namespace)
        self.client = Client(self.url, queue="mail", namespace=namespace)
        self.queue = self.client.queue
        # As the role writes them. A pattern that is subscribed to must be there word by word.
        patterns = [f"~{namespace}:*", *([] if namespace.startswith("{") else [f"~{{{namespace}:*"])]
        self.rules = [*patterns, *(f"&{namespace}:{what}*" for what in ("", "cancel:", "events:"))]
        if namespace == "orbiter":
            # In the default namespace a queue may have any name.
            self.rules += ["~mail", "~{mail}:*"]

    @property
    def user(self) -> str:
        return re.sub(r"\W", "", self.namespace)

    async def open(self) -> None:
        await self.admin.execute_command(
            *("ACL", "SETUSER", self.user, "reset", "on", f">{PASSWORD}", *self.rules, "+@all", "-@admin"),
            *("-flushall", "-flushdb", "-keys"),
        )

    async def close(self) -> None:
        await self.client.aclose()
        await self.admin.execute_command("ACL", "DELUSER", self.user)

    def ask(self, *words: str, stdin: str = "", code: int | None = 0) -> Any:
        """Run the command for this fleet; return what it prints, from JSON."""
        answer = orbiter(*words, "--redis-url", self.url, "--json", stdin=stdin, ORBITER_NAMESPACE=self.namespace)
        assert code in {answer.returncode, None}, answer
        return json.loads(answer.stdout)

    async def asks(self, *words: str, stdin: str = "", code: int | None = 0) -> Any:
        return await asyncio.to_thread(self.ask, *words, stdin=stdin, code=code)

    async def submit(self, job: str, task_id: str, text: str = "", **options: Any) -> None:
        await self.client.submit(agent(job), text, task_id=task_id, **options)

    async def status(self, task_id: str) -> str:
        found = await self.client.status(task_id)
        return "" if found is None else str(found.status)

    async def becomes(self, task_id: str, status: str) -> None:
        async def is_so() -> bool:
            return await self.status(task_id) == status

        await wait_until(is_so, PATIENCE)

    async def record(self, task_id: str) -> dict[str, str]:
        return await self.admin.hgetall(self.keys.task(task_id))  # type: ignore[misc]

    def letters(self) -> DeadLetters:
        return DeadLetters(self.url, queue_name="mail", namespace=self.namespace, client=self.client.redis)

    @contextlib.contextmanager
    def worker(self, worker_id: str, log: Path, *options: str) -> Iterator[Any]:
        options = ("--queue", "mail", "--heartbeat-ttl", "2", "--retry-backoff", "0.01", *options)
        with worker_process(self.url, worker_id, log, *options, namespace=self.namespace) as process:
            yield process

    @contextlib.asynccontextmanager
    async def embedded(self, worker_id: str = "w1", **options: Any) -> AsyncIterator[Worker]:
        """Run a worker in this process."""
        options = {"allow_import": ["tests"], "retry_backoff": 0, "queue_name": "mail"} | options
        worker = Worker(self.url, worker_id=worker_id, namespace=self.namespace, **options)
        life = asyncio.create_task(worker.start())
        try:
            await wait_until(lambda: worker.state == "running" or life.done(), PATIENCE)
            yield worker
        finally:
            await worker.stop()
            await asyncio.wait_for(life, PATIENCE)


@contextlib.asynccontextmanager
async def tenants(url: str, admin: Redis, *namespaces: str) -> AsyncIterator[list[Tenant]]:
    found = [Tenant(url, admin, namespace) for namespace in namespaces]
    for tenant in found:
        await tenant.open()
    await admin.execute_command("ACL", "LOG", "RESET")
    try:
        yield found
        assert await refused(admin) == []
    finally:
        for tenant in found:
            await tenant.close()


async def refused(admin: Redis) -> list[str]:
    """What Redis refused to a fleet, but for the driver's name, which is told to Redis 7.2 and later only."""
    rows = await admin.execute_command("ACL", "LOG")
    rows = [row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True)) for row in rows]
    return [f"{row['username']}: {row['object']}" for row in rows if "setinfo" not in row["object"]]


@pytest.fixture
async def both(redis_url: str, redis_client: Redis) -> AsyncIterator[list[Tenant]]:
    """Two fleets, each with a queue ``mail``."""
    async with tenants(redis_url, redis_client, *BOTH) as found:
        yield found


# -- a fleet touches nothing outside of its namespace ------------------------------------------------------------------


@pytest.mark.parametrize("namespace", ["acme", pytest.param("orbiter", marks=pytest.mark.nightly)])
async def test_every_key_and_channel_of_a_fleet_begins_with_its_namespace(
    namespace: str, redis_url: str, redis_client: Redis, tmp_path: Path
) -> None:
    """All that a fleet does, under a user that may touch nothing else."""
    async with tenants(redis_url, redis_client, namespace) as [fleet]:
        whole = "mail" if namespace == "orbiter" else f"{namespace}:mail"
        assert fleet.queue == whole
        with fleet.worker("w1", tmp_path / "w1.log", "--concurrency", "4") as victim:
            await _tasks_end_in_every_way(fleet)
            await _operators_look(fleet)
            await fleet.submit("hold", "abandoned", metadata={"until": str(tmp_path / "enough")})
            await fleet.becomes("abandoned", "running")
            victim.kill()
            await died(victim)
        with fleet.worker("w2", tmp_path / "w2.log", "--concurrency", "4"):
            await wait_until(lambda: _taken_up(fleet, "abandoned", "w2"), PATIENCE)
            (tmp_path / "enough").touch()
            await fleet.becomes("abandoned", "completed")
            await _an_entry_is_lost(fleet)
            for word in ("quiet", "resume", "drain"):
                assert [row["done"] for row in await fleet.asks("worker", word, "--all")] == [True]
        for name in ("w1.log", "w2.log"):
            assert "NOPERM" not in (tmp_path / name).read_text()
        queue = {whole, *(name for name in await redis_client.keys("{mail}:*") if namespace == "orbiter")}
        begins = (f"{namespace}:", f"{{{namespace}:")
        names = set(await redis_client.keys()) - queue
        assert len(names) > 10
        assert [name for name in names if not name.startswith(begins)] == []


async def _tasks_end_in_every_way(fleet: Tenant) -> None:
    where = {"redis_url": fleet.url, "queue": "mail", "namespace": fleet.namespace}
    handles = await asyncio.to_thread(submit_many, agent("say"), ["one two", "three"], **where)
    assert [await asyncio.to_thread(handle.result, PATIENCE) for handle in handles]
    one = await asyncio.to_thread(distributed_sync, agent("say"), "some words", **where)
    said = await asyncio.to_thread(lambda: [event.type for event in one.stream()])
    assert said[-1] == "status"
    assert (await asyncio.to_thread(one.status)).queue == fleet.queue  # type: ignore[union-attr]
    await fleet.submit("fail", "fails", max_retries=1)
    await fleet.becomes("fails", "failed")
    await wait_until(fleet.letters().count, PATIENCE)
    await fleet.submit("echo", "later", not_before=time.time() + 3600)
    await fleet.submit("sleep", "long", metadata={"seconds": 600})
    await fleet.becomes("long", "running")
    for task_id in ("later", "long"):
        assert (await fleet.asks("task", "cancel", task_id, "--queue", "mail"))["task_id"] == task_id
        await fleet.becomes(task_id, "cancelled")
    # An 0.1 client writes no record, and a payload may be nonsense.
    await fleet.client.redis.xadd(fleet.queue, {"text": "", "payload": job_payload("echo", task_id="bare").to_json()})
    await fleet.client.redis.xadd(fleet.queue, {"payload": "nonsense"})
    await fleet.becomes("bare", "completed")


async def _operators_look(fleet: Tenant) -> None:
    queue = ("--queue", "mail")
    submitted = await fleet.asks(
        "task", "submit", "x", "--agent", "-", "--wait", *queue, stdin=json.dumps(agent("echo"))
    )
    assert (submitted["status"], submitted["queue"]) == ("completed", fleet.queue)
    assert {row["task_id"] for row in await fleet.asks("task", "list", *queue)} >= {"fails", "later", "long", "bare"}
    assert (await fleet.asks("task", "status", "fails"))["status"] == "failed"
    assert (await fleet.asks("queue", "info", *queue))["dead"] == 2
    assert (await fleet.asks("alerts", "check", *queue, code=None))["queue"] == fleet.queue
    assert [row["queue"] for row in await fleet.asks("worker", "list", *queue)] == [fleet.queue]
    assert {row["task_id"] for row in await fleet.asks("task", "dead", "list", *queue)} == {"fails", ""}
    assert [row["error"] for row in await fleet.asks("task", "retry", "fails")] == [None]
    await fleet.becomes("fails", "failed")

    async def there_are_two() -> bool:
        return await fleet.letters().count() == 2

    await wait_until(there_are_two, PATIENCE)
    assert await fleet.asks("task", "dead", "drop", "--all", "--yes", *queue) == {"dropped": 2}
    check = WorkerHealthCheck(fleet.url, "w1", namespace=fleet.namespace)
    assert (await asyncio.to_thread(check.check)).status == "healthy"


async def _taken_up(fleet: Tenant, task_id: str, worker_id: str) -> bool:
    found = await fleet.record(task_id)
    return (found["worker_id"], found["status"]) == (worker_id, "running")


async def _an_entry_is_lost(fleet: Tenant) -> None:
    """What the queue has lost is ended by reconciling, in some seconds."""
    control = WorkerControl(fleet.url, namespace=fleet.namespace, client=fleet.client.redis)
    assert (await control.send("w2", Command.QUIET, timeout=PATIENCE)).done
    await fleet.submit("echo", "lost")
    await fleet.admin.xdel(fleet.queue, (await fleet.record("lost"))["entry"])
    assert (await control.send("w2", Command.RESUME, timeout=PATIENCE)).done
    await fleet.becomes("lost", "failed")
    assert (await fleet.record("lost"))["error_type"] == "EntryLostError"


# -- two fleets --------------------------------------------------------------------------------------------------------


async def test_tasks_of_one_id_are_two_tasks(both: list[Tenant]) -> None:
    acme, other = both
    for tenant in both:
        await tenant.submit("echo", "same", tenant.namespace)
        await tenant.submit("echo", f"of-{tenant.namespace}")
    for tenant in both:
        info = await get_queue_info(tenant.url, "mail", namespace=tenant.namespace)
        reading = await read_queue(tenant.url, "mail", namespace=tenant.namespace)
        assert (info.waiting, info.queue, reading.queue_depth) == (2, tenant.queue, 2)
        listed = {row["task_id"] for row in await tenant.asks("task", "list")}
        assert listed == {"same", f"of-{tenant.namespace}"}
        assert await tenant.asks("alerts", "check", "--queue", "mail", code=1), "it has no worker"
    await acme.client.cancel("same")
    assert [await tenant.status("same") for tenant in both] == ["cancelled", "pending"]
    async with other.embedded() as worker:
        await other.becomes("same", "completed")
        await other.becomes("of-orbiter", "completed")
        await wait_until(lambda: worker.tasks_processed == 2)
    assert (await other.client.status("same")).result == {"output": "orbiter"}  # type: ignore[union-attr]
    assert (await acme.status("same"), await acme.status("of-acme")) == ("cancelled", "pending")
    assert [event.status async for event in acme.client.stream("same")] == ["cancelled"]  # type: ignore[union-attr]
    assert {row["task_id"] for row in await acme.asks("task", "list")} == {"same", "of-acme"}


async def test_one_process_has_workers_of_two_namespaces_under_one_id(both: list[Tenant]) -> None:
    acme, other = both
    async with acme.embedded() as first, other.embedded() as second:
        for tenant in both:
            for number in range(5):
                await tenant.submit("echo", f"t{number}")
        for tenant in both:
            for number in range(5):
                await tenant.becomes(f"t{number}", "completed")
            fleet = await get_worker_fleet_status(tenant.url, namespace=tenant.namespace)
            assert [(health.worker_id, health.queue) for health in fleet] == [("w1", tenant.queue)]
        await wait_until(lambda: (first.tasks_processed, second.tasks_processed) == (5, 5))


async def test_commands_to_all_workers_reach_those_of_the_namespace(both: list[Tenant]) -> None:
    acme, other = both
    async with acme.embedded() as first, other.embedded() as second:
        assert [row["done"] for row in await acme.asks("worker", "quiet", "--all")] == [True]
        assert (first.state, second.state) == ("quiet", "running")
        await other.submit("sleep", "same", metadata={"seconds": 600})
        await other.becomes("same", "running")
        # A task of this id runs elsewhere; here there is none.
        assert (await acme.asks("task", "cancel", "same", code=1))["outcome"] == "unknown"
        await acme.asks("worker", "drain", "--all")
        await wait_until(lambda: first.state == "stopped", PATIENCE)
        assert second.state == "running"
        await other.submit("echo", "after")
        assert (await other.status("same"), await acme.status("same")) == ("running", "")
        assert await acme.asks("worker", "list") == []
        assert await acme.asks("worker", "drain", "w1", code=1)
        await other.client.cancel("same")
        await other.becomes("after", "completed")


async def test_dead_letters_are_the_namespace_s_own(both: list[Tenant]) -> None:
    acme, other = both
    for tenant in both:
        await tenant.submit("fail", "same", max_retries=0)
        async with tenant.embedded():
            await tenant.becomes("same", "failed")
    assert [await tenant.letters().count() for tenant in both] == [1, 1]
    assert await acme.asks("task", "dead", "drop", "--all", "--yes", "--queue", "mail") == {"dropped": 1}
    assert [await tenant.letters().count() for tenant in both] == [0, 1]
    await other.asks("task", "dead", "retry", "same", "--queue", "mail")
    assert [await tenant.status("same") for tenant in both] == ["failed", "pending"]


async def test_what_a_killed_worker_had_is_reclaimed_by_its_own_fleet_only(both: list[Tenant], tmp_path: Path) -> None:
    acme, other = both
    held = {"metadata": {"until": str(tmp_path / "enough")}}
    for tenant in both:
        with tenant.worker("victim", tmp_path / f"{tenant.namespace}.log") as victim:
            await tenant.submit("hold", "same", **held)
            await tenant.becomes("same", "running")
            victim.kill()
            await died(victim)
    before = await acme.record("same")
    with other.worker("heir", tmp_path / "heir.log", "--concurrency", "4"):
        # Its own it reclaims, whenever a lease is over; by then it has swept more than once.
        await wait_until(lambda: _taken_up(other, "same", "heir"), PATIENCE)
        (tmp_path / "enough").touch()
        await other.becomes("same", "completed")
        assert await acme.record("same") == before
        [pending] = await acme.admin.xpending_range(acme.queue, f"{acme.queue}:group", "-", "+", 10)
        assert (pending["consumer"], pending["times_delivered"]) == ("victim", 1)
        with acme.worker("heir", tmp_path / "heir-of-acme.log"):
            await acme.becomes("same", "completed")
    for tenant in both:
        task = await tenant.client.status("same")
        assert task is not None
        assert (task.status, task.worker_id, task.losses) == (TaskStatus.COMPLETED, "heir", 1)


async def test_sweeping_and_reconciling_leave_another_namespace_as_it_is(
    both: list[Tenant], redis_client: Redis
) -> None:
    acme, other = both
    seconds, _ = await redis_client.time()
    for tenant in both:
        await tenant.client.broker.ensure_group()  # as a worker does, before it sweeps
        await tenant.submit("echo", "kept", not_before=seconds + 3600)
        # Records that have expired, and a worker that is long gone.
        await redis_client.sadd(tenant.keys.index, "gone")  # type: ignore[misc]
        await redis_client.zadd(tenant.keys.by_time, {"gone": (seconds - 13 * 3600) * 1000})
        await redis_client.zadd(tenant.keys.fleet, {"old": 1})
    untouched = {name: await redis_client.dump(name) for name in await redis_client.keys("acme:*")}
    await Sweeper(Housekeeping(other.client.broker), "w1", lease=1).sweep(10)
    assert await redis_client.zrange(other.keys.by_time, 0, -1) == ["kept"]
    assert await redis_client.smembers(other.keys.index) == {"kept"}  # type: ignore[misc]
    assert await redis_client.zrange(other.keys.fleet, 0, -1) == []
    assert {name: await redis_client.dump(name) for name in await redis_client.keys("acme:*")} == untouched
    await Sweeper(Housekeeping(acme.client.broker), "w1", lease=1).sweep(10)
    assert await redis_client.zrange(acme.keys.by_time, 0, -1) == ["kept"]
    assert await redis_client.zrange(acme.keys.fleet, 0, -1) == []


async def test_temporal_keeps_tasks_of_one_id_apart(
    both: list[Tenant], temporal: TemporalServer, tmp_path: Path
) -> None:
    acme, other = both
    durable: dict[str, Any] = {"executor": "temporal", "heartbeat_ttl": 3, "drain_timeout": 1}
    async with acme.embedded(**durable) as first, other.embedded(**durable) as second:
        for tenant in both:
            await tenant.submit("hold", "nightly", metadata={"until": str(tmp_path / "until")})

        async def workflows() -> list[str]:
            found = [(await tenant.record("nightly")).get("workflow_id", "") for tenant in both]
            return found if all(found) else []

        assert len(set(await wait_until(workflows, PATIENCE))) == 2
        await acme.client.cancel("nightly")
        await acme.becomes("nightly", "cancelled")
        (tmp_path / "until").touch()
        await other.becomes("nightly", "completed")
        await wait_until(lambda: (first.tasks_processed, second.tasks_processed) == (0, 1))


async def test_a_client_takes_the_namespace_of_its_environment(
    both: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    acme, other = both
    monkeypatch.setenv("ORBITER_NAMESPACE", "acme")
    async with Client(acme.url, queue="mail") as client:
        await client.submit_payloads([TaskPayload(task_id="same", agent_config=agent("echo"))])
    assert [await tenant.status("same") for tenant in both] == ["pending", ""]
    # What is passed goes first.
    async with Client(other.url, queue="mail", namespace="orbiter") as client:
        assert await client.status("same") is None


def test_the_default_queue_is_the_namespace_s_tasks(redis_url: str) -> None:
    submit = ("task", "submit", "x", "--agent", "-", "--redis-url", redis_url, "--json")
    for name, queue in {"acme": "acme:tasks", "{acme}": "{acme}:tasks", "orbiter": "orbiter:tasks"}.items():
        found = orbiter(*submit, "--namespace", name, stdin=json.dumps(agent("echo")))
        assert json.loads(found.stdout)["queue"] == queue
    # Services and clients may share a file that names the default queue.
    found = orbiter(*submit, stdin=json.dumps(agent("echo")), ORBITER_NAMESPACE="acme", ORBITER_QUEUE="orbiter:tasks")
    assert json.loads(found.stdout)["queue"] == "acme:tasks"
