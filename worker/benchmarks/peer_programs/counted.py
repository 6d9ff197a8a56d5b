"""What the tasks of every peer do, and how each of them is asked.

``python -m benchmarks.peer_programs MODULE submit|idle NUMBER`` answers.
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
    from contextlib import AbstractAsyncContextManager

URL = os.environ["BENCH_URL"]
SLOTS = 16
MARKS, MOMENTS = "bench:marks", "bench:moments"

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


def run(
    opened: Callable[[], AbstractAsyncContextManager[object]],
    submit_many: Callable[[int], Awaitable[object]],
    submit_moment: Callable[[], Awaitable[object]],
) -> None:
    """Do as the command line says; the answer is JSON on stdout: seconds, or the ways of single tasks in milliseconds.

    Args:
        opened: What a process that submits has open.
        submit_many: Submits so many tasks that do nothing, in the fastest way that the manual shows.
        submit_moment: Submits one that says when it has started.
    """

    async def answer() -> object:
        command, number = sys.argv[2], int(sys.argv[3])
        async with opened():
            if command == "submit":
                began = time.monotonic()
                await submit_many(number)
                return time.monotonic() - began
            return [await _way(submit_moment) for _ in range(number)]

    sys.stdout.write(json.dumps(asyncio.run(answer())))


async def _way(submit: Callable[[], Awaitable[object]]) -> float:
    # Long enough for the other side to wait again, and in step with no timer of its own.
    await asyncio.sleep(random.uniform(0.01, 0.02))  # noqa: S311
    asked = time.monotonic()
    await submit()
    found = await asyncio.to_thread(_redis.blpop, [MOMENTS], timeout=60)
    return (float(found[1]) - asked) * 1000
