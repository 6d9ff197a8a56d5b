"""TaskStore: what is known of tasks. Reads the task hashes and the index; all writing is the broker's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from redis.exceptions import NoPermissionError, ResponseError

from orbiter.distributed.broker.namespaced import Namespaced
from orbiter.distributed.broker.records import ENDED_RANGE, ended_score
from orbiter.distributed.inert import inert
from orbiter.distributed.models import DEFAULT_QUEUE, TERMINAL, TaskResult, TaskStatus, broken_rule
from orbiter.distributed.names import RESERVED_TASK_IDS, check_task_id
from orbiter.distributed.plain_json import read_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping


PAGE = 200
LARGE_PAGE = 1000
# What is no status of a record, or what an unknown one counts as.
_ODD = frozenset({TaskStatus.UNREADABLE, TaskStatus.PENDING})
_RECORDED = frozenset(TaskResult.model_fields) - {"unreadable"}
_RECORDED_STATUSES = frozenset(TaskStatus) - {TaskStatus.UNREADABLE}
_SHOWN = 60


def decode(fields: Mapping[str, str], task_id: str = "") -> TaskResult:
    """Decode a task hash, ours or 0.1's.

    Empty text counts as absent; a status nobody knows, which a later release may write, reads as pending. A field that
    cannot be read has its default, and ``unreadable`` says so.

    Args:
        fields: The hash.
        task_id: The task whose record it is, whatever is in it.
    """
    values: dict[str, Any] = {name: text for name, text in fields.items() if text and name in _RECORDED}
    wrong = []
    if task_id:
        values["task_id"] = task_id
    status = values.get("status", TaskStatus.PENDING)
    if status not in _RECORDED_STATUSES:
        wrong.append(f"status: {inert(status, limit=_SHOWN)!r} is none that this release knows")
        status = TaskStatus.PENDING
    values["status"] = status
    if "result" in values:
        try:
            result = read_json(values["result"])
        except ValueError:
            result = values["result"]
        values["result"] = result if isinstance(result, dict) else {"output": result}
    try:
        found = TaskResult.model_validate(values)
    except ValidationError as error:
        for row in error.errors(include_input=False, include_url=False):
            name = str(row["loc"][0])
            if name in values:
                wrong.append(f"{name}: {inert(values.pop(name), limit=_SHOWN)!r}: {broken_rule(row)}")
        found = TaskResult.model_validate(values)
    return found.model_copy(update={"unreadable": "; ".join(wrong)}) if wrong else found


class TaskStore(Namespaced):
    """Reads tasks."""

    async def get_status(self, task_id: str) -> TaskResult | None:
        """Return one task, or ``None`` where it is unknown or expired.

        Raises:
            InvalidNameError: No task can have this id.
        """
        check_task_id(task_id)
        return (await self.get_many([task_id]))[0]

    async def get_many(self, task_ids: Iterable[str]) -> list[TaskResult | None]:
        """Return tasks in the order of their ids, in one round trip."""
        ids = list(task_ids)
        async with self.client.pipeline(transaction=False) as pipeline:
            for task_id in ids:
                pipeline.hgetall(self._keys.task(task_id))
            rows = await pipeline.execute(raise_on_error=False)
        return [read_record(task_id, row) for task_id, row in zip(ids, rows, strict=True)]

    async def list_tasks(
        self, status: TaskStatus | str | None = None, limit: int = 100, *, queue: str | None = None
    ) -> list[TaskResult]:
        """Return up to ``limit`` tasks, the newest first: of one status or of all, of one queue or of all.

        Those of a status in which tasks end are in the order of their end, all others in that of their creation.
        """
        queue = None if queue is None else self._keys.of_queue(queue).stream
        source = await self._source(status, queue)
        # Another list has them in another order: all of them are looked at, and put into that of their end.
        reorder = status in TERMINAL and queue is not None and source == self._keys.of_queue(queue).tasks
        found: list[TaskResult] = []
        async for ids in self._pages(source, status):
            fitting = ids if status is None and queue is None else await self._fitting(ids, status, queue)
            for at in range(0, len(fitting), PAGE):
                tasks = await self.get_many(fitting[at : at + PAGE])
                found += [task for task in tasks if task is not None and _fits(task, status, queue)]
                if len(found) >= limit and not reorder:
                    return found[:limit]
        if reorder:
            found.sort(key=lambda task: task.completed_at or 0, reverse=True)
        return found[:limit]

    async def _source(self, status: TaskStatus | str | None, queue: str | None) -> str:
        """Return the shortest list on which all such tasks are."""
        lists = [self._keys.of_queue(queue).tasks] if queue is not None else []
        lists += [self._keys.ended] if status in TERMINAL else []
        if not lists:
            return self._keys.by_time
        try:
            lengths = {name: await self.client.zcard(name) for name in lists}
        except NoPermissionError:
            # A user with the rights of an earlier release, or to another queue.
            return self._keys.by_time
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            return self._keys.by_time
        # What 0.1 and earlier releases recorded is on neither list until a round has put it there.
        return min(lists, key=lambda name: lengths[name]) if all(lengths.values()) else self._keys.by_time

    async def _pages(self, source: str, status: TaskStatus | str | None) -> AsyncIterator[list[str]]:
        redis: Any = self.client
        # Those of one status lie together on the list of ended ones.
        first: Any = "-inf"
        last: Any = "+inf"
        if status is not None and source == self._keys.ended:
            first, last = ended_score(status, 0), ended_score(status, ENDED_RANGE - 1)
        at, size = 0, PAGE
        while ids := await redis.zrange(source, last, first, byscore=True, desc=True, offset=at, num=size):
            # A client may put anything on the list: what would be the name of a list is no record.
            yield [task_id for task_id in ids if task_id not in RESERVED_TASK_IDS]
            at, size = at + len(ids), LARGE_PAGE

    async def _fitting(self, ids: list[str], status: TaskStatus | str | None, queue: str | None) -> list[str]:
        """Return those that may fit, by two fields of their records: most do not, and a whole record is dear."""
        async with self.client.pipeline(transaction=False) as pipeline:
            for task_id in ids:
                pipeline.hmget(self._keys.task(task_id), "status", "queue")
            rows = await pipeline.execute(raise_on_error=False)
        any_status = status is None or status in _ODD
        return [
            task_id
            for task_id, row in zip(ids, rows, strict=True)
            if isinstance(row, Exception)
            or ((any_status or row[0] == status) and (queue is None or (row[1] or DEFAULT_QUEUE) == queue))
        ]


def _fits(task: TaskResult, status: TaskStatus | str | None, queue: str | None) -> bool:
    # 0.1 clients write no queue, and know one only.
    return (status is None or _has(task, status)) and (queue is None or (task.queue or DEFAULT_QUEUE) == queue)


def read_record(task_id: str, row: Any) -> TaskResult | None:
    """Return the record that Redis answered, if any; what is no hash stands for itself, and hides no other."""
    if isinstance(row, ResponseError) and str(row).startswith("WRONGTYPE"):
        return TaskResult(task_id=task_id, status=TaskStatus.UNREADABLE, unreadable="the record is no hash in Redis")
    if isinstance(row, Exception):
        raise row
    return decode(row, task_id) if row else None


def _has(task: TaskResult, status: TaskStatus | str) -> bool:
    return bool(task.unreadable) if status == TaskStatus.UNREADABLE else task.status == status
