"""Settler: turns the end of a run into what Redis records, many outcomes a round trip."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from redis.exceptions import RedisError

from orbiter.distributed import faults, metrics
from orbiter.distributed.claims import Outcome
from orbiter.distributed.errors import (
    ConfigurationError,
    HandedBackError,
    ResultTooLargeError,
    TransferredError,
    TransientError,
)
from orbiter.distributed.models import ErrorEvent, InvalidPayloadError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    from redis.asyncio import Redis

    from orbiter.distributed.broker import TaskBroker
    from orbiter.distributed.claims import Begun
    from orbiter.distributed.events import EventPublisher
    from orbiter.distributed.settings import WorkerSettings
    from orbiter.distributed.slot import Ended, Slot

    Done: TypeAlias = Callable[[Slot, str], None]
    _Row: TypeAlias = tuple[Slot, Ended, Done]

logger = logging.getLogger(__name__)

LARGEST_BATCH = 128
BACKOFF_CAP = 60.0
LONGEST_ASKED = 3600.0
AGAIN_AFTER = 0.2
ERROR_CAP = 10_000
_JSON = json.JSONEncoder(allow_nan=False)


def describe(error: BaseException) -> str:
    """Return an error's text, cut where it is very long, or its class name where it has none."""
    try:
        text = str(error)[:ERROR_CAP]
    except Exception:  # noqa: BLE001 - an exception that cannot tell what it is; its class can
        text = ""
    text = text or type(error).__name__
    # What is no Unicode (half a surrogate pair) could not be written to Redis.
    return text.encode("utf-8", "replace").decode()


def delay_before_retry(error: BaseException, retries: int, backoff: float) -> float:
    """Return full jitter below an exponential cap, and no less than the far side asked for, seconds."""
    asked = (error.retry_after or 0.0) if isinstance(error, TransientError) else 0.0
    asked = min(asked, LONGEST_ASKED) if math.isfinite(asked) else 0.0
    return max(asked, random.uniform(0, min(BACKOFF_CAP, backoff * 2.0 ** min(retries, 64))))  # noqa: S311 - jitter


def never_again(error: BaseException) -> bool:
    """Tell whether another run would end in the same error."""
    return isinstance(error, ConfigurationError | InvalidPayloadError)


def result_text(result: dict[str, Any] | None, limit: int) -> str:
    """Return a result as JSON.

    Raises:
        ConfigurationError: It is not JSON, or longer than ``limit``.
    """
    try:
        text = _JSON.encode(result)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"result: not JSON: {error}") from None
    if len(text) > limit:
        raise ResultTooLargeError(
            f"result: {len(text)} bytes as JSON are more than the {limit} of"
            " --max-result-bytes (ORBITER_MAX_RESULT_BYTES); store it elsewhere and return where"
        )
    return text


def _ours(slot: Slot) -> bool:
    return time.monotonic() < slot.proven_until and slot.reason != "lost"


@dataclass(slots=True)
class _Answer:
    """What came back for a batch: what stands for each of its rows, and claims, where these were asked for."""

    rows: list[_Row]
    recorded: list[str]
    begun: list[Begun] | None
    asked: float


class Carrier(Protocol):
    """Claims for the slots that outcomes free: the fetcher."""

    @property
    def spare(self) -> Redis:
        """A connection that is free while claims come with outcomes."""

    def board(self, free: int) -> int:
        """Return how many claims are to come with outcomes that free so many slots."""

    def land(self, begun: list[Begun], asked: float) -> None:
        """Take over what came."""

    def crash(self) -> None:
        """Take note that it is not known what came."""


