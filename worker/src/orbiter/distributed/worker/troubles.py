"""Troubles: which steps of a worker fail, for how long, and what is done about data that make them fail."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from redis.exceptions import RedisError

from orbiter.distributed.broker.spoilt import is_spoilt
from orbiter.distributed.errors import describe
from orbiter.distributed.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from orbiter.distributed.broker.records import Mended

    Step: TypeAlias = Literal["claim", "renew", "settle"]

logger = logging.getLogger(__name__)

MEND_EVERY = 1.0


class MendStore(Protocol):
    """Mends what is stored: :class:`~orbiter.distributed.broker.housekeeping.Housekeeping`."""

    queue_name: str

    async def mend(self) -> list[Mended]:
        """Put keys away that are of another type than they should be; return them."""

    async def renew_stream(self) -> bool:
        """Make the queue a new stream where the old one can take no more; tell whether that happened."""


class Mender:
    """Mends a queue's keys, and says what it did.

    Args:
        store: The queue's housekeeping.
        clock: Monotonic seconds.
    """

    def __init__(self, store: MendStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._next = 0.0

    async def mend(self) -> bool | None:
        """Mend what is to be mended, unless that was done a moment ago. What Redis refuses is logged.

        Returns:
            Whether anything was mended; ``None`` where nobody looked.
        """
        if self._clock() < self._next:
            return None
        self._next = self._clock() + MEND_EVERY
        queue, found = self._store.queue_name, False
        try:
            for key, aside in await self._store.mend():
                found = True
                metrics.MENDED.add(1, queue)
                where = f"moved aside to {aside!r}" if aside else "removed, to be made anew"
                logger.error("unusable Redis key %r was %s", key, where)
            if await self._store.renew_stream():
                found = True
                metrics.MENDED.add(1, queue)
                logger.error("queue %s has a new stream, as ids of the old one lay in the future", queue)
        except (RedisError, OSError) as error:
            logger.warning("the queue's keys cannot be mended: %s", describe(error))
            return None
        return found


@dataclass(slots=True)
class _Trouble:
    since: float
    last: float
    text: str


class Troubles:
    """Knows which steps fail. One that has failed for longer than a lease, and fails still, is a problem.

    Args:
        lease: Lifetime of a lease, seconds.
        clock: Monotonic seconds.

    Attributes:
        mender: Mends what made a step fail, where it was data.
    """

    def __init__(self, lease: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.mender: Mender | None = None
        self._lease = lease
        self._clock = clock
        self._failing: dict[Step, _Trouble] = {}

    def worked(self, step: Step) -> None:
        """Take note that a step was done."""
        if step in self._failing:
            del self._failing[step]

    async def failed(self, step: Step, error: BaseException) -> None:
        """Take note that a step failed; mend the data where these made it fail."""
        now, text = self._clock(), describe(error)
        trouble = self._failing.get(step)
        if trouble is None or now - trouble.last > self._lease:
            self._failing[step] = _Trouble(now, now, text)
        else:
            trouble.last, trouble.text = now, text
        if self.mender is not None and is_spoilt(error):
            await self.mender.mend()

    async def mends(self) -> bool:
        """Mend the queue's keys; return whether anything was mended, or that is not known."""
        return self.mender is None or await self.mender.mend() is not False

    def problem(self) -> str:
        """Return what fails and since when, for people; nothing while there is no problem."""
        if not self._failing:
            return ""
        now = self._clock()
        for step, trouble in list(self._failing.items()):
            # What was not tried for a lease may have passed.
            if now - trouble.since > self._lease and now - trouble.last <= self._lease:
                return f"{_WORDS[step]} for {now - trouble.since:.0f} s: {trouble.text}"
        return ""


_WORDS: dict[Step, str] = {
    "claim": "cannot claim tasks",
    "renew": "cannot renew leases",
    "settle": "cannot record outcomes",
}
