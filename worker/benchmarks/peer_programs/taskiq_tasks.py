"""taskiq: ``kiq`` of a hundred tasks at once, by a stream, which is the broker of its that loses none."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.peer_programs import counted

AT_ONCE = 100
broker = RedisStreamBroker(counted.URL).with_result_backend(RedisAsyncResultBackend(counted.URL))


@broker.task
async def nothing(_: str) -> None:
    """Do nothing."""
    counted.count()


@broker.task
async def moment(_: str) -> None:
    """Say when it has started."""
    counted.say_moment()


@broker.task
async def nap(_: str) -> None:
    """Wait as for a model."""
    await counted.nap()


@broker.task
async def hold(_: str) -> None:
    """Go on until the worker is killed."""
    await counted.hold()


TASKS = {"nothing": nothing, "moment": moment, "nap": nap, "hold": hold}


@asynccontextmanager
async def opened():
    """Have a broker."""
    await broker.startup()
    yield
    await broker.shutdown()


async def submit_many(task, number):
    """Submit many."""
    for at in range(0, number, AT_ONCE):
        await asyncio.gather(*(TASKS[task].kiq("x") for _ in range(min(AT_ONCE, number - at))))


async def submit(task):
    """Submit one."""
    await TASKS[task].kiq("x")
