"""Random commands of somebody with the client's password, beside honest tasks: these end, and no worker does.

The run is drawn from its seed, which is printed. To repeat one, or for a long one:
  FUZZ_SEED=7 FUZZ_COMMANDS=20000 FUZZ_TASKS=2000 pytest tests/integration/test_poison_fuzz.py -s
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from redis.exceptions import RedisError, ResponseError

from orbiter.distributed.broker.loading import load_client_scripts
from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.connection.redis_url import connect
from tests import keys
from tests.fleet import Fleet, job_payload
from tests.integration.test_poison import LAST_ID, malformed, ready
from tests.rights import WITH_CARELESS_CLIENT
from tests.servers import Server, plain_server
from tests.support import free_port, wait_until, worker_process

SEED = int(os.environ.get("FUZZ_SEED", "20261"))
COMMANDS = int(os.environ.get("FUZZ_COMMANDS", "1500"))
TASKS = int(os.environ.get("FUZZ_TASKS", "150"))

QUEUE = "orbiter:tasks"
# Where entries and payloads of everybody's tasks are: what is lost there is lost for these tasks.
SHARED = [QUEUE, keys.tagged(QUEUE, "delayed"), keys.tagged(QUEUE, "parked")]
BESIDE = [
    keys.tagged(QUEUE, name)
    for name in ("dead", "missing", "reconcile", "sweep", "reconciling", "moving", "broken", "id", "new:x", "minutes")
]
LISTS = [keys.INDEX, keys.BY_TIME]
FIELDS = ["status", "attempt", "retries", "crashes", "losses", "handoffs", "fence", "queue", "executor", "alone"]
FIELDS += ["cancel_requested_at", "held_until", "completed_at", "next_attempt_at", "entry", "submitting", "score", "a"]
VALUES = [
    "abc",
    "",
    "-1",
    "1e999",
    "9" * 30,
    "running",
    "pending",
    "completed",
    "temporal",
    QUEUE,
    "\x00\n",
    "{",
    "1-1",
]
IDS = ["*", "1-1", LAST_ID, "18446744073709551614-0", "9999999999999-*"]


class Attack:
    """Draws commands, and runs them with the rights of a client.

    Args:
        draw: Where they are drawn from.
        client: The connection.
        looking: One that may read everything.
    """

    def __init__(self, draw: random.Random, client: redis.Redis, looking: redis.Redis) -> None:
        self._draw = draw
        self._client = client
        self._looking = looking
        self.refused = 0

    def command(self) -> tuple[tuple[str | int, ...], bool]:
        """Draw a command; tell whether it may cost tasks of others what is stored of them."""
        draw, choice = self._draw, self._draw.choice
        evil = f"evil{draw.randrange(40)}"
        own = [keys.task(evil), keys.stream(evil)]
        key = choice(own * 4 + BESIDE * 2 + LISTS + SHARED)
        field, value = choice(FIELDS), choice(VALUES)
        payload = job_payload(choice(["noop", "fail", "say"]), "a b", task_id=evil).to_json()
        rare = draw.random() < 0.01
        kinds: list[tuple[str | int, ...]] = [
            ("HSET", key, field, value),
            ("HSETNX", key, field, value),
            ("SADD", key, value or "x"),
            ("ZADD", key, choice(["-inf", "inf", "-5", "1", 2**60]), choice([evil, "index", value or "x"])),
            ("XADD", key, choice(IDS), "payload", choice([payload, value])),
            ("XADD", key, "*", "event", value, "at", value),
            ("XGROUP", "CREATE", key, choice(["g", keys.group(QUEUE)]), choice(["$", "0", LAST_ID])),
            ("HDEL", choice(own), field),
            ("XADD", QUEUE, "*", "payload", payload),
            ("XADD", QUEUE, "*", *next(iter(malformed(draw.randrange(1000)).items()))),
            ("PUBLISH", keys.cancel(evil), "cancel"),
            ("HGETALL", key),
        ]
        gone: list[tuple[str | int, ...]] = [("EXPIRE", key, 0), ("PEXPIRE", key, 1)]
        if key not in SHARED:
            return choice(kinds + gone * 2), False
        if rare:
            return choice([*gone, ("XADD", QUEUE, "MAXLEN", 0, "*", "payload", "x")]), True
        # A group that is made anew may begin behind what waits, and a key that is gone be made of another type.
        drawn = choice(kinds)
        return drawn, drawn[0] not in {"HGETALL", "PUBLISH"} and not self._looking.exists(key)

    def run(self, command: tuple[str | int, ...]) -> None:
        try:
            self._client.execute_command(*command)
        except ResponseError:
            self.refused += 1


class Honest:
    """Tasks of somebody else."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.ids: list[str] = []
        self._open: set[str] = set()
        self.touched: set[str] = set()
        self.refusal = ""

    async def submit(self, draw: random.Random) -> None:
        """Submit one, as soon as Redis takes it."""
        job, fields = draw.choice([("noop", {}), ("say", {}), ("sleep", {}), ("fail", {"metadata": {"times": 1}})])
        task = job_payload(job, "some words", **fields)

        async def accepted() -> bool:
            try:
                await self._fleet.broker.submit(task)
            except RedisError as error:
                self.refusal = repr(error)
                # Some of it may have been written: that was between two of somebody's commands.
                self.touched.add(task.task_id)
                return False
            return True

        try:
            await wait_until(accepted, 60)
        except AssertionError as error:
            raise AssertionError(f"FUZZ_SEED={SEED}: {self.refusal}") from error
        self.ids.append(task.task_id)
        self._open.add(task.task_id)

    async def touch(self) -> None:
        """Take note that the next command may cost those their entries or payloads that have not ended."""
        ids = list(self._open)
        async with self._fleet.client.pipeline(transaction=False) as pipeline:
            for task_id in ids:
                pipeline.hget(keys.task(task_id), "status")
            statuses = await pipeline.execute()
        ended = {task_id for task_id, status in zip(ids, statuses, strict=True) if status in {"completed", "failed"}}
        self._open -= ended
        self.touched |= self._open


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with plain_server(tmp_path, *WITH_CARELESS_CLIENT, refuses=True) as server:
        yield server


