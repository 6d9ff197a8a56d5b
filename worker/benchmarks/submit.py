"""How fast a client puts tasks on the queue: many a round trip, and one at a time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import redis.asyncio

from benchmarks import floor
from benchmarks.machine import payload, pin
from benchmarks.report import Measure
from orbiter.distributed import TaskBroker

if TYPE_CHECKING:
    from benchmarks.machine import Machine

BATCH = 500
ONE_IN = 10


def measure(machine: Machine, tasks: int) -> list[Measure]:
    """Put the same payloads on a stream by bare XADD and by the broker. This process is the measured one here."""
    pin(0, machine.measured_core)
    try:
        machine.client.flushall()
        raw = asyncio.run(_raw(machine.url, tasks))
        machine.client.flushall()
        ours = asyncio.run(_ours(machine.url, tasks))
    finally:
        pin(0, machine.server_core)
    return [
        Measure("submit: many a round trip", "tasks/s", ours[0], raw[0]),
        Measure("submit: one at a time", "tasks/s", ours[1], raw[1]),
    ]


async def _raw(url: str, tasks: int) -> tuple[float, float]:
    client = redis.asyncio.Redis.from_url(url, decode_responses=True)
    texts = [payload("nothing", f"task-{number}").to_json() for number in range(tasks)]
    began = time.monotonic()
    for at in range(0, tasks, BATCH):
        async with client.pipeline(transaction=False) as pipeline:
            for text in texts[at : at + BATCH]:
                pipeline.xadd(floor.QUEUE, {"payload": text})
            await pipeline.execute()
    many = tasks / (time.monotonic() - began)
    singles = texts[: tasks // ONE_IN]
    began = time.monotonic()
    for text in singles:
        await client.xadd(floor.QUEUE, {"payload": text})
    one = len(singles) / (time.monotonic() - began)
    await client.aclose()
    return many, one


async def _ours(url: str, tasks: int) -> tuple[float, float]:
    broker = TaskBroker(url)
    await broker.connect()
    payloads = [payload("nothing", f"task-{number}") for number in range(tasks)]
    began = time.monotonic()
    await broker.submit_many(payloads)
    many = tasks / (time.monotonic() - began)
    singles = [payload("nothing", f"single-{number}") for number in range(tasks // ONE_IN)]
    began = time.monotonic()
    for task in singles:
        await broker.submit(task)
    one = len(singles) / (time.monotonic() - began)
    await broker.disconnect()
    return many, one
