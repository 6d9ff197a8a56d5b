"""What tasks of a run do, by ``chaos.jobs:NAME``; each run notes its start and end in a file of its process."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from tests.integration.noted_jobs import noted, result_of

from orbiter.distributed.models import ToolCallEvent, ToolResultEvent

_KEPT: list[bytearray] = []


async def rest(context: Any) -> dict[str, Any]:
    """Sleep, answer."""
    with noted(context):
        await asyncio.sleep(context.metadata.get("seconds", 0))
        return result_of(context, "rested")


async def fail(context: Any) -> dict[str, Any]:
    """Fail in the first so many runs that come to their end, then answer."""
    with noted(context):
        await asyncio.sleep(context.metadata.get("seconds", 0))
        if context.attempt <= context.metadata["times"]:
            raise RuntimeError(f"attempt {context.attempt} failed")
        return result_of(context, "worked")


async def tool(context: Any) -> dict[str, Any]:
    """Call tools, one after another, and tell of each call."""
    with noted(context):
        for number in range(context.metadata["calls"]):
            context.emit(ToolCallEvent(tool_name="look", tool_call_id=str(number)))
            await asyncio.sleep(context.metadata["seconds"])
            context.emit(ToolResultEvent(tool_name="look", tool_call_id=str(number), result="seen"))
        return result_of(context, "called")


async def stream(context: Any) -> AsyncIterator[str]:
    """Yield so many words, each later than the one before; their text is the result."""
    with noted(context):
        for number in range(context.metadata["words"]):
            yield f"{context.attempt}.{number} "
            await asyncio.sleep(context.metadata["seconds"] / context.metadata["words"])


# -- what does harm ------------------------------------------------------------------------------------------------


async def segfault(context: Any) -> str:
    """Read where nothing is."""
    with noted(context):
        await asyncio.sleep(0.05)
        ctypes.string_at(0)
    return "not reached"


async def grow(context: Any) -> str:
    """Take 250 MB a second."""
    with noted(context):
        while True:
            _KEPT.append(bytearray(os.urandom(1) * 25_000_000))
            await asyncio.sleep(0.1)


async def block(context: Any) -> str:
    """Block the event loop for longer than anybody waits."""
    with noted(context):
        time.sleep(60)
    return "not reached"


async def fork(context: Any) -> dict[str, Any]:
    """Fork; the child leaves by the interpreter's exit, which would run what belongs to its parent."""
    with noted(context):
        child = os.fork()
        if child == 0:
            os.abort() if context.attempt % 2 else os._exit(3)
        _, code = await asyncio.to_thread(os.waitpid, child, 0)
        return result_of(context, str(code))
