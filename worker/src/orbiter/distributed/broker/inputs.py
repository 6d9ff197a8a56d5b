"""What tasks that have not ended were asked, read where the queue keeps it: for listings, in bounded work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.exceptions import NoPermissionError

from orbiter.distributed.models import DEFAULT_QUEUE, InvalidPayloadError, TaskPayload
from orbiter.distributed.names import InvalidNameError, check_queue_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redis.asyncio import Redis

    from orbiter.distributed.broker.keys import Keys, QueueKeys
    from orbiter.distributed.models import TaskResult

_AT_ONCE = 20
# A payload may be a megabyte, of which a listing shows some words.
_BYTES = 4_000_000


async def read_inputs(client: Redis, keys: Keys, tasks: Sequence[TaskResult]) -> dict[str, str]:
    """Return the inputs of tasks that wait, are delayed or run, by task id.

    Inputs of ended tasks are not kept. What is not found is left out, and so is the rest once 4 MB have been read or
    the user of this client has been refused.
    """
    places = [(task.task_id, queue) for task, queue in _waiting(keys, tasks)]
    found: dict[str, str] = {}
    left = _BYTES
    for at in range(0, len(places), _AT_ONCE):
        texts, refused = await _texts(client, keys, places[at : at + _AT_ONCE])
        left -= sum(map(len, texts))
        for text in texts:
            try:
                payload = TaskPayload.from_json(text)
            except InvalidPayloadError:
                continue
            found[payload.task_id] = payload.input
        if refused or left < 0:
            break
    return {task_id: found[task_id] for task_id, _ in places if task_id in found}


def _waiting(keys: Keys, tasks: Sequence[TaskResult]) -> Iterator[tuple[TaskResult, QueueKeys]]:
    for task in tasks:
        if task.completed_at is not None or task.status.terminal:
            continue
        try:
            yield task, keys.of_queue(check_queue_name(task.queue or DEFAULT_QUEUE, keys.namespace))
        except InvalidNameError:
            continue


async def _texts(client: Redis, keys: Keys, places: Sequence[tuple[str, QueueKeys]]) -> tuple[list[str], bool]:
    """Return payloads as they stand on queues and among delayed tasks, and whether reading was refused."""
    async with client.pipeline(transaction=False) as pipeline:
        for task_id, _ in places:
            pipeline.hmget(keys.task(task_id), "entry", "fence")
        rows: list[Any] = await pipeline.execute(raise_on_error=False)
        asked = 0
        for (task_id, queue), row in zip(places, rows, strict=True):
            entry, fence = row if isinstance(row, list) else (None, None)
            for place in dict.fromkeys(((fence or "").partition(" ")[0], entry or "")):
                if place:
                    pipeline.xrange(queue.stream, place, place)
                    asked += 1
            pipeline.hget(queue.parked, task_id)
            asked += 1
        answers: list[Any] = await pipeline.execute(raise_on_error=False) if asked else []
    texts = [answer for answer in answers if isinstance(answer, str)]
    texts += [
        fields["payload"]
        for answer in answers
        if isinstance(answer, list)
        for _, fields in answer
        if fields and "payload" in fields
    ]
    return texts, any(isinstance(answer, NoPermissionError) for answer in answers)