class Settler:
    """Records how runs ended.

    Args:
        broker: Records.
        publisher: Whose events must arrive before the outcome.
        settings: Budgets, delays and limits.
    """

    def __init__(self, broker: TaskBroker, publisher: EventPublisher, settings: WorkerSettings) -> None:
        self._broker = broker
        self._publisher = publisher
        self._settings = settings
        self._worker_id = settings.worker_id
        # Half of the slots: their outcomes are recorded while the other half runs.
        self._batch = min(LARGEST_BATCH, -(-settings.concurrency // 2))
        self._carrier: Carrier | None = None
        self._waiting: list[_Row] = []
        self._sent: deque[asyncio.Task[_Answer | None]] = deque()
        self._spare_taken = False
        self._something = asyncio.Event()
        self._apart: set[asyncio.Task[None]] = set()

    def carry(self, carrier: Carrier) -> None:
        """Bring claims back with recorded outcomes, from now on."""
        self._carrier = carrier

    def settle(self, slot: Slot, done: Done) -> None:
        """Record the end of a run, trying for as long as its lease lives; ``done`` is told what stands, or ``lost``."""
        ended = slot.ended()
        if ended.stopped == "lost":
            done(slot, "lost")
        elif isinstance(ended.error, TransferredError):
            slot.log.close()
            workflow_id = ended.error.workflow_id
            self._record_apart(slot, lambda: self._broker.transfer(self._worker_id, slot.claim, workflow_id), done)
        elif ended.stopped == "handed back" or isinstance(ended.error, HandedBackError):
            slot.log.close()
            self._record_apart(slot, lambda: self._broker.hand_back(self._worker_id, slot.claim), done)
        elif ended.error is not None and self._worth_another_run(slot, ended.error):
            text, kind = describe(ended.error), type(ended.error).__name__
            slot.log.emit(ErrorEvent(error=text, error_type=kind, recoverable=True))
            slot.log.close()
            delay = delay_before_retry(ended.error, slot.claim.retries, self._settings.retry_backoff)
            self._record_apart(
                slot,
                lambda: self._broker.retry(self._worker_id, slot.claim, delay=delay, error=text, error_type=kind),
                done,
            )
        else:
            slot.log.close()
            self._waiting.append((slot, ended, done))
            if len(self._sent) == 1 and len(self._waiting) >= self._batch:
                # Right behind the one before: the server has work while we take that one in.
                self._send()
            self._something.set()

    def give_up(self) -> None:
        """Stop trying: the leases run out, and others take these tasks over."""
        for task in self._apart:
            task.cancel()

    def _worth_another_run(self, slot: Slot, error: BaseException) -> bool:
        wanted = slot.claim.task.max_retries
        limit = self._settings.max_retries if wanted is None else wanted
        return not never_again(error) and slot.claim.retries < limit

    # -- what is recorded by itself: retries and hand-backs --------------------------------------------------------

    def _record_apart(self, slot: Slot, record: Callable[[], Awaitable[str]], done: Done) -> None:
        async def insist() -> None:
            recorded = "lost"
            try:
                recorded = await self._insist(slot, record)
            finally:
                done(slot, recorded)

        task = asyncio.create_task(insist())
        self._apart.add(task)
        task.add_done_callback(self._apart.discard)

    async def _insist(self, slot: Slot, record: Callable[[], Awaitable[str]]) -> str:
        while _ours(slot):
            try:
                # What a run said arrives before how it ended.
                await self._publisher.flush()
                faults.reach("before settle")
                recorded = await record()
            except (RedisError, OSError) as error:
                metrics.DISRUPTIONS.add(1, self._broker.queue_name)
                logger.warning("outcome waits for Redis: %s", error, extra={"task_id": slot.claim.task.task_id})
                await asyncio.sleep(AGAIN_AFTER)
            else:
                faults.reach("after settle")
                return recorded
        slot.log.close(discard=True)
        return "lost"

    # -- what is recorded in batches: ends -------------------------------------------------------------------------

    async def run(self) -> None:
        """Record ends, until cancelled: while the server works on a batch, what came with the last is taken in."""
        try:
            while True:
                while not self._sent:
                    self._something.clear()
                    self._send()
                    if not self._sent:
                        await self._something.wait()
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
        while batch := [row for row in batch if self._still_ours(row)]:
            boarded = 0
            try:
                await self._publisher.flush()
                ready = [(row, outcome) for row in batch if (outcome := self._outcome_of(row))]
                batch = [row for row, _ in ready]
                boarded = self._carrier.board(len(ready)) if self._carrier else 0
                asked = time.monotonic()
                faults.reach("before settle")
                recorded, begun = await self._turn([outcome for _, outcome in ready], boarded)
            except (RedisError, OSError) as error:
                metrics.DISRUPTIONS.add(1, self._broker.queue_name)
                logger.warning("%d outcomes wait for Redis: %s", len(batch), error or type(error).__name__)
            else:
                faults.reach("after settle")
                return _Answer(batch, recorded, begun if boarded else None, asked)
            if boarded and self._carrier:
                self._carrier.crash()
            await asyncio.sleep(AGAIN_AFTER)
        return None

    async def _turn(self, outcomes: list[Outcome], boarded: int) -> tuple[list[str], list[Begun]]:
        spare = None
        if boarded and self._carrier and len(self._sent) > 1 and not self._spare_taken:
            spare, self._spare_taken = self._carrier.spare, True
        try:
            return await self._broker.turn(self._worker_id, outcomes, boarded, client=spare)
        finally:
            if spare:
                self._spare_taken = False

    def _take_in(self, answer: _Answer) -> None:
        # The new ones first: so the slots never look free in between.
        if answer.begun is not None and self._carrier:
            self._carrier.land(answer.begun, answer.asked)
        for (slot, _, done), status in zip(answer.rows, answer.recorded, strict=True):
            done(slot, status)

    def _still_ours(self, row: _Row) -> bool:
        slot, _, done = row
        if _ours(slot):
            return True
        slot.log.close(discard=True)
        done(slot, "lost")
        return False

    def _outcome_of(self, row: _Row) -> Outcome | None:
        slot, ended, done = row
        try:
            return self._outcome(slot, ended)
        except Exception:
            # A fault of ours must not end the others: this task runs again when its lease has run out.
            logger.exception("not recorded", extra={"task_id": slot.claim.task.task_id})
            done(slot, "lost")
            return None

    def _outcome(self, slot: Slot, ended: Ended) -> Outcome:
        claim, error = slot.claim, ended.error
        if ended.stopped == "cancelled":
            return Outcome(
                claim, "cancelled", "", "", *slot.log.last("cancelled", "", f"Task {claim.task.task_id} cancelled")
            )
        name = slot.agent_name
        text = ""
        if error is None:
            try:
                text = result_text(ended.result, self._settings.max_result_bytes)
            except ConfigurationError as refused:
                error = refused
        if error is not None:
            said = describe(error)
            return Outcome(claim, "failed", said, type(error).__name__, *slot.log.last("error", name, said))
        return Outcome(
            claim, "completed", text, "", *slot.log.last("completed", name, f"Agent '{name}' completed execution")
        )