def url(server: Server, user: str) -> str:
    return f"redis://{user}:{user.upper()}-PASSWORD@127.0.0.1:{server.port}/0"


@pytest.mark.parametrize("user", ["client", "careless"])
async def test_random_commands_of_a_client_stop_no_worker_and_no_task(
    server: Server, tmp_path: Path, user: str
) -> None:
    print(f"FUZZ_SEED={SEED} FUZZ_COMMANDS={COMMANDS} FUZZ_TASKS={TASKS}")
    draw = random.Random(SEED)
    options = ["--heartbeat-ttl", "2", "--retry-backoff", "0.01", "--concurrency", "8", "--isolation", "none"]
    names, ports = ["w1", "w2"], [free_port(), free_port()]
    client = connect(url(server, "admin"))
    await load_client_scripts(client)
    fleet = Fleet(url(server, "client"), client)
    fleet.broker = TaskBroker(fleet.url)
    await fleet.broker.connect()
    with ExitStack() as stack:
        evil, looking = (stack.enter_context(redis.Redis.from_url(url(server, who))) for who in (user, "admin"))
        processes = [
            stack.enter_context(
                worker_process(
                    url(server, "worker"), name, tmp_path / f"{name}.log", *options, "--health-port", str(port)
                )
            )
            for name, port in zip(names, ports, strict=True)
        ]
        attack, honest = Attack(draw, evil, looking), Honest(fleet)
        each, began = max(1, COMMANDS // TASKS), time.monotonic()
        for number in range(COMMANDS):
            if number % each == 0 and len(honest.ids) < TASKS:
                await honest.submit(draw)
            command, costly = attack.command()
            if costly:
                await honest.touch()
            attack.run(command)
            await asyncio.sleep(0)
        took = time.monotonic() - began
        ended = {task.task_id: task for task in await fleet.all_end(honest.ids, 180)}
        logs = {name: (tmp_path / f"{name}.log").read_text() for name in names}
        print(f"{took:.0f} s, {attack.refused} refused, {len(honest.touched)} tasks may have been touched")
        wrong = [ended[task_id] for task_id in honest.ids if task_id not in honest.touched]
        wrong = [task for task in wrong if task.status != "completed"]
        assert not wrong, (SEED, wrong)
        odd = [task for task in ended.values() if task.status == "failed" and task.error_type != "EntryLostError"]
        assert not odd, (SEED, odd)
        assert [process.poll() for process in processes] == [None, None], (SEED, logs)
        # Both are ready, and work: each of them completes a task.
        for port in ports:
            await wait_until(_ready(port), 60)
        for name in names:
            await wait_until(lambda name=name: _completes_one(fleet, name), 60)  # type: ignore[misc]
        for name, log in logs.items():
            assert "Traceback" not in log, (SEED, name, log[log.index("Traceback") - 500 :][:3000])
    await fleet.broker.disconnect()
    await client.aclose()


def _ready(port: int) -> Callable[[], bool]:
    return lambda: ready(port)[0] == 200


async def _completes_one(fleet: Fleet, name: str) -> bool:
    task = await fleet.ends(await fleet.submit("sleep"), 30)
    return task.status == "completed" and await fleet.client.hget(keys.task(task.task_id), "worker_id") == name
