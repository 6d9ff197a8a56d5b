"""How long a token takes from the code that says it to a client that reads along, and how many get through."""

from __future__ import annotations

import asyncio
import time
from statistics import quantiles
from typing import TYPE_CHECKING

from benchmarks.machine import BenchmarkError
from benchmarks.report import Measure
from orbiter.distributed import Client

if TYPE_CHECKING:
    from benchmarks.machine import Machine

RATE, STREAMS = 50, 16
TOKENS = {"runtime": "callable", "target": "benchmarks.targets:tokens"}
FLOOD = {"runtime": "callable", "target": "benchmarks.targets:flood"}


def measure(machine: Machine, tokens: int, deltas: int) -> list[Measure]:
    """Read along with one stream, with 16 at once, and with one that says what it can."""
    machine.client.flushall()
    with machine.worker("--concurrency", str(STREAMS)) as worker:
        machine.wait_ready(worker)
        alone, many, rate = asyncio.run(_all(machine.url, tokens, deltas))
    return [
        Measure("events: token to reader, p50", "ms", alone[49], wanted="≤ 3 ms"),
        Measure("events: token to reader, p99", "ms", alone[98]),
        Measure(f"events: …, {STREAMS} streams at once, p50", "ms", many[49], wanted="≤ 10 ms"),
        Measure(f"events: …, {STREAMS} streams at once, p99", "ms", many[98]),
        Measure("events: deltas of one stream", "1/s", rate, wanted="≥ 100 000"),
    ]


async def _all(url: str, tokens: int, deltas: int) -> tuple[list[float], list[float], float]:
    async with Client(url) as client:
        # Every part has run once.
        await _ways(client, 2)
        alone = await _ways(client, tokens)
        many = [way for ways in await asyncio.gather(*(_ways(client, tokens) for _ in range(STREAMS))) for way in ways]
        return _percentiles(alone), _percentiles(many), await _flood(client, deltas)


async def _ways(client: Client, tokens: int) -> list[float]:
    """Return the milliseconds that each token of a new stream took."""
    handle = await client.submit(TOKENS, "x", metadata={"rate": RATE, "count": tokens})
    ways: list[float] = []
    async for event in handle.stream():
        if event.type == "text":
            moment = time.monotonic()
            ways += [(moment - float(said)) * 1000 for said in event.text.split()]
    if len(ways) != tokens:
        raise BenchmarkError(f"{len(ways)} of {tokens} tokens arrived")
    return ways


async def _flood(client: Client, deltas: int) -> float:
    """Return how many deltas a second a reader is given of a task that waits for nothing."""
    handle = await client.submit(FLOOD, "x", metadata={"count": deltas})
    began, length = 0.0, 0
    async for event in handle.stream():
        if event.type == "text":
            began = began or float(event.text.split()[0])
            length += len(event.text)
    took = time.monotonic() - began
    await handle.result()
    return deltas / took


def _percentiles(values: list[float]) -> list[float]:
    return quantiles(values, n=100, method="inclusive")
