"""Usage: tokens that a queue's tasks were charged for, by day, model and agent.

Workers count them as models answer, whatever becomes of the run, and send them with their heartbeats.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from orbiter.distributed.broker.namespaced import Namespaced
from orbiter.distributed.plain_json import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping

# Days for which it is kept.
USAGE_DAYS = 35
_DAY = 86_400
_KINDS = ("requests", "input", "output")


@dataclass(frozen=True, slots=True)
class DayOfUsage:
    """What one agent used of one model on one day.

    Attributes:
        day: The day's beginning (UTC), epoch seconds.
        model: ``provider:name``, as the provider calls the model that answered.
        agent: The agent.
        requests: Answers of the model.
        input: Tokens that it was sent.
        output: Tokens that it answered.
    """

    day: int
    model: str
    agent: str
    requests: int
    input: int
    output: int


class UsageOfQueue(Namespaced):
    """Reads what a queue's tasks used."""

    async def last(self, queue: str, days: int, *, now: float) -> list[DayOfUsage]:
        """Return what was used on each of the last days (UTC), the newest first.

        Args:
            queue: The queue.
            days: How many, :data:`USAGE_DAYS` at most.
            now: Redis' clock, epoch seconds.

        Raises:
            redis.RedisError: Redis cannot be reached or refuses.
        """
        prefix, today = self._keys.of_queue(queue).usage, int(now // _DAY)
        numbers = [today - at for at in range(min(days, USAGE_DAYS))]
        async with self.client.pipeline(transaction=False) as pipeline:
            for day in numbers:
                pipeline.hgetall(f"{prefix}{day}")
            rows: list[Any] = await pipeline.execute(raise_on_error=False)
        found: list[DayOfUsage] = []
        for day, row in zip(numbers, rows, strict=True):
            if isinstance(row, ResponseError) and str(row).startswith("WRONGTYPE"):
                continue
            if isinstance(row, Exception):
                raise row
            found += _of_day(day * _DAY, row)
        return found


def _of_day(day: int, fields: Mapping[str, str]) -> list[DayOfUsage]:
    sums: dict[str, dict[str, int]] = {}
    for name, text in fields.items():
        label, _, kind = name.rpartition(" ")
        if kind in _KINDS and text.isdecimal():
            sums.setdefault(label, dict.fromkeys(_KINDS, 0))[kind] = int(text)
    found = []
    for label, counts in sums.items():
        try:
            model, agent = read_json(label)
        except (ValueError, TypeError):
            continue
        found.append(DayOfUsage(day, str(model), str(agent), **counts))
    return sorted(found, key=lambda row: row.input + row.output, reverse=True)


def label_of(model: str, agent: str) -> str:
    """Return a model and an agent as the scripts have them."""
    return json.dumps([model, agent], separators=(",", ":"))
