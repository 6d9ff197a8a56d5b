"""streaq: ``enqueue_many`` of a thousand tasks."""

from __future__ import annotations

from streaq import Worker

from benchmarks.peer_programs import counted

AT_ONCE = 1000
worker = Worker(redis_url=counted.URL, concurrency=counted.SLOTS)


@worker.task
async def nothing(_: str) -> None:
    """Do nothing."""
    counted.count()


@worker.task
async def moment(_: str) -> None:
    """Say when it has started."""
    counted.say_moment()


async def submit_many(number):
    """Submit many."""
    for at in range(0, number, AT_ONCE):
        await worker.enqueue_many([nothing.enqueue("x") for _ in range(min(AT_ONCE, number - at))])


async def submit_moment():
    """Submit one."""
    await moment.enqueue("x")


def opened():
    """Have a worker, as streaq submits by one."""
    return worker
