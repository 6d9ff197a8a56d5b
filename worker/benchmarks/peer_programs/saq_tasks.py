"""saq: ``enqueue`` of a hundred jobs at once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from saq import Queue

from benchmarks.peer_programs import counted

AT_ONCE = 100
queue = Queue.from_url(counted.URL)


async def nothing(_, **__):
    """Do nothing."""
    counted.count()


async def moment(_, **__):
    """Say when it has started."""
    counted.say_moment()


async def nap(_, **__):
    """Wait as for a model."""
    await counted.nap()


async def hold(_, **__):
    """Go on until the worker is killed."""
    await counted.hold()


settings = {"queue": queue, "functions": [nothing, moment, nap, hold], "concurrency": counted.SLOTS}


@asynccontextmanager
async def opened():
    """Have a queue."""
    await queue.connect()
    yield
    await queue.disconnect()


async def submit_many(task, number):
    """Submit many."""
    for at in range(0, number, AT_ONCE):
        await asyncio.gather(*(queue.enqueue(task, text="x") for _ in range(min(AT_ONCE, number - at))))


async def submit(task):
    """Submit one."""
    await queue.enqueue(task, text="x")
