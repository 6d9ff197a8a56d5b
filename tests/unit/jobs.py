"""What the workers of the modules' tests run."""

from __future__ import annotations

import asyncio
from pathlib import Path
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


def write_settings(context: Any) -> str:
    """Write the input where the command looks for its settings."""
    for path in (Path("orbiter.toml"), Path.home() / ".config/orbiter/orbiter.toml"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(context.input)
    return "written"
