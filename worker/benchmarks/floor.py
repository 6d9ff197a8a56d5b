"""The raw floors: the least that redis-py can do for the same work. Each runs as a process of its own.

``python -m benchmarks.floor NAME REDIS_URL plain|asyncio|uvloop ARGUMENT...``; the answer is JSON on stdout. ``plain``
is redis-py by itself, as ``pip install redis`` brings it; the others have the fastest that redis-py can be given: its
replies are read with hiredis, as a worker does, and no reply has a timer of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any

if __name__ == "__main__" and sys.argv[3:4] == ["plain"]:
    sys.modules["hiredis"] = None  # type: ignore[assignment] # to who imports it, it is not installed

import redis.asyncio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

BATCH = 64
QUEUE, GROUP, CONSUMER = "floor:queue", "floor:group", "floor"
PLAIN_QUEUE = "floor:plain"


async def drain(client: redis.asyncio.Redis, total: str, warm: str) -> dict[str, float]:
    """Take all entries: XREADGROUP COUNT 64, then one pipeline of HSET, XACK and XDEL a task."""
    left, counted = int(total), int(total) - int(warm)
    began = cpu = 0.0
    while left > 0:
        if not began and left <= counted:
            counted, began, cpu = left, time.monotonic(), time.process_time()
        reply: Any = await client.xreadgroup(GROUP, CONSUMER, {QUEUE: ">"}, count=BATCH)
        [(_, entries)] = reply
        async with client.pipeline(transaction=False) as pipeline:
            for entry_id, _ in entries:
                pipeline.hset(f"floor:task:{entry_id}", mapping={"status": "completed"})
                pipeline.xack(QUEUE, GROUP, entry_id)
                pipeline.xdel(QUEUE, entry_id)
            await pipeline.execute()
        left -= len(entries)
    return {"seconds": (time.monotonic() - began) / counted, "cpu": (time.process_time() - cpu) / counted}


def received(queue: str) -> str:
    """Return the hash that says when each entry of a queue arrived."""
    return f"{queue}:received"


async def idle(client: redis.asyncio.Redis, total: str, queue: str) -> dict[str, float]:
    """Wait for one entry at a time in a blocking XREADGROUP, and note when it arrived."""
    for _ in range(int(total)):
        reply: Any = await client.xreadgroup(GROUP, CONSUMER, {queue: ">"}, count=1, block=10_000)
        moment = time.monotonic()
        [(_, [(entry_id, _)])] = reply
        async with client.pipeline(transaction=False) as pipeline:
            pipeline.hset(received(queue), entry_id, repr(moment))
            pipeline.xack(queue, GROUP, entry_id)
            pipeline.xdel(queue, entry_id)
            await pipeline.execute()
    return {}


FLOORS: dict[str, Callable[..., Coroutine[Any, Any, dict[str, float]]]] = {"drain": drain, "idle": idle}


def fastest(url: str) -> redis.asyncio.Redis:
    """Return a client with the fastest settings that redis-py has: with its own, each reply costs a timer."""
    return redis.asyncio.Redis.from_url(url, decode_responses=True, socket_timeout=None)


async def _with_client(name: str, url: str, loop: str, arguments: list[str]) -> dict[str, float]:
    client = redis.asyncio.Redis.from_url(url, decode_responses=True) if loop == "plain" else fastest(url)
    try:
        return await FLOORS[name](client, *arguments)
    finally:
        await client.aclose()


def _run(loop: str, work: Coroutine[Any, Any, dict[str, float]]) -> dict[str, float]:
    if loop == "uvloop":
        import uvloop  # noqa: PLC0415 - only where the worker uses it

        return uvloop.run(work)
    return asyncio.run(work)


if __name__ == "__main__":
    floor_name, redis_url, loop_kind, *rest = sys.argv[1:]
    sys.stdout.write(json.dumps(_run(loop_kind, _with_client(floor_name, redis_url, loop_kind, rest))))
