"""Rates: what workers of a queue count, minute by minute, in a ring of places for one day.

A worker adds up what it does and sends it with its heartbeat, so that no task costs a command. It counts in the minute
in which the heartbeat comes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from math import inf, sqrt
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from orbiter.distributed.broker.namespaced import Namespaced
from orbiter.distributed.broker.usage import label_of
from orbiter.distributed.limits import MINUTES

if TYPE_CHECKING:
    from collections.abc import Sequence

# Seconds that tasks waited at most; there is one more place for those that waited longer.
WAIT_BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0)
_SIZES = len(WAIT_BOUNDS) + 1
# Of so many minutes each place is read by itself; of more, all places are.
_FEW = 120
_LONGEST = 15


@dataclass(frozen=True, slots=True)
class Counts:
    """What a worker counted between two heartbeats.

    Attributes:
        number: Tells these from the worker's others: the same counts, sent again, have the same one.
        started: Runs of tasks that began.
        ended: Tasks that completed, failed for good, or were cancelled.
        failed: Those that failed for good.
        waits: How many tasks waited at most so long, by :data:`WAIT_BOUNDS`, each in the first place that fits; the
            last place has the others.
        usage: Requests, tokens in and tokens out, by model and agent.
    """

    number: int = 0
    started: int = 0
    ended: int = 0
    failed: int = 0
    waits: tuple[int, ...] = (0,) * _SIZES
    usage: tuple[tuple[str, str, int, int, int], ...] = ()

    def text(self) -> str:
        """Return what the scripts take: numbers in their order, or nothing where nothing was counted."""
        numbers = (self.started, self.ended, self.failed, *self.waits)
        return " ".join(map(str, numbers)) if any(numbers) else ""

    def used(self) -> str:
        """Return the usage as the scripts take it, or nothing where there was none."""
        rows = [[label_of(model, agent), *numbers] for model, agent, *numbers in self.usage]
        return json.dumps(rows) if rows else ""


@dataclass(frozen=True, slots=True)
class Period:
    """What all workers of a queue counted in a minute, or in several.

    Attributes:
        at: Its beginning, epoch seconds.
        minutes: How many minutes of it have counts: no worker was there in the others.
        depth: The most tasks that waited.
        started: As in :class:`Counts`.
        ended: Likewise.
        failed: Likewise.
        waits: Likewise.
    """

    at: int
    minutes: int = 0
    depth: int = 0
    started: int = 0
    ended: int = 0
    failed: int = 0
    waits: tuple[int, ...] = (0,) * _SIZES

    def wait(self, share: float) -> float | None:
        """Return how long that share of tasks waited at most, about: seconds, or ``None`` where none started."""
        return quantile(self.waits, share)


class Rates(Namespaced):
    """Reads the ring of a queue."""

    async def last(self, queue: str, minutes: int, *, now: float) -> list[Period]:
        """Return the last minutes of a queue, the oldest first, that of now last.

        Args:
            queue: The queue.
            minutes: How many, a day's at most.
            now: Redis' clock, epoch seconds.

        Raises:
            redis.RedisError: Redis cannot be reached or refuses.
        """
        key, last = self._keys.of_queue(queue).minutes, int(now // 60)
        numbers = range(last - min(minutes, MINUTES) + 1, last + 1)
        client: Any = self.client
        try:
            if len(numbers) <= _FEW:
                texts = await client.hmget(key, [str(minute % MINUTES) for minute in numbers])
                found = dict(zip((str(minute % MINUTES) for minute in numbers), texts, strict=True))
            else:
                found = await client.hgetall(key)
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            found = {}
        return [_minute(minute, found.get(str(minute % MINUTES))) for minute in numbers]


def together(minutes: Sequence[Period], width: int) -> list[Period]:
    """Return periods of so many minutes each, which begin at whole multiples of that; the first may have fewer."""
    rows: dict[int, list[Period]] = {}
    for minute in minutes:
        rows.setdefault(minute.at // (60 * width), []).append(minute)
    return [
        Period(
            at=start * 60 * width,
            minutes=sum(row.minutes for row in group),
            depth=max(row.depth for row in group),
            started=sum(row.started for row in group),
            ended=sum(row.ended for row in group),
            failed=sum(row.failed for row in group),
            waits=tuple(map(sum, zip(*(row.waits for row in group), strict=True))),
        )
        for start, group in rows.items()
    ]


def quantile(waits: Sequence[int], share: float) -> float | None:
    """Return how long that share of tasks waited at most, seconds; ``None`` where there is none.

    Places tell no more than between which bounds it is.
    """
    total, seen = sum(waits), 0
    for count, (low, high) in zip(waits, pairwise((0.0, *WAIT_BOUNDS, inf)), strict=True):
        if count and seen + count >= share * total:
            inside = (share * total - seen) / count
            if high == inf:
                return low
            # Each bound is about three times the one before: between two of them as between their logarithms.
            return high * inside if low == 0 else low * (high / low) ** inside if inside else sqrt(low * high)
        seen += count
    return None


def _minute(minute: int, text: Any) -> Period:
    """Return a minute; one that has no place of its own now, or an odd one, has no counts."""
    words = text.split(" ") if isinstance(text, str) else ()
    if len(words) < 2 or not all(word.isdecimal() and len(word) <= _LONGEST for word in words):
        return Period(minute * 60)
    stamp, depth, *counts = map(int, words)
    if stamp != minute:
        return Period(minute * 60)
    # A later release may count more.
    started, ended, failed, *waits = (counts + [0] * (3 + _SIZES))[: 3 + _SIZES]
    return Period(minute * 60, 1, depth, started, ended, failed, tuple(waits))
