"""How fast tasks are put on the queue: by the broker and by a client, many a round trip and one at a time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from benchmarks import floor
from benchmarks.machine import payload, pin
from benchmarks.report import Measure
from orbiter.distributed import Client, TaskBroker, distributed

if TYPE_CHECKING:
    from benchmarks.machine import Machine

BATCH = 500
ONE_IN = 10
# Of a client's tasks, one after another; the floor and ours take turns after so many.
SINGLES, TURN = 1000, 100
AGENT = {"runtime": "callable", "target": "benchmarks.targets:nothing"}


def measure(machine: Machine, tasks: int) -> list[Measure]:
    """Put the same payloads on a stream by bare XADD and by the broker. This process is the measured one here."""
    pin(0, machine.measured_core)
    try:
        machine.client.flushall()
        raw = asyncio.run(_raw(machine.url, tasks))
        machine.client.flushall()
        ours = asyncio.run(_ours(machine.url, tasks))
        machine.client.flushall()
        single, at_once, shared, xadd = asyncio.run(_client_singles(machine.url, min(SINGLES, tasks)))
        machine.client.flushall()
        many = asyncio.run(_client_many(machine.url, tasks))
    finally:
        pin(0, machine.server_core)
    return [
        Measure("client: submit", "tasks/s", single, xadd, "≥ 0.85"),
        Measure("client: submit, all at once", "tasks/s", at_once, xadd),
        Measure("client: distributed() / submit", "tasks/s", shared, single, "≥ 0.7"),
        Measure("client: submit_many", "tasks/s", many, raw[0], "≥ 0.8"),
        Measure("submit: many a round trip", "tasks/s", ours[0], raw[0]),
        Measure("submit: one at a time", "tasks/s", ours[1], raw[1]),
    ]


async def _raw(url: str, tasks: int) -> tuple[float, float]:
    client = floor.fastest(url)
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


async def _client_singles(url: str, tasks: int) -> tuple[float, float, float, float]:
    """Return rates: ``Client.submit`` one after another and all at once, ``distributed()``, and a bare XADD."""
    bare = floor.fastest(url)
    texts = [payload("nothing", f"task-{number}").to_json() for number in range(tasks)]
    seconds = [0.0, 0.0, 0.0]
    async with Client(url) as client:
        # Connected, and every script is known.
        await bare.ping()
        await client.submit(AGENT, "x")
        await distributed(AGENT, "x", redis_url=url)
        for at in range(0, tasks, TURN):
            marks = [time.monotonic()]
            for text in texts[at : at + TURN]:
                await bare.xadd(floor.QUEUE, {"payload": text})
            marks.append(time.monotonic())
            for _ in texts[at : at + TURN]:
                await client.submit(AGENT, "x")
            marks.append(time.monotonic())
            for _ in texts[at : at + TURN]:
                await distributed(AGENT, "x", redis_url=url)
            marks.append(time.monotonic())
            seconds = [so_far + end - begin for so_far, begin, end in zip(seconds, marks, marks[1:], strict=False)]
        began = time.monotonic()
        await asyncio.gather(*(client.submit(AGENT, "x") for _ in texts))
        at_once = time.monotonic() - began
    await bare.aclose()
    xadd, single, shared = seconds
    return tasks / single, tasks / at_once, tasks / shared, tasks / xadd


async def _client_many(url: str, tasks: int) -> float:
    async with Client(url) as client:
        await client.submit(AGENT, "x")
        began = time.monotonic()
        await client.submit_many(AGENT, ("x" for _ in range(tasks)))
        return tasks / (time.monotonic() - began)
