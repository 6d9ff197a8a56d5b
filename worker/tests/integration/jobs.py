"""Callables that the tests run as tasks, by ``tests.integration.jobs:NAME``."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from orbiter.distributed.errors import TransientError
from orbiter.distributed.models import ToolResultEvent


async def echo(context: Any) -> str:
    """Answer with the input."""
    return str(context.input)


async def say(context: Any) -> AsyncIterator[str]:
    """Stream the input's words."""
    for word in context.input.split():
        yield word + " "


def _note(context: Any) -> None:
    if path := context.metadata.get("log"):
        with Path(path).open("a") as log:
            log.write(f"{context.payload.task_id} {context.attempt}\n")


async def sleep(context: Any) -> str:
    """Note the run in a file, sleep, answer."""
    _note(context)
    await asyncio.sleep(context.metadata.get("seconds", 0.1))
    return "slept"


async def hold(context: Any) -> str:
    """Note the run in a file, wait until another one is there: the test says how long this takes."""
    _note(context)
    while not Path(context.metadata["until"]).exists():
        await asyncio.sleep(0.02)
    return "held"


def block(context: Any) -> str:
    """Sleep without yielding, as a synchronous tool does, but look whether it is to stop."""
    until = time.monotonic() + context.metadata.get("seconds", 0.1)
    while time.monotonic() < until and not context.cancelled:
        time.sleep(0.01)
    return "stopped" if context.cancelled else "blocked"


async def die(context: Any) -> str:
    """Kill the worker in the middle of the first attempt."""
    context.emit("first words")
    await asyncio.sleep(0.05)
    if context.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


async def murmur(context: Any) -> AsyncIterator[str]:
    """Say a word every twentieth of a second."""
    until = time.monotonic() + context.metadata["seconds"]
    while time.monotonic() < until:
        yield "word "
        await asyncio.sleep(0.05)


async def hog(context: Any) -> str:
    """Block the worker's event loop, as a tool that is written badly does."""
    time.sleep(context.metadata["seconds"])
    return "done"


async def noop(context: Any) -> str:
    """Do nothing."""
    return ""


async def memory(context: Any) -> dict[str, Any]:
    """Tell how much memory this worker has, bytes."""
    return {"output": "", "rss": psutil.Process().memory_info().rss}


async def fail(context: Any) -> str:
    """Fail so many times, then answer; ask for a pause before the next run, where one is wanted."""
    if context.attempt <= context.metadata.get("times", 10):
        said = f"attempt {context.attempt} failed"
        if pause := context.metadata.get("retry_after"):
            raise TransientError(said, retry_after=pause)
        raise RuntimeError(said)
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


# Of each group of runs in this process: how many there are, and how many there were at most.
_groups: dict[str, list[int]] = {}


async def together(context: Any) -> dict[str, Any]:
    """Sleep; longer, where not as many of its group have run here at once as are wanted. Tell how many have at most."""
    what = context.metadata
    group = _groups.setdefault(what["group"], [0, 0])
    group[0] += 1
    group[1] = max(group)
    began = time.monotonic()
    while (took := time.monotonic() - began) < what["seconds"] or (group[1] < what["wanted"] and took < 30):
        await asyncio.sleep(0.01)
    group[0] -= 1
    return {"output": "", "together": group[1]}


async def baggage(context: Any) -> dict[str, Any]:
    """Answer with the baggage that came with the task, and leave some behind."""
    from opentelemetry import baggage
    from opentelemetry import context as otel

    found = dict(baggage.get_all())
    otel.attach(baggage.set_baggage("left", "behind"))
    return {"output": "", "baggage": found}


async def submits(context: Any) -> str:
    """Submit another task to the Redis whose URL is the input."""
    from orbiter.distributed import distributed

    config = {"runtime": "callable", "target": "tests.integration.jobs:echo", "name": "submitted"}
    async with await distributed(config, "hello", redis_url=context.input) as handle:
        return handle.task_id


class MuteError(Exception):
    """An error that cannot tell what it is."""

    def __str__(self) -> str:
        raise ValueError("nothing to say")


async def mute(context: Any) -> str:
    """Fail with an error that cannot be written down."""
    raise MuteError


async def cancels_itself(context: Any) -> str:
    """Await something that somebody cancelled."""
    waiting = asyncio.ensure_future(asyncio.sleep(60))
    waiting.cancel()
    await waiting
    return ""


async def ten_events(context: Any) -> str:
    """Emit ten events, then take a while."""
    for number in range(10):
        context.emit(ToolResultEvent(tool_name="t", tool_call_id=str(number), result="x"))
    await asyncio.sleep(context.metadata["seconds"])
    return "said"


async def says_much(context: Any) -> str:
    """Emit a long text, a tool's long result, and a long text of characters that are long as JSON."""
    context.emit(context.input)
    context.emit(ToolResultEvent(tool_name="t", tool_call_id="1", result=context.input))
    context.emit("\U0001f600" * 3000)
    context.emit("end")
    return "said"


async def odd_event(context: Any) -> str:
    """Emit an event that is not JSON."""
    context.emit(ToolResultEvent(tool_name="t", tool_call_id="1", arguments={"when": object()}))
    return "said"


def _flood(context: Any) -> Iterator[None]:
    """Emit as many bytes as the task says, text and results of tools in turn."""
    chunk = "x" * 10_000
    for number in range(context.metadata["bytes"] // len(chunk)):
        event = ToolResultEvent(tool_name="t", tool_call_id=str(number), result=chunk)
        context.emit(event if number % 2 else chunk)
        yield


async def floods(context: Any) -> str:
    """Emit without end, once a file is there; say so by another one."""
    await hold(context)
    for _ in _flood(context):
        await asyncio.sleep(0)
    Path(context.metadata["done"]).touch()
    return "flooded"


def floods_in_thread(context: Any) -> str:
    """Do the same in a thread, which the event loop does not slow down."""
    while not Path(context.metadata["until"]).exists():
        time.sleep(0.02)
    for _ in _flood(context):
        pass
    Path(context.metadata["done"]).touch()
    return "flooded"


async def returns_much(context: Any) -> str:
    """Return a text of ``metadata["size"]`` characters."""
    return "x" * context.metadata["size"]


async def saves_much(context: Any) -> str:
    """Save a text of ``metadata["size"]`` characters and fail with a long error; the next run says what was saved."""
    if context.checkpoint:
        return f"{len(context.checkpoint)} saved before"
    context.save("x" * context.metadata["size"])
    raise RuntimeError("\U0001f600" * 10_000)


async def tells_its_key(context: Any) -> str:
    """Print a provider's key, and fail with a text that quotes it, as libraries do."""
    key = os.environ["OPENAI_API_KEY"]
    print(f"printed: {key}")
    raise RuntimeError(f"401: {key} is no key; at https://models/?key={quote(key, safe='')}")


async def talk(context: Any) -> AsyncIterator[str]:
    """Say something, wait until a file is there, say more."""
    yield "before "
    while not Path(context.metadata["until"]).exists():
        await asyncio.sleep(0.02)
    yield "after"
