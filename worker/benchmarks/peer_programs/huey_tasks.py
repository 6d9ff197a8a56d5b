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


@huey.task()
def nap(_):
    """Wait as for a model."""
    counted.nap_in_thread()


@huey.task()
def hold(_):
    """Go on until the worker is killed."""
    counted.hold_in_thread()


TASKS = {"nothing": nothing, "moment": moment, "nap": nap, "hold": hold}
opened = nullcontext


async def submit_many(task, number):
    """Submit many."""
    for _ in range(number):
        TASKS[task]("x")


async def submit(task):
    """Submit one."""
    TASKS[task]("x")
