"""What the tasks of every peer do, and how each of them is asked.

``python -m benchmarks.peer_programs MODULE submit|nap|idle|hold NUMBER`` answers.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import time
from typing import TYPE_CHECKING

import redis

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import ModuleType

URL = os.environ["BENCH_URL"]
SLOTS = 16
NAP = 0.1
# Nobody waits for its end.
HOLD = 600.0
MARKS, MOMENTS = "bench:marks", "bench:moments"
# The task of each command that submits many.
MANY = {"submit": "nothing", "nap": "nap"}

_numbers = itertools.count(1)
_marked = {int(os.environ.get("BENCH_WARM", "0")), int(os.environ.get("BENCH_TOTAL", "0"))}
_redis = redis.Redis.from_url(URL, decode_responses=True)


def count() -> None:
    """Count a task that does nothing; say when the last one of the warm-up, and the last one, was there."""
    if next(_numbers) in _marked:
        _redis.rpush(MARKS, repr(time.monotonic()))


def say_moment() -> None:
    """Say when a task has started."""
    _redis.rpush(MOMENTS, repr(time.monotonic()))


async def nap() -> None:
    """Wait as for a model, and count."""
    await asyncio.sleep(NAP)
    count()


async def hold() -> None:
    """Say when it has started, and go on until its worker is killed."""
    say_moment()
    await asyncio.sleep(HOLD)


def nap_in_thread() -> None:
    """Do as :func:`nap` where tasks are no coroutines."""
    time.sleep(NAP)
    count()


def hold_in_thread() -> None:
    """Do as :func:`hold` where tasks are no coroutines."""
    say_moment()
    time.sleep(HOLD)


def run(peer: ModuleType) -> None:
    """Do as the command line says; the answer is JSON on stdout.

    ``submit`` and ``nap`` submit so many tasks, in the fastest way that the manual shows: seconds. ``idle`` submits
    one at a time: the milliseconds that each took to start. ``hold`` submits one that does not end, and answers 0 when
    it has started.

    Args:
        peer: Has ``opened`` (what a process that submits has open), ``submit_many(task, number)``, ``submit(task)``.
    """

    async def answer() -> object:
        command, number = sys.argv[2], int(sys.argv[3])
        async with peer.opened():
            if command in MANY:
                began = time.monotonic()
                await peer.submit_many(MANY[command], number)
                return time.monotonic() - began
            if command == "idle":
                return [await _way(peer.submit) for _ in range(number)]
            await peer.submit("hold")
            await _started()
            return 0

    sys.stdout.write(json.dumps(asyncio.run(answer())))


async def _started() -> float:
    found = await asyncio.to_thread(_redis.blpop, [MOMENTS], timeout=60)
    return float(found[1])


async def _way(submit: Callable[[str], Awaitable[object]]) -> float:
    # Long enough for the other side to wait again, and in step with no timer of its own.
    await asyncio.sleep(random.uniform(0.01, 0.02))  # noqa: S311
    asked = time.monotonic()
    await submit("moment")
    return (await _started() - asked) * 1000
