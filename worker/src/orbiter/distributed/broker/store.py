"""TaskStore: what is known of tasks. Reads the task hashes and the index; all writing is the broker's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.connection.connected import Connected
from orbiter.distributed.models import TaskResult, TaskStatus
from orbiter.distributed.names import DEFAULT_NAMESPACE, check_task_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from redis.asyncio import Redis


PAGE = 200


def decode(fields: Mapping[str, str]) -> TaskResult:
    """Decode a task hash, ours or 0.1's. Empty text counts as absent; a status nobody knows reads as pending."""
    values: dict[str, Any] = {name: text for name, text in fields.items() if text and name in TaskResult.model_fields}
    if values.get("status") not in list(TaskStatus):
        values["status"] = TaskStatus.PENDING
    if "result" in values:
        try:
            result = json.loads(values["result"])
        except ValueError:
            result = values["result"]
        values["result"] = result if isinstance(result, dict) else {"output": result}
    return TaskResult.model_validate(values)


class TaskStore(Connected):
    """Reads tasks.

    Args:
        redis_url: Where Redis is.
        namespace: The first word of all keys.
        client: A client to share; without one, :meth:`connect` makes one of its own.
    """

    def __init__(self, redis_url: str, *, namespace: str = DEFAULT_NAMESPACE, client: Redis | None = None) -> None:
        super().__init__(redis_url, client=client)
        self._keys = Keys(namespace)

    async def get_status(self, task_id: str) -> TaskResult | None:
        """Return one task, or ``None`` where it is unknown or expired.

        Raises:
            InvalidNameError: No task can have this id.
        """
        check_task_id(task_id)
        return (await self.get_many([task_id]))[0]

    async def get_many(self, task_ids: Iterable[str]) -> list[TaskResult | None]:
        """Return tasks in the order of their ids, in one round trip."""
        async with self.client.pipeline(transaction=False) as pipeline:
            for task_id in task_ids:
                pipeline.hgetall(self._keys.task(task_id))
            rows = await pipeline.execute()
        return [decode(fields) if fields else None for fields in rows]

    async def list_tasks(self, status: TaskStatus | str | None = None, limit: int = 100) -> list[TaskResult]:
        """Return up to ``limit`` tasks, the newest first, of one status or of all."""
        found: list[TaskResult] = []
        at = 0
        while len(found) < limit:
            ids: Any = await self.client.zrevrange(self._keys.by_time, at, at + PAGE - 1)
            if not ids:
                break
            at += len(ids)
            found += [
                task
                for task in await self.get_many(ids)
                if task is not None and (status is None or task.status == status)
            ]
        return found[:limit]
