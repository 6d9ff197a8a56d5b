"""How long a task waits for an idle worker: from before the submission to the first line of the task."""

from __future__ import annotations

import asyncio
import random
import time
from statistics import quantiles
from typing import TYPE_CHECKING, Any

import redis.asyncio

from benchmarks import floor
from benchmarks.machine import BenchmarkError, payload
from benchmarks.report import Measure
from orbiter.distributed import TaskBroker, TaskStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benchmarks.machine import Machine

ANSWER_WITHIN = 10.0


def measure(machine: Machine, tasks: int) -> list[Measure]:
    """Send one task at a time to a blocking reader of bare redis-py, then to an idle worker."""
    machine.client.flushall()
    machine.client.xgroup_create(floor.QUEUE, floor.GROUP, id="0", mkstream=True)
    with machine.floor_process("idle", tasks) as process:
        raw = asyncio.run(_raw(machine.url, tasks))
        machine.answer(process)
    machine.client.flushall()
    with machine.worker("--concurrency", "16") as process:
        machine.wait_ready(process)
        ours = asyncio.run(_ours(machine.url, tasks))
    return [
        Measure("idle: submit to start, p50", "ms", _percentile(ours, 50), _percentile(raw, 50), "≤ 1.3"),
        Measure("idle: submit to start, p99", "ms", _percentile(ours, 99), _percentile(raw, 99)),
    ]


async def _raw(url: str, tasks: int) -> list[float]:
    client = redis.asyncio.Redis.from_url(url, decode_responses=True)
    text = payload("moment", "task").to_json()

    async def submit() -> str:
        return str(await client.xadd(floor.QUEUE, {"payload": text}))

    async def received(entry_id: str) -> str | None:
        answer: Any = await client.hget(floor.RECEIVED, entry_id)
        return None if answer is None else str(answer)

    try:
        return await _one_at_a_time(tasks, submit, received)
    finally:
        await client.aclose()


async def _ours(url: str, tasks: int) -> list[float]:
    broker, store = TaskBroker(url), TaskStore(url)
    await broker.connect()
    await store.connect()

    async def submit() -> str:
        return await broker.submit(payload("moment", f"task-{time.monotonic_ns()}"))

    async def started(task_id: str) -> str | None:
        task = await store.get_status(task_id)
        if task is None or not task.status.terminal:
            return None
        if task.result is None:
            raise BenchmarkError(f"a task ended {task.status}: {task.error}")
        return str(task.result["output"])

    try:
        return await _one_at_a_time(tasks, submit, started)
    finally:
        await store.disconnect()
        await broker.disconnect()


async def _one_at_a_time(
    tasks: int, submit: Callable[[], Awaitable[str]], started: Callable[[str], Awaitable[str | None]]
) -> list[float]:
    """Return each task's way in milliseconds. The first tenth warms up and does not count."""
    waits = []
    for _ in range(tasks):
        # Long enough for the other side to wait again, and in step with no timer of its own.
        await asyncio.sleep(random.uniform(0.005, 0.01))  # noqa: S311
        asked = time.monotonic()
        name = await submit()
        async with asyncio.timeout(ANSWER_WITHIN):
            await asyncio.sleep(0.005)
            while (moment := await started(name)) is None:  # noqa: ASYNC110 - both sides are asked in the same way
                await asyncio.sleep(0.002)
        waits.append((float(moment) - asked) * 1000)
    return waits[tasks // 10 :]


def _percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1]
