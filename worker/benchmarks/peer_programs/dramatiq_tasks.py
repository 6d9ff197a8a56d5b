"""dramatiq: ``send`` of one message after another."""

from __future__ import annotations

from contextlib import nullcontext

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.peer_programs import counted

dramatiq.set_broker(RedisBroker(url=counted.URL))


@dramatiq.actor
def nothing(_):
    """Do nothing."""
    counted.count()


@dramatiq.actor
def moment(_):
    """Say when it has started."""
    counted.say_moment()


@dramatiq.actor
def nap(_):
    """Wait as for a model."""
    counted.nap_in_thread()


@dramatiq.actor
def hold(_):
    """Go on until the worker is killed."""
    counted.hold_in_thread()


TASKS = {"nothing": nothing, "moment": moment, "nap": nap, "hold": hold}
opened = nullcontext


async def submit_many(task, number):
    """Submit many."""
    for _ in range(number):
        TASKS[task].send("x")


async def submit(task):
    """Submit one."""
    TASKS[task].send("x")
