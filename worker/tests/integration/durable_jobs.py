"""Tools and callables for the tests of durable execution: each notes every start of it in a file."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic_ai import RunContext as ToolContext

from orbiter.distributed.runtimes import RunContext


def _note(context: RunContext, what: str) -> int:
    """Note a start; return which one it is."""
    path = Path(context.metadata["log"])
    with path.open("a") as log:
        log.write(f"{what}\n")
    return path.read_text().splitlines().count(what)


async def quick(ctx: ToolContext[RunContext], a: int) -> dict[str, int]:
    """Double a number.

    Args:
        a: The number.
    """
    _note(ctx.deps, "quick")
    return {"doubled": 2 * a}


async def slow(ctx: ToolContext[RunContext], a: int) -> int:
    """Take long the first time.

    Args:
        a: A number.
    """
    if _note(ctx.deps, "slow") == 1:
        await asyncio.sleep(60)
    return a


async def broken(ctx: ToolContext[RunContext], a: int) -> int:
    """Fail.

    Args:
        a: A number.
    """
    _note(ctx.deps, "broken")
    raise ValueError(f"{a} will not do")


async def held(ctx: ToolContext[RunContext]) -> str:
    """Wait until a file is there."""
    _note(ctx.deps, "held")
    while not Path(ctx.deps.metadata["until"]).exists():
        await asyncio.sleep(0.05)
    return "held"


async def count(context: RunContext) -> str:
    """Count to five, saving each step; take long at the fourth, the first time."""
    begin = context.checkpoint or 0
    for number in range(begin + 1, 6):
        context.emit(f"{number} ")
        if number == 4 and _note(context, "fourth") == 1:
            await asyncio.sleep(60)
        context.save(number)
        await asyncio.sleep(0.4)
    _note(context, f"began after {begin}")
    return f"counted from {begin}"


async def wait(context: RunContext) -> str:
    """Take a while."""
    _note(context, "wait")
    await asyncio.sleep(context.metadata["seconds"])
    return "waited"


def stubborn(context: RunContext) -> str:
    """Take a while in a thread."""
    import time

    _note(context, "stubborn")
    time.sleep(context.metadata["seconds"])
    return "done"
