"""Settler: turns the end of a run into what Redis records, many outcomes a round trip."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import time
from typing import TYPE_CHECKING, Any

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

    from orbiter.distributed.broker import TaskBroker
    from orbiter.distributed.events import EventPublisher
    from orbiter.distributed.settings import WorkerSettings
    from orbiter.distributed.slot import Ended, Slot

    Done: TypeAlias = Callable[[Slot, str], None]

logger = logging.getLogger(__name__)

BACKOFF_CAP = 60.0
LONGEST_ASKED = 3600.0
AGAIN_AFTER = 0.2
ERROR_CAP = 10_000


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
        text = json.dumps(result, allow_nan=False)
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
        self._waiting: list[tuple[Slot, Ended, Done]] = []
        self._something = asyncio.Event()
        self._apart: set[asyncio.Task[None]] = set()

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
        """Record ends, until cancelled: while one batch is on its way, the next one gathers."""
        while True:
            await self._something.wait()
            self._something.clear()
            batch, self._waiting = self._waiting, []
            while batch := [row for row in batch if self._still_ours(row)]:
                try:
                    await self._publisher.flush()
                    ready = [(row, outcome) for row in batch if (outcome := self._outcome_of(row))]
                    batch = [row for row, _ in ready]
                    faults.reach("before settle")
                    recorded = await self._broker.finish(self._worker_id, [outcome for _, outcome in ready])
                except (RedisError, OSError) as error:
                    metrics.DISRUPTIONS.add(1, self._broker.queue_name)
                    logger.warning("%d outcomes wait for Redis: %s", len(batch), error or type(error).__name__)
                    await asyncio.sleep(AGAIN_AFTER)
                else:
                    faults.reach("after settle")
                    for ((slot, _, done), _), status in zip(ready, recorded, strict=True):
                        done(slot, status)
                    break

    def _still_ours(self, row: tuple[Slot, Ended, Done]) -> bool:
        slot, _, done = row
        if _ours(slot):
            return True
        slot.log.close(discard=True)
        done(slot, "lost")
        return False

    def _outcome_of(self, row: tuple[Slot, Ended, Done]) -> Outcome | None:
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
        name = claim.task.agent_name
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
