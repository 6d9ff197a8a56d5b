"""Ours: ``Client.submit_many`` and ``Client.submit``."""

from __future__ import annotations

from contextlib import asynccontextmanager

from benchmarks.peer_programs import counted
from orbiter.distributed import Client

client = Client(counted.URL)


async def nothing(_):
    """Do nothing."""
    counted.count()


async def moment(_):
    """Say when it has started."""
    counted.say_moment()


async def nap(_):
    """Wait as for a model."""
    await counted.nap()


async def hold(_):
    """Go on until the worker is killed."""
    await counted.hold()


def agent(name):
    """Return what runs one of these."""
    return {"runtime": "callable", "target": f"benchmarks.peer_programs.ours:{name}"}


@asynccontextmanager
async def opened():
    """Have a client."""
    async with client:
        await client.redis.ping()
        yield


async def submit_many(task, number):
    """Submit many."""
    await client.submit_many(agent(task), ("x" for _ in range(number)))


async def submit(task):
    """Submit one."""
    await client.submit(agent(task), "x")
