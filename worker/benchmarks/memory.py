"""What Redis keeps, by its own count: of a task that waits, of one that has ended, of an event, of a worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from benchmarks.drain import SLOTS
from benchmarks.machine import WORKER_ID, payload
from benchmarks.report import Measure
from orbiter.distributed import Client, TaskBroker
from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.models import DEFAULT_QUEUE

if TYPE_CHECKING:
    from benchmarks.machine import Machine

EVENTS = 1_000


def measure(machine: Machine, tasks: int) -> list[Measure]:
    """Look at Redis before tasks, with the tasks on the queue, and after them; then at a stream and a heartbeat."""
    keys = Keys()
    machine.client.flushall()
    empty = _used(machine)
    asyncio.run(_submit(machine.url, tasks))
    queued = _used(machine) - empty
    with machine.worker("--concurrency", str(SLOTS), "--isolation", "none") as worker:
        machine.wait(worker, "queue is drained", lambda: machine.client.xlen(DEFAULT_QUEUE) == 0)
        task_id = asyncio.run(_say(machine.url))
        beat = machine.client.memory_usage(keys.worker(WORKER_ID), samples=0) or 0
    stream = machine.client.memory_usage(keys.event_stream(task_id), samples=0) or 0
    said = machine.client.xlen(keys.event_stream(task_id))
    ended = _used(machine) - empty - stream
    return [
        Measure("memory: a task on the queue", "B", queued / tasks),
        Measure("memory: a task that has ended", "B", ended / tasks, wanted="≤ 1 200"),
        Measure("memory: an event", "B", stream / said),
        Measure("memory: a worker's heartbeat", "B", beat),
    ]


def _used(machine: Machine) -> int:
    return int(machine.client.info("memory")["used_memory_dataset"])


async def _submit(url: str, tasks: int) -> None:
    broker = TaskBroker(url)
    await broker.connect()
    await broker.submit_many([payload("nothing", f"task-{number}") for number in range(tasks)])
    await broker.disconnect()


async def _say(url: str) -> str:
    """Run a task that emits as many events, a window apart each; return its id."""
    config = {"runtime": "callable", "target": "benchmarks.targets:steps"}
    async with Client(url) as client:
        handle = await client.submit(config, "x", metadata={"count": EVENTS})
        await handle.result()
        return handle.task_id
