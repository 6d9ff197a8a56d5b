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


settings = {"queue": queue, "functions": [nothing, moment], "concurrency": counted.SLOTS}


@asynccontextmanager
async def opened():
    """Have a queue."""
    await queue.connect()
    yield
    await queue.disconnect()


async def submit_many(number):
    """Submit many."""
    for at in range(0, number, AT_ONCE):
        await asyncio.gather(*(queue.enqueue("nothing", text="x") for _ in range(min(AT_ONCE, number - at))))


async def submit_moment():
    """Submit one."""
    await queue.enqueue("moment", text="x")
