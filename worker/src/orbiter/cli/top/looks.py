"""Looks: what one look at a fleet asks Redis, by the readers that the dashboard has; each in bounded work."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orbiter.distributed.client.overview import Period, QueueInfo, TaskFilter, TaskPage, WorkerHealth

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orbiter.distributed.client.overview import Overview
    from orbiter.distributed.models import TaskStatus

# Seconds that Redis gets to answer all questions of a look.
WITHIN = 5.0
# Tasks and workers that are shown; of workers, the others are counted.
MOST_TASKS = 50
MOST_WORKERS = 500
MINUTES = 60


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen.

    Attributes:
        now: Redis' clock, epoch seconds.
        workers: Those that live by host, then the dead ones; no more than :data:`MOST_WORKERS`.
        more: How many more there are.
        info: The queue.
        minutes: What its workers counted in each of the last minutes, the oldest first.
        page: The newest tasks that the filter takes.
        inputs: Of those of them whose input was seen, by task id.
    """

    now: float
    workers: Sequence[WorkerHealth]
    more: int
    info: QueueInfo
    minutes: Sequence[Period]
    page: TaskPage
    inputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def hour(self) -> Period:
        """The last minutes in one."""
        minutes = self.minutes
        return Period(
            at=minutes[0].at if minutes else 0,
            started=sum(minute.started for minute in minutes),
            ended=sum(minute.ended for minute in minutes),
            failed=sum(minute.failed for minute in minutes),
            waits=tuple(map(sum, zip(*(minute.waits for minute in minutes), strict=True))) or Period(0).waits,
        )


class Looking:
    """Looks at a fleet again and again.

    Args:
        overview: Reads it.
    """

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        self._inputs: dict[str, str] = {}

    async def look(self, status: TaskStatus | None) -> Look:
        """Look once, for tasks of this status or of all.

        Raises:
            redis.RedisError: Redis cannot be reached or refuses.
            TimeoutError: It does not answer.
        """
        overview = self._overview
        async with asyncio.timeout(WITHIN):
            workers, info, (minutes, now), page = await asyncio.gather(
                overview.workers(),
                overview.queue_info(),
                overview.rates(minutes=MINUTES),
                overview.tasks(TaskFilter(status=status, queue=overview.queue), limit=MOST_TASKS),
            )
            await self._read_inputs(page)
        shown = sorted(workers, key=lambda worker: (not worker.alive, worker.hostname))[:MOST_WORKERS]
        return Look(now, shown, len(workers) - len(shown), info, minutes, page, self._inputs)

    async def _read_inputs(self, page: TaskPage) -> None:
        """Read inputs that were not seen yet: they do not change, and are not kept once a task has ended."""
        known = self._inputs
        new = await self._overview.inputs([task for task in page.tasks if task.task_id not in known])
        ids = [task.task_id for task in page.tasks]
        self._inputs = {task_id: text for task_id in ids if (text := new.get(task_id, known.get(task_id))) is not None}
