"""A callable that runs as a task: no agent, any code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any


async def sleepy(context: Any) -> AsyncIterator[str]:
    """Sleep as long as the task's metadata say (``seconds``, 1 by default), saying so."""
    seconds = float(context.metadata.get("seconds", context.options.get("seconds", 1)))
    yield f"sleeping {seconds:g} s"
    await asyncio.sleep(seconds)
    yield ", slept"
