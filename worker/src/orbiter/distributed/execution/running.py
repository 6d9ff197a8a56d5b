"""RunTable: runs of one process, in slots or given by Temporal, and how they are waited for and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import time
from math import inf
from typing import TYPE_CHECKING

from orbiter.distributed.execution.endings import StopReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from orbiter.distributed.execution.slot import Slot

SETTLE_GRACE = 2.0


class RunTable:
    """Holds runs from their beginning until their ends are recorded.

    Attributes:
        held: What runs, by entry id.
        completed: How many completed.
        failed: How many failed, for good or to be run again.
        empty: Set while nothing runs.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.held: dict[str, Slot] = {}
        self.completed = 0
        self.failed = 0
        self.empty = asyncio.Event()
        self.empty.set()
        self._clock = clock

    def add(self, slot: Slot) -> None:
        """Hold a run."""
        self.held[slot.claim.entry_id] = slot
        self.empty.clear()

    def remove(self, slot: Slot) -> bool:
        """Let go of a run; return whether it was held."""
        if self.held.get(slot.claim.entry_id) is not slot:
            return False
        del self.held[slot.claim.entry_id]
        if not self.held:
            self.empty.set()
        return True

    def stop(self, reason: StopReason, task_id: str | None = None) -> bool:
        """Stop the run of one task, or all runs; return whether there was one."""
        found = [slot for slot in self.held.values() if task_id in {None, slot.claim.task.task_id}]
        for slot in found:
            slot.stop(reason)
        return bool(found)

    async def drain(self, deadline: float, hurry: asyncio.Event) -> int:
        """Wait for the runs until ``deadline`` or ``hurry``, then stop those that are left, to be requeued.

        Returns:
            How many were stopped. Those that are still held then did not end in time.
        """
        if not self.held:
            return 0
        ends = [asyncio.ensure_future(event.wait()) for event in (self.empty, hurry)]
        timeout = None if deadline == inf else max(0.0, deadline - self._clock())
        await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        left = len(self.held)
        if left:
            self.stop(StopReason.REQUEUED)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_GRACE):
                    await self.empty.wait()
        return left
