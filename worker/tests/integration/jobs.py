"""Callables that the tests run as tasks, by ``tests.integration.jobs:NAME``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any


async def echo(context: Any) -> str:
    """Answer with the input."""
    return str(context.input)


async def say(context: Any) -> AsyncIterator[str]:
    """Stream the input's words."""
    for word in context.input.split():
        yield word + " "


async def sleep(context: Any) -> str:
    """Note the run in a file, sleep, answer."""
    if path := context.metadata.get("log"):
        with Path(path).open("a") as log:
            log.write(f"{context.payload.task_id} {context.attempt}\n")
    await asyncio.sleep(context.metadata.get("seconds", 0.1))
    return "slept"


def block(context: Any) -> str:
    """Sleep without yielding, as a synchronous tool does, but look whether it is to stop."""
    until = time.monotonic() + context.metadata.get("seconds", 0.1)
    while time.monotonic() < until and not context.cancelled:
        time.sleep(0.01)
    return "stopped" if context.cancelled else "blocked"


async def fail(context: Any) -> str:
    """Fail so many times, then answer."""
    if context.attempt <= context.metadata.get("times", 10):
        raise RuntimeError(f"attempt {context.attempt} failed")
    return f"attempt {context.attempt} worked"


def add(a: int, b: int) -> int:
    """Add two numbers: a tool.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


async def said_then_waits(context: Any) -> AsyncIterator[str]:
    """Stream the input, then take a while."""
    yield context.input
    await asyncio.sleep(context.metadata["seconds"])
