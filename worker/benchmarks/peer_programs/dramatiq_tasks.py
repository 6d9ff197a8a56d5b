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


async def submit_many(number):
    """Submit many."""
    for _ in range(number):
        nothing.send("x")


async def submit_moment():
    """Submit one."""
    moment.send("x")


opened = nullcontext
