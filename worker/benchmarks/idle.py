"""How long a task waits for an idle worker: from before the submission to the first line of the task."""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from benchmarks import floor
from benchmarks.machine import BenchmarkError, payload
from benchmarks.report import Measure
from orbiter.distributed import TaskBroker, TaskStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benchmarks.machine import Machine

ANSWER_WITHIN = 10.0


def measure(machine: Machine, tasks: int, *, isolation: str = "none") -> list[Measure]:
    """Send one task at a time, in turn to blocking readers of bare redis-py and to an idle worker.

    In turn, as how long a machine takes to wake up changes from minute to minute by more than is to be seen here.
    """
    machine.client.flushall()
    for queue in (floor.QUEUE, floor.PLAIN_QUEUE):
        machine.client.xgroup_create(queue, floor.GROUP, id="0", mkstream=True)
    with (
        machine.floor_process("idle", tasks, floor.QUEUE) as reader,
        machine.floor_process("idle", tasks, floor.PLAIN_QUEUE, plain=True) as plain_reader,
        machine.worker("--concurrency", "16", "--isolation", isolation) as worker,
    ):
        machine.wait_ready(worker)
        machine.wait(worker, "all wait", lambda: machine.client.info("clients")["blocked_clients"] == 3)
        raw, plain, ours = asyncio.run(_in_turn(machine.url, tasks))
        for process in (reader, plain_reader):
            machine.answer(process)
    if isolation != "none":
        return [
            Measure("isolation: idle, submit to start, p50", "ms", _percentile(ours, 50), _percentile(raw, 50), "≤ 2.2")
        ]
    return [
        Measure("idle: submit to start, p50", "ms", _percentile(ours, 50), _percentile(raw, 50), "≤ 1.3"),
        Measure("idle: …, beside redis-py alone", "ms", _percentile(ours, 50), _percentile(plain, 50), "≤ 1.3"),
        Measure("idle: submit to start, p99", "ms", _percentile(ours, 99), _percentile(raw, 99)),
    ]


async def _in_turn(url: str, tasks: int) -> tuple[list[float], ...]:
    """Return the ways to both readers and to the worker, milliseconds. The first tenth warms up and does not count."""
    client = floor.fastest(url)
    broker, store = TaskBroker(url), TaskStore(url)
    await broker.connect()
    await store.connect()
    text = payload("moment", "task").to_json()

    async def submit_raw(queue: str) -> str:
        return str(await client.xadd(queue, {"payload": text}))

    async def received(queue: str, entry_id: str) -> str | None:
        answer: Any = await client.hget(floor.received(queue), entry_id)
        return None if answer is None else str(answer)

    async def started(task_id: str) -> str | None:
        task = await store.get_status(task_id)
        if task is None or not task.status.terminal:
            return None
        if task.result is None:
            raise BenchmarkError(f"a task ended {task.status}: {task.error}")
        return str(task.result["output"])

    ways: tuple[list[float], ...] = [], [], []
    try:
        for number in range(tasks):
            for queue, way in zip((floor.QUEUE, floor.PLAIN_QUEUE), ways, strict=False):
                way.append(await _way(partial(submit_raw, queue), partial(received, queue)))
            # As the text above it is ready when the clock starts.
            task = payload("moment", f"task-{number}")
            ways[-1].append(await _way(partial(broker.submit, task), started))
    finally:
        await store.disconnect()
        await broker.disconnect()
        await client.aclose()
    return tuple(way[tasks // 10 :] for way in ways)


async def _way(submit: Callable[[], Awaitable[str]], started: Callable[[str], Awaitable[str | None]]) -> float:
    """Submit one, and return the milliseconds until it started."""
    # Long enough for the other side to wait again, and in step with no timer of its own.
    await asyncio.sleep(random.uniform(0.005, 0.01))  # noqa: S311
    asked = time.monotonic()
    name = await submit()
    async with asyncio.timeout(ANSWER_WITHIN):
        await asyncio.sleep(0.005)
        while (moment := await started(name)) is None:  # noqa: ASYNC110 - both sides are asked in the same way
            await asyncio.sleep(0.002)
    return (float(moment) - asked) * 1000


def _percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1]
