"""huey: a call of one task after another."""

from __future__ import annotations

from contextlib import nullcontext

from huey import RedisHuey

from benchmarks.peer_programs import counted

huey = RedisHuey("bench", url=counted.URL)


@huey.task()
def nothing(_):
    """Do nothing."""
    counted.count()


@huey.task()
def moment(_):
    """Say when it has started."""
    counted.say_moment()


async def submit_many(number):
    """Submit many."""
    for _ in range(number):
        nothing("x")


async def submit_moment():
    """Submit one."""
    moment("x")


opened = nullcontext
