"""Settler: turns the end of a run into what Redis records, many outcomes a round trip."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, assert_never

from redis.exceptions import RedisError

from orbiter.distributed import failpoints
from orbiter.distributed.broker.records import Outcome, Recorded
from orbiter.distributed.errors import describe, kind_of
from orbiter.distributed.execution.endings import (
    Cancelled,
    Completed,
    Delegated,
    Died,
    Failed,
    Lost,
    Requeued,
    StopReason,
)
from orbiter.distributed.execution.retry import delay_before_retry, worth_another_run
from orbiter.distributed.models import ErrorEvent
from orbiter.distributed.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import TypeAlias

    from redis.asyncio import Redis

    from orbiter.distributed.broker.events import EventPublisher
    from orbiter.distributed.broker.records import Claim, Delivery
    from orbiter.distributed.execution.slot import Slot
    from orbiter.distributed.settings import WorkerSettings
    from orbiter.distributed.worker.flow import ClaimFlow

    Done: TypeAlias = Callable[[Slot, Recorded], None]
    _End: TypeAlias = Completed | Failed | Cancelled
    _Row: TypeAlias = tuple[Slot, _End, Done]

logger = logging.getLogger(__name__)

LARGEST_BATCH = 128
AGAIN_AFTER = 0.2
# By the broker's word: a look-up costs a fifth of what Recorded(word) does.
_RECORDED = {recorded.value: recorded for recorded in Recorded}


@dataclass(slots=True)
class _Answer:
    """What came back for a batch: what stands for each of its rows, and claims, where these were asked for."""

    rows: list[_Row]
    recorded: list[str]
    begun: list[Delivery] | None
    asked: float


class OutcomeStore(Protocol):
    """Records outcomes: the broker."""

    async def settle_and_claim(
        self, consumer: str, outcomes: Sequence[Outcome], count: int, *, client: Redis | None = None
    ) -> tuple[list[str], list[Delivery]]:
        """Record outcomes, then claim up to ``count`` tasks; return what stands for each, and the claims."""

    async def retry(self, consumer: str, claim: Claim, *, delay: float, error: str, error_type: str) -> str:
        """Let the task run again in ``delay`` seconds; return what stands."""

    async def requeue(self, consumer: str, claim: Claim) -> str:
        """Give a started task back, uncharged; return what stands."""

    async def lose(self, consumer: str, claim: Claim, *, reason: str, error_type: str, guilty: bool, host: bool) -> str:
        """Let a task whose process died run again, or fail it; return what stands."""

    async def delegate(self, consumer: str, claim: Claim, workflow_id: str) -> str:
        """Let go of a task that somebody else runs from now on; return what stands."""


class Settler:
    """Records how runs ended.

    Args:
        store: The broker.
        publisher: Whose events must arrive before the outcome.
        flow: Says how many claims may come with outcomes, and takes them.
        settings: Budgets, delays and limits.
        reader: The fetcher's connection, which is idle while claims come with outcomes.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: OutcomeStore,
        publisher: EventPublisher,
        flow: ClaimFlow,
        settings: WorkerSettings,
        *,
        reader: Redis | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._flow = flow
        self._settings = settings
        self._worker_id = settings.worker_id
        self._queue = settings.queue
        self._clock = clock
        # Half of the slots: their outcomes are recorded while the other half runs.
        self._batch = min(LARGEST_BATCH, -(-settings.concurrency // 2))
        self._waiting: list[_Row] = []
        self._sent: deque[asyncio.Task[_Answer | None]] = deque()
        self._reader = reader
        self._reader_taken = False
        self._rows_waiting = asyncio.Event()
        self._apart: set[asyncio.Task[None]] = set()

    def settle(self, slot: Slot, done: Done) -> None:
        """Record the end of a run, trying for as long as its lease lives.

        Args:
            slot: The run, which is over.
            done: Called with what stands then.
        """
        ending, claim, me = slot.ending(), slot.claim, self._worker_id
        match ending:
            case Completed():
                self._record_in_batch(slot, ending, done)
            case Lost():
                done(slot, Recorded.LOST)
            case Delegated(workflow_id):
                slot.log.close()
                self._record_apart(slot, lambda: self._store.delegate(me, claim, workflow_id), done)
            case Requeued():
                slot.log.close()
                self._record_apart(slot, lambda: self._store.requeue(me, claim), done)
            case Died(reason, error_type, guilty, host):
                slot.log.close()
                verdict = {"guilty": guilty, "host": host}
                self._record_apart(
                    slot,
                    lambda: self._store.lose(me, claim, reason=reason, error_type=error_type, **verdict),
                    done,
                )
            case Failed(error) if worth_another_run(
                error, claim.retries, claim.task.max_retries, self._settings.max_retries
            ):
                text, kind = describe(error), kind_of(error)
                slot.log.close(ErrorEvent(error=text, error_type=kind, recoverable=True))
                delay = delay_before_retry(error, claim.retries, self._settings.retry_backoff)
                self._record_apart(
                    slot, lambda: self._store.retry(me, claim, delay=delay, error=text, error_type=kind), done
                )
            case Failed() | Cancelled():
                self._record_in_batch(slot, ending, done)
            case _:
                assert_never(ending)

    def abandon(self) -> None:
        """Record no retries, requeues, lost runs and delegations any more: other workers reclaim these tasks."""
        for task in self._apart:
            task.cancel()

    # -- what is recorded by itself: all but ends -------------------------------------------------------------------

    def _record_apart(self, slot: Slot, record: Callable[[], Awaitable[str]], done: Done) -> None:
        async def insist() -> None:
            recorded = Recorded.LOST
            try:
                recorded = await self._insist(slot, record)
            finally:
                done(slot, recorded)

        task = asyncio.create_task(insist())
        self._apart.add(task)
        task.add_done_callback(self._apart.discard)

    async def _insist(self, slot: Slot, record: Callable[[], Awaitable[str]]) -> Recorded:
        while self._lease_holds(slot):
            try:
                # An outcome is recorded behind all events of its run, or not at all: where the lease runs out
                # meanwhile, events are dropped.
                await self._publisher.flush()
                if not self._lease_holds(slot):
                    break
                failpoints.reach("before settle")
                recorded = _RECORDED[await record()]
            except (RedisError, OSError) as error:
                metrics.DISRUPTIONS.add(1, self._queue)
                logger.warning("outcome waits for Redis: %s", error, extra={"task_id": slot.claim.task.task_id})
                await self._flow.troubles.failed("settle", error)
                await asyncio.sleep(AGAIN_AFTER)
            else:
                self._flow.troubles.worked("settle")
                failpoints.reach("after settle")
                return recorded
        slot.log.close(discard=True)
        return Recorded.LOST

    # -- what is recorded in batches: ends -------------------------------------------------------------------------

    def _record_in_batch(self, slot: Slot, ending: _End, done: Done) -> None:
        slot.log.close()
        self._waiting.append((slot, ending, done))
        if len(self._sent) == 1 and len(self._waiting) >= self._batch:
            # Right behind the one before: the server has work while we take that one in.
            self._send()
        self._rows_waiting.set()

    async def run(self) -> None:
        """Record ends, until cancelled: while the server works on a batch, what came with the last is taken in."""
        try:
            while True:
                while not self._sent:
                    self._rows_waiting.clear()
                    self._send()
                    if not self._sent:
                        await self._rows_waiting.wait()
                answer = await self._sent[0]
                self._sent.popleft()
                if not self._sent:
                    self._send()
                    if self._sent:
                        await asyncio.sleep(0)  # for it to leave
                if answer is not None:
                    self._take_in(answer)
        finally:
            while self._sent:
                self._sent.pop().cancel()

    def _send(self) -> None:
        batch, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
        if batch:
            self._sent.append(asyncio.create_task(self._record(batch)))

    async def _record(self, batch: list[_Row]) -> _Answer | None:
        while batch := [row for row in batch if self._keep_or_report_lost(row)]:
            reserved = 0
            try:
                await self._publisher.flush()
                # Rows whose lease ended during the flush are not recorded.
                kept = [row for row in batch if self._keep_or_report_lost(row)]
                outcomes = [(row, self._outcome_or_report_lost(row)) for row in kept]
                ready = [(row, outcome) for row, outcome in outcomes if outcome is not None]
                batch = [row for row, _ in ready]
                if not batch:
                    return None
                reserved = self._flow.reserve(len(ready))
                asked = self._clock()
                failpoints.reach("before settle")
                recorded, begun = await self._settle_and_claim([outcome for _, outcome in ready], reserved)
            except (RedisError, OSError) as error:
                metrics.DISRUPTIONS.add(1, self._queue)
                logger.warning("%d outcomes wait for Redis: %s", len(batch), describe(error))
                await self._flow.troubles.failed("settle", error)
            except Exception:
                # What cannot even be sent must not keep the outcomes beside it: its task runs again later.
                logger.exception("%d outcomes cannot be recorded together", len(batch))
                if reserved:
                    self._flow.mark_unknown()
                await self._record_each(batch)
                return None
            else:
                self._flow.troubles.worked("settle")
                failpoints.reach("after settle")
                return _Answer(batch, recorded, begun if reserved else None, asked)
            if reserved:
                self._flow.mark_unknown()
            await asyncio.sleep(AGAIN_AFTER)
        return None

    async def _record_each(self, batch: list[_Row]) -> None:
        if len(batch) == 1:
            [(slot, _, done)] = batch
            done(slot, Recorded.LOST)
            return
        for row in batch:
            if (answer := await self._record([row])) is not None:
                self._take_in(answer)

    async def _settle_and_claim(self, outcomes: list[Outcome], count: int) -> tuple[list[str], list[Delivery]]:
        reader = None
        if count and len(self._sent) > 1 and not self._reader_taken:
            reader, self._reader_taken = self._reader, True
        try:
            return await self._store.settle_and_claim(self._worker_id, outcomes, count, client=reader)
        finally:
            if reader:
                self._reader_taken = False

    def _take_in(self, answer: _Answer) -> None:
        # The new ones first: so the slots never look free in between.
        if answer.begun is not None:
            self._flow.deliver(answer.begun, answer.asked)
        for (slot, _, done), status in zip(answer.rows, answer.recorded, strict=True):
            done(slot, _RECORDED[status])

    def _lease_holds(self, slot: Slot) -> bool:
        return self._clock() < slot.leased_until and slot.reason is not StopReason.LOST

    def _keep_or_report_lost(self, row: _Row) -> bool:
        slot, _, done = row
        if self._lease_holds(slot):
            return True
        slot.log.close(discard=True)
        done(slot, Recorded.LOST)
        return False

    def _outcome_or_report_lost(self, row: _Row) -> Outcome | None:
        slot, ending, done = row
        try:
            return self._outcome(slot, ending)
        except Exception:
            # A fault of ours must not end the others: this task runs again when its lease has run out.
            logger.exception("outcome not recorded", extra={"task_id": slot.claim.task.task_id})
            done(slot, Recorded.LOST)
            return None

    def _outcome(self, slot: Slot, ending: _End) -> Outcome:
        claim, name = slot.claim, slot.agent_name
        match ending:
            case Completed(text):
                message = f"Agent '{name}' completed execution"
                return Outcome(claim, "completed", text, "", *slot.log.last("completed", name, message))
            case Failed(error):
                return self._failed(slot, error)
            case Cancelled():
                message = f"Task {claim.task.task_id} cancelled"
                return Outcome(claim, "cancelled", "", "", *slot.log.last("cancelled", "", message))
            case _:
                assert_never(ending)

    @staticmethod
    def _failed(slot: Slot, error: BaseException) -> Outcome:
        text, kind = describe(error), kind_of(error)
        final = slot.log.last("error", slot.agent_name, text, kind)
        return Outcome(slot.claim, "failed", text, kind, *final)
