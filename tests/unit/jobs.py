"""What the workers of the modules' tests run."""

from __future__ import annotations

import asyncio
from typing import Any


async def echo(context: Any) -> str:
    """Say what was asked."""
    return f"you said {context.input} {context.metadata}"


async def fail(context: Any) -> str:
    """Fail."""
    raise RuntimeError("this was not to be")


async def sleep(context: Any) -> str:
    """Take as long as the metadata say."""
    await asyncio.sleep(context.metadata["seconds"])
    return "slept"
