"""Slots: run claims, from the moment they are started to the moment their end is recorded."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from orbiter.distributed import failpoints
from orbiter.distributed.broker.records import Recorded
from orbiter.distributed.connection.deadlines import Deadlines
from orbiter.distributed.errors import TaskLimitError, describe, kind_of
from orbiter.distributed.execution.endings import Died, Failed, StopReason
from orbiter.distributed.execution.slot import Slot
from orbiter.distributed.runtimes.task_limits import TaskLimits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orbiter.distributed.broker.events import EventPublisher
    from orbiter.distributed.broker.records import Claim
    from orbiter.distributed.execution.interface import Executor
    from orbiter.distributed.execution.metering import TaskMeter
    from orbiter.distributed.models import InvalidPayloadError
    from orbiter.distributed.worker.flow import ClaimFlow
    from orbiter.distributed.worker.settler import Settler

logger = logging.getLogger(__name__)


class Slots:
    """Runs claims.

    Args:
        flow: Holds what runs; told of every beginning and end.
        executor: Runs the tasks.
        publisher: Takes their events.
        settler: Records their ends.
        meter: Counts their starts and ends.
        lease: Lifetime of a lease, seconds.
        limits: How much a task may ask for.
        note_waiting: Records that a claim has to wait before it runs alone, or no longer does; tells whether it could.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        flow: ClaimFlow,
        *,
        executor: Executor,
        publisher: EventPublisher,
        settler: Settler,
        meter: TaskMeter,
        lease: float,
        limits: TaskLimits | None = None,
        note_waiting: Callable[[Claim, bool], Awaitable[bool]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits or TaskLimits()
        self._note_waiting = note_waiting
        self._flow = flow
        self._executor = executor
        self._publisher = publisher
        self._settler = settler
        self._meter = meter
        self._lease = lease
        self._clock = clock
        self._deadlines = Deadlines(clock)
        self._uncounted: list[tuple[Slot, float | None]] = []

    def begin(self, claim: Claim, problem: InvalidPayloadError | TaskLimitError | None, leased: float) -> None:
        """Run a claim whose lease began at ``leased`` (monotonic), or fail it for what is wrong with its payload."""
        failpoints.reach("after start")
        task = claim.task
        try:
            fitted = self._limits.fitted(task)
        except TaskLimitError as error:
            problem = problem or error
        else:
            if fitted is not task:
                # Its own payload says something else.
                task = fitted
                claim = replace(claim, task=task, payload="")
        log = self._publisher.log(task.task_id, claim.attempt)
        slot = Slot(claim, log, leased + self._lease, started=self._clock())
        if claim.alone == "worker" and self._note_waiting is not None:
            slot.note_waiting = partial(self._note_waiting, claim)
        self._flow.runs.add(slot)
        if problem is None:
            work = self._executor.execute(slot)
            limit = self._executor.time_limit(claim)
        else:
            work, limit = _fail(problem), None
        logger.info("started", extra={"task_id": task.task_id, "attempt": claim.attempt})
        slot.begin(work, deadlines=self._deadlines, on_over=self._over, abandon_after=self._executor.abandon_after)
        self._uncounted.append((slot, limit))
        if len(self._uncounted) == 1:
            # Behind the first step of the run, which waits for nothing of this.
            asyncio.get_running_loop().call_soon(self._count)

    def _count(self) -> None:
        begun, self._uncounted = self._uncounted, []
        for slot, limit in begun:
            if limit is not None:
                self._deadlines.add(slot, limit)
        self._meter.started([slot for slot, _ in begun])
        self._flow.changed()

    def cancel(self, task_id: str) -> None:
        """Stop the run of a task, wherever in this process it is."""
        self._flow.runs.stop(StopReason.CANCELLED, task_id)
        self._executor.cancel(task_id)

    def _over(self, slot: Slot) -> None:
        try:
            self._settler.settle(slot, self._settled)
        except Exception:
            # A fault of ours must not keep the slot: this task runs again when its lease has run out.
            logger.exception("outcome not recorded", extra={"task_id": slot.claim.task.task_id})
            self._settled(slot, Recorded.LOST)

    def _settled(self, slot: Slot, recorded: Recorded) -> None:
        runs = self._flow.runs
        if not runs.remove(slot):
            return
        self._meter.ended(slot, recorded)
        if recorded is Recorded.LOST:
            self._flow.give_up(slot.claim)
        elif recorded is Recorded.COMPLETED:
            runs.completed += 1
        elif recorded in {Recorded.FAILED, Recorded.RETRYING}:
            runs.failed += 1
        if logger.isEnabledFor(logging.INFO):
            extra = {"task_id": slot.claim.task.task_id, "attempt": slot.claim.attempt, **_reason(slot)}
            logger.info("%s after %.1f s", recorded, self._clock() - slot.started, extra=extra)
        self._flow.changed()

    async def drain(self, deadline: float, hurry: asyncio.Event) -> int:
        """Wait for the runs until ``deadline`` (monotonic) or ``hurry``; requeue the others and say how many."""
        left = await self._flow.runs.drain(deadline, hurry)
        if self._flow.runs.held:
            # Redis is away: the leases run out, and other workers reclaim these tasks.
            self._settler.abandon()
        return left


async def _fail(error: Exception) -> Failed:
    return Failed(error)


def _reason(slot: Slot) -> dict[str, str]:
    """Return fields that say why a run has no result."""
    match slot.ending():
        case Failed(error):
            return {"error_type": kind_of(error), "error": describe(error)}
        case Died(reason, error_type):
            return {"error_type": error_type, "error": reason}
        case _:
            return {}
