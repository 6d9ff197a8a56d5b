"""What the measured worker runs. Every clock here is one that another process of this machine can compare with."""

from __future__ import annotations

import asyncio
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orbiter.distributed.models import StepEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PAGE = resource.getpagesize()


async def nothing(_: Any) -> str:
    """Do nothing: all that is measured is the way to here and back."""
    return ""


async def moment(_: Any) -> str:
    """Answer with the moment of the start, on the machine's monotonic clock."""
    return repr(time.monotonic())


async def gauge(_: Any) -> dict[str, Any]:
    """Answer with what the process has used up to now: seconds of CPU, bytes of memory."""
    return {"output": "", "cpu": time.process_time(), "rss": resident()}


async def loop_kind(_: Any) -> str:
    """Answer with the event loop's library, so that the floors run on the same kind."""
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def resident(pid: int | str = "self") -> int:
    """Return a process's resident memory, bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


async def tokens(context: Any) -> AsyncIterator[str]:
    """Stream the moments at which they leave, so many a second; on the machine's monotonic clock."""
    began, rate = time.monotonic(), context.metadata["rate"]
    for number in range(context.metadata["count"]):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        yield f"{time.monotonic()!r} "


async def flood(context: Any) -> AsyncIterator[str]:
    """Say when it begins, and then so many deltas, as fast as they are taken."""
    yield f"{time.monotonic()!r} "
    for _ in range(context.metadata["count"] - 1):
        yield "token "


async def steps(context: Any) -> str:
    """Emit so many events that do not merge."""
    for number in range(context.metadata["count"]):
        context.emit(StepEvent(step_number=number + 1, agent_name="bench", status="started", started_at=0.0))
    return ""
