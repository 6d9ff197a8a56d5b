"""Settler: turns the end of a run into what Redis records, many outcomes a round trip."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from orbiter.distributed.broker import Outcome
from orbiter.distributed.errors import ConfigurationError, TransientError
from orbiter.distributed.models import ErrorEvent, InvalidPayloadError, StatusEvent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orbiter.distributed.broker import TaskBroker
    from orbiter.distributed.events import EventPublisher
    from orbiter.distributed.slot import Ended, Slot

logger = logging.getLogger(__name__)

BACKOFF_CAP = 60.0
AGAIN_AFTER = 0.2


def describe(error: BaseException) -> str:
    """Return an error's text, or its class name where it has none."""
    return str(error) or type(error).__name__


class Settler:
    """Records how runs ended.

    Args:
        broker: Records.
        publisher: Whose events must arrive before the outcome.
        worker_id: The consumer.
        backoff: Base of the retry delay, seconds.
    """

    def __init__(self, broker: TaskBroker, publisher: EventPublisher, worker_id: str, *, backoff: float) -> None:
        self._broker = broker
        self._publisher = publisher
        self._worker_id = worker_id
        self._backoff = backoff
        self._waiting: list[tuple[Outcome, asyncio.Future[str]]] = []
        self._something = asyncio.Event()

    async def settle(self, slot: Slot, ended: Ended) -> str:
        """Record the end of a run, trying for as long as its lease lives; return what stands, or ``lost``."""
        if ended.stopped == "lost":
            return "lost"
        if ended.stopped == "handed back":
            slot.log.close()
            return await self._insist(slot, lambda: self._broker.hand_back(self._worker_id, slot.claim))
        error = ended.error
        if error is not None and self._worth_another_run(slot, error):
            slot.log.emit(ErrorEvent(error=describe(error), error_type=type(error).__name__, recoverable=True))
            slot.log.close()
            delay = self._delay(slot, error)
            return await self._insist(
                slot,
                lambda: self._broker.retry(
                    self._worker_id, slot.claim, delay=delay, error=describe(error), error_type=type(error).__name__
                ),
            )
        return await self._insist(slot, lambda: self._finish(slot, ended))

    def _worth_another_run(self, slot: Slot, error: BaseException) -> bool:
        never = isinstance(error, ConfigurationError | InvalidPayloadError)
        return not never and slot.claim.retries < self._broker.max_retries

    def _delay(self, slot: Slot, error: BaseException) -> float:
        """Return full jitter below an exponential cap, and no less than the far side asked for."""
        asked = (error.retry_after or 0.0) if isinstance(error, TransientError) else 0.0
        cap = min(BACKOFF_CAP, self._backoff * 2**slot.claim.retries)
        return max(asked, random.uniform(0, cap))  # noqa: S311 - jitter

    async def _insist(self, slot: Slot, record: Callable[[], Awaitable[str]]) -> str:
        while time.monotonic() < slot.proven_until and slot.reason != "lost":
            try:
                # What a run said arrives before how it ended.
                await self._publisher.flush()
                return await record()
            except (RedisError, OSError) as error:
                logger.warning("outcome waits for Redis: %s", error, extra={"task_id": slot.claim.task.task_id})
                await asyncio.sleep(AGAIN_AFTER)
        slot.log.close(discard=True)
        return "lost"

    # -- finishing, in batches -------------------------------------------------------------------------------------

    async def _finish(self, slot: Slot, ended: Ended) -> str:
        recorded: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._outcome(slot, ended), recorded))
        self._something.set()
        return await recorded

    def _outcome(self, slot: Slot, ended: Ended) -> Outcome:
        claim, error = slot.claim, ended.error
        slot.log.close()
        if ended.stopped == "cancelled":
            event = StatusEvent(status="cancelled", message=f"Task {claim.task.task_id} cancelled")
            return Outcome(claim, "cancelled", "", "", slot.log.last(event))
        name = claim.task.agent_name
        if error is not None:
            event = StatusEvent(status="error", agent_name=name, message=describe(error))
            return Outcome(claim, "failed", describe(error), type(error).__name__, slot.log.last(event))
        event = StatusEvent(status="completed", agent_name=name, message=f"Agent '{name}' completed execution")
        return Outcome(claim, "completed", json.dumps(ended.result), "", slot.log.last(event))

    async def run(self) -> None:
        """Send what has gathered, until cancelled: while one batch is on its way, the next one gathers."""
        while True:
            await self._something.wait()
            self._something.clear()
            batch, self._waiting = self._waiting, []
            try:
                recorded = await self._broker.finish(self._worker_id, [outcome for outcome, _ in batch])
            except (RedisError, OSError) as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), status in zip(batch, recorded, strict=True):
                if not future.done():
                    future.set_result(status)
