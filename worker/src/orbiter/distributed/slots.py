"""Slots: the tasks that run here, from the moment they are started to the moment their end is recorded."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Protocol

from orbiter.distributed import faults
from orbiter.distributed.deadlines import Deadlines
from orbiter.distributed.slot import Slot
from orbiter.distributed.tracing import traced

if TYPE_CHECKING:
    from collections.abc import Callable

    from orbiter.distributed.claims import Claim
    from orbiter.distributed.events import EventLog, EventPublisher
    from orbiter.distributed.models import InvalidPayloadError, TaskPayload
    from orbiter.distributed.runtimes import CancellationToken
    from orbiter.distributed.settling import Settler
    from orbiter.distributed.task_meter import TaskMeter

logger = logging.getLogger(__name__)

SETTLE_GRACE = 2.0


class Executor(Protocol):
    """Runs tasks."""

    async def execute(self, claim: Claim, log: EventLog, token: CancellationToken) -> dict[str, Any]:
        """Run one task to its end and return its result."""

    def time_limit(self, task: TaskPayload) -> float | None:
        """Return the seconds after which a run is stopped from here, or ``None`` where that is not done here."""


class Slots:
    """Runs claims, at most so many at the same time.

    Args:
        number: How many.
        lease: Lifetime of a lease, seconds.
        executor: Runs them.
        publisher: Takes their events.
        settler: Records their ends.
        meter: Counts their starts and ends.
        changed: Called whenever one has begun or ended.
        lost: Called with the entry of a run that was given up.
    """

    def __init__(
        self,
        number: int,
        *,
        lease: float,
        executor: Executor,
        publisher: EventPublisher,
        settler: Settler,
        meter: TaskMeter,
        changed: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        self.held: dict[str, Slot] = {}
        self.processed = 0
        self.failed = 0
        self._number = number
        self._lease = lease
        self._executor = executor
        self._publisher = publisher
        self._settler = settler
        self._meter = meter
        self._changed = changed
        self._lost = lost
        self._deadlines = Deadlines()
        self._unnoted: list[tuple[Slot, float | None]] = []
        self._empty = asyncio.Event()

    @property
    def room(self) -> int:
        """How many tasks can begin now."""
        return self._number - len(self.held)

    def begin(self, claim: Claim, problem: InvalidPayloadError | None, leased: float) -> None:
        """Run a claim whose lease began at ``leased`` (monotonic), or fail it for what is wrong with its payload."""
        faults.reach("after start")
        task = claim.task
        slot = Slot(claim, self._publisher.log(task.task_id, claim.attempt), leased + self._lease)
        self.held[claim.entry_id] = slot
        self._empty.clear()
        if problem is None:
            work = traced(self._executor.execute, claim, slot.log, slot.token, by=self._meter)
            limit = self._executor.time_limit(task)
        else:
            work, limit = _refuse(problem), None
        logger.info("started", extra={"task_id": task.task_id, "attempt": claim.attempt})
        slot.begin(work, deadlines=self._deadlines, on_over=self._over)
        self._unnoted.append((slot, limit))
        if len(self._unnoted) == 1:
            # Behind the first step of the run, which waits for nothing of this.
            asyncio.get_running_loop().call_soon(self._note)

    def _note(self) -> None:
        begun, self._unnoted = self._unnoted, []
        for slot, limit in begun:
            if limit is not None:
                self._deadlines.add(slot, limit)
        self._meter.started([slot for slot, _ in begun])
        self._changed()

    def cancel(self, task_id: str) -> None:
        """Stop the run of a task, if it is here."""
        for slot in list(self.held.values()):
            if slot.claim.task.task_id == task_id:
                slot.stop("cancelled")

    def _over(self, slot: Slot) -> None:
        try:
            self._settler.settle(slot, self._settled)
        except Exception:
            # A fault of ours must not keep the slot: this task runs again when its lease has run out.
            logger.exception("not recorded", extra={"task_id": slot.claim.task.task_id})
            self._settled(slot, "lost")

    def _settled(self, slot: Slot, recorded: str) -> None:
        if self.held.get(slot.claim.entry_id) is not slot:
            return
        del self.held[slot.claim.entry_id]
        self._meter.ended(slot, recorded)
        if not self.held:
            self._empty.set()
        if recorded == "lost":
            self._lost(slot.claim.entry_id)
        elif recorded == "completed":
            self.processed += 1
        elif recorded in {"failed", "retrying"}:
            self.failed += 1
        if logger.isEnabledFor(logging.INFO):
            extra = {"task_id": slot.claim.task.task_id, "attempt": slot.claim.attempt}
            logger.info("%s after %.1f s", recorded, time.monotonic() - slot.started, extra=extra)
        self._changed()

    async def drain(self, deadline: float, hurry: asyncio.Event) -> int:
        """Wait for the runs until ``deadline`` (monotonic) or ``hurry``; hand back the others and say how many."""
        if not self.held:
            return 0
        ends = [asyncio.ensure_future(event.wait()) for event in (self._empty, hurry)]
        await asyncio.wait(ends, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        left = list(self.held.values())
        if left:
            logger.info("drain deadline: handing back %d tasks", len(left))
            for slot in left:
                slot.stop("handed back")
            try:
                async with asyncio.timeout(SETTLE_GRACE):
                    await self._empty.wait()
            except TimeoutError:
                # Redis is away: the leases run out, and others take these tasks over.
                self._settler.give_up()
        return len(left)


async def _refuse(error: Exception) -> dict[str, Any]:
    raise error
