"""TaskPages: tasks a page at a time, the newest first, and failures by their kind. No page reads more than a window.

A list in Redis has tasks by time, and by status once they have ended. Whatever else a page is filtered by is looked for
among the next tasks of such a list; where those were not enough, the page says how far it looked, and goes on there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from orbiter.distributed.broker.namespaced import Namespaced
from orbiter.distributed.broker.records import ENDED_RANGE, ended_score
from orbiter.distributed.broker.store import decode
from orbiter.distributed.models import DEFAULT_QUEUE, TaskResult, TaskStatus
from orbiter.distributed.names import RESERVED_TASK_IDS, check_queue_name

if TYPE_CHECKING:
    from collections.abc import Sequence


# Tasks that one page looks at.
WINDOW = 1000
# Failures that are grouped at once.
FAILURES = 2000
LONGEST_CURSOR = 300
_CHUNK = 250
# A record without what may be large: its result.
_FIELDS = (
    *("status", "queue", "agent_name", "worker_id", "error_type", "created_at", "started_at", "completed_at"),
    *("attempt", "retries", "next_attempt_at"),
)
_FAILED = ("status", "queue", "agent_name", "error_type", "completed_at", "error")


class CursorError(ValueError):
    """A text is no place on a list of tasks."""


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks are sought; what is empty does not count.

    Attributes:
        status: Their status.
        queue: Their queue.
        agent: The name of their agent.
        worker: The worker that runs them, or ran them last.
        error_type: Class name of the error that they ended with.
        since: Epoch seconds of the earliest: of the end where ``status`` is one in which tasks end, else of creation.
        until: Likewise of the latest.
    """

    status: TaskStatus | None = None
    queue: str = ""
    agent: str = ""
    worker: str = ""
    error_type: str = ""
    since: float | None = None
    until: float | None = None

    def takes(self, task: TaskResult) -> bool:
        """Tell whether this is one of those that are sought."""
        return (
            (self.status is None or task.status == self.status)
            and (not self.queue or (task.queue or DEFAULT_QUEUE) == self.queue)
            and (not self.agent or (task.agent_name or "") == self.agent)
            and (not self.worker or (task.worker_id or "") == self.worker)
            and (not self.error_type or (task.error_type or "") == self.error_type)
        )


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Tasks of one page.

    Attributes:
        tasks: The tasks, without their results.
        after: Where the next page begins; empty where there is none.
        looked_at: How many tasks were looked at for these.
        back_to: Epoch seconds of the last of those.
        partial: Whether the page ended as its window did, before it was full.
    """

    tasks: Sequence[TaskResult] = ()
    after: str = ""
    looked_at: int = 0
    back_to: float | None = None
    partial: bool = False


@dataclass(slots=True)
class FailureGroup:
    """Failed tasks of one agent with one kind of error.

    Attributes:
        agent: The agent's name.
        error_type: Class name of the error.
        count: How many tasks.
        first: Epoch seconds at which the first one ended.
        last: Likewise of the last one.
        error: What the last one says.
        task_id: The last one.
    """

    agent: str
    error_type: str
    count: int = 0
    first: float = 0.0
    last: float = 0.0
    error: str = ""
    task_id: str = ""


@dataclass(frozen=True, slots=True)
class Failures:
    """Failed tasks by agent and kind of error.

    Attributes:
        groups: The groups, the largest first.
        looked_at: How many failed tasks were looked at, the last ones.
        total: How many there are.
        since: Epoch seconds at which the first of those looked at ended.
    """

    groups: Sequence[FailureGroup] = field(default_factory=tuple)
    looked_at: int = 0
    total: int = 0
    since: float | None = None


class TaskPages(Namespaced):
    """Reads tasks page by page."""

    async def page(self, sought: TaskFilter, *, after: str = "", limit: int = 50, window: int = WINDOW) -> TaskPage:
        """Return the next tasks, the newest first.

        Args:
            sought: Which tasks.
            after: ``after`` of the page before; the newest ones without it.
            limit: Tasks on a page.
            window: Tasks that are looked at for it.

        Raises:
            CursorError: ``after`` is no such place.
            InvalidNameError: No queue can have that name.
            redis.RedisError: Redis cannot be reached or refuses.
        """
        source, low, start = await self._start(sought, after)
        size = window if self._selective(sought) else limit
        redis: Any = self.client
        # All ids at once: ranks move while tasks come in.
        rows = await redis.zrange(source, start, start + size - 1, desc=True, withscores=True)
        rows = [row for row in rows if row[1] >= low]
        found: list[TaskResult] = []
        looked = 0
        for at in range(0, len(rows), _CHUNK):
            chunk = rows[at : at + _CHUNK]
            for (task_id, score), task in zip(chunk, await self._read([name for name, _ in chunk]), strict=True):
                looked += 1
                if task is not None and sought.takes(task):
                    found.append(task)
                if len(found) == limit:
                    return TaskPage(found, _cursor(task_id, score), looked, _moment(score))
        if len(rows) < size:
            return TaskPage(found, "", looked, _moment(rows[-1][1]) if rows else None)
        return TaskPage(found, _cursor(*rows[-1]), looked, _moment(rows[-1][1]), partial=True)

    async def failures(self, *, queue: str = "", most: int = FAILURES) -> Failures:
        """Group the last failed tasks by agent and kind of error.

        Args:
            queue: Of this queue; of all without it.
            most: How many tasks are looked at.

        Raises:
            redis.RedisError: Redis cannot be reached or refuses.
        """
        low, high = ended_score(TaskStatus.FAILED, 0), ended_score(TaskStatus.FAILED, ENDED_RANGE - 1)
        redis: Any = self.client
        total = int(await redis.zcount(self._keys.ended, low, high))
        rows = await redis.zrange(
            *(self._keys.ended, high, low), byscore=True, desc=True, offset=0, num=most, withscores=True
        )
        groups: dict[tuple[str, str], FailureGroup] = {}
        for at in range(0, len(rows), _CHUNK):
            tasks = await self._read([task_id for task_id, _ in rows[at : at + _CHUNK]], _FAILED)
            for task in tasks:
                if task is not None and TaskFilter(status=TaskStatus.FAILED, queue=queue).takes(task):
                    _add(groups, task)
        since = _moment(rows[-1][1]) if rows else None
        ordered = sorted(groups.values(), key=lambda group: (-group.count, -group.last))
        return Failures(ordered, len(rows), total, since)

    async def _start(self, sought: TaskFilter, after: str) -> tuple[str, float, int]:
        """Return the list on which all that are sought are, their lowest score on it, and the rank to begin at."""
        redis: Any = self.client
        source, low, high = self._list(sought)
        if after:
            score, task_id = _place(after)
            rank = await redis.zrevrank(source, task_id)
            if rank is not None:
                return source, low, int(rank) + 1
            # It has expired meanwhile: those of its time come again, as nothing tells which of them were seen.
            high = score
        start = 0 if high == math.inf else int(await redis.zcount(source, f"({high:.0f}", "+inf"))
        return source, low, start

    def _list(self, sought: TaskFilter) -> tuple[str, float, float]:
        """Return the list, and the lowest and highest score on it."""
        since = 0.0 if sought.since is None else sought.since * 1000
        until = math.inf if sought.until is None else sought.until * 1000
        if sought.status is not None and sought.status.terminal and not sought.queue:
            last = ENDED_RANGE - 1
            low, high = (ended_score(sought.status, min(moment, last)) for moment in (since, until))
            return self._keys.ended, low, high
        source = self._keys.by_time
        if sought.queue:
            source = self._keys.of_queue(check_queue_name(sought.queue, self._keys.namespace)).tasks
        return source, since, until

    @staticmethod
    def _selective(sought: TaskFilter) -> bool:
        """Tell whether the list has tasks that are not sought."""
        by_list = sought.status is None or (sought.status.terminal and not sought.queue)
        return not by_list or bool(sought.agent or sought.worker or sought.error_type)

    async def _read(self, ids: Sequence[str], fields: Sequence[str] = _FIELDS) -> list[TaskResult | None]:
        if not ids:
            return []
        async with self.client.pipeline(transaction=False) as pipeline:
            for task_id in ids:
                pipeline.hmget(self._keys.task(task_id), *fields)
            rows = await pipeline.execute(raise_on_error=False)
        # A client may put anything on a list: what would be the name of a list is no record.
        return [
            None if task_id in RESERVED_TASK_IDS else _record(task_id, fields, row)
            for task_id, row in zip(ids, rows, strict=True)
        ]


def _record(task_id: str, fields: Sequence[str], row: Any) -> TaskResult | None:
    if isinstance(row, ResponseError) and str(row).startswith("WRONGTYPE"):
        return TaskResult(task_id=task_id, status=TaskStatus.UNREADABLE, unreadable="the record is no hash in Redis")
    if isinstance(row, Exception):
        raise row
    known = {name: text for name, text in zip(fields, row, strict=True) if text is not None}
    return decode(known, task_id) if known else None


def _add(groups: dict[tuple[str, str], FailureGroup], task: TaskResult) -> None:
    """Count a failed task; the last ones come first."""
    agent, kind, ended = task.agent_name or "", task.error_type or "", task.completed_at or 0.0
    group = groups.get((agent, kind))
    if group is None:
        group = groups[agent, kind] = FailureGroup(
            agent, kind, last=ended, error=task.error or "", task_id=task.task_id
        )
    group.count += 1
    group.first = ended


def _moment(score: float) -> float:
    """Return the time that a score on a list stands for, epoch seconds."""
    return (score % ENDED_RANGE) / 1000


def _cursor(task_id: str, score: float) -> str:
    return f"{score:.0f}_{task_id}"


def _place(cursor: str) -> tuple[int, str]:
    score, underscore, task_id = cursor.partition("_")
    if len(cursor) > LONGEST_CURSOR or not underscore or not task_id or not score.isdecimal() or len(score) > 15:
        raise CursorError("after: not the end of a page of tasks; begin with the first page")
    return int(score), task_id
