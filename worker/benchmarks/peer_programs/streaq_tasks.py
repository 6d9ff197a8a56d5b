"""streaq: ``enqueue_many`` of a thousand tasks."""

from __future__ import annotations

import logging

from streaq import Worker

from benchmarks.peer_programs import counted

AT_ONCE = 1000
# Two lines a task would be measured with it; its command has no option for fewer, as the others' have.
logging.disable(logging.INFO)
worker = Worker(redis_url=counted.URL, concurrency=counted.SLOTS)


@worker.task
async def nothing(_: str) -> None:
    """Do nothing."""
    counted.count()


@worker.task
async def moment(_: str) -> None:
    """Say when it has started."""
    counted.say_moment()


@worker.task
async def nap(_: str) -> None:
    """Wait as for a model."""
    await counted.nap()


@worker.task
async def hold(_: str) -> None:
    """Go on until the worker is killed."""
    await counted.hold()


TASKS = {"nothing": nothing, "moment": moment, "nap": nap, "hold": hold}


async def submit_many(task, number):
    """Submit many."""
    for at in range(0, number, AT_ONCE):
        await worker.enqueue_many([TASKS[task].enqueue("x") for _ in range(min(AT_ONCE, number - at))])


async def submit(task):
    """Submit one."""
    await TASKS[task].enqueue("x")


def opened():
    """Have a worker, as streaq submits by one."""
    return worker
