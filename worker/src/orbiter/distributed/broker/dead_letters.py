"""DeadLetters: what could not be run, or failed for good, kept with its reason until a person decides."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orbiter.distributed.broker.calls import cluster, core, run
from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.connection.connected import Connected
from orbiter.distributed.connection.redis_url import check
from orbiter.distributed.errors import OrbiterError
from orbiter.distributed.models import DEFAULT_QUEUE, InvalidPayloadError, TaskPayload, TaskStatus
from orbiter.distributed.names import DEFAULT_NAMESPACE, check_queue_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from redis.asyncio import Redis

# Payloads may be large: few a round trip.
PAGE = 100
_ENTRY_ID = re.compile(r"\d{1,20}-\d{1,20}")


class DeadLetterError(OrbiterError):
    """A task cannot be run again; the message names the task and the reason."""


class UnknownTaskError(DeadLetterError):
    """Nothing is known of the task that is to run again."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter.

    Attributes:
        entry_id: Its name on the stream ``{queue}:dead``.
        task_id: The task, empty where the entry named none.
        reason: Why it is here: the task's last error, or what is wrong with the entry.
        error_type: Class name of the error.
        payload: The task as it was submitted, or what was in its place.
        dead_since: When it became one, epoch seconds.
        truncated: Whether only the beginning of the payload was kept.
        other: The entry's other fields.
    """

    entry_id: str
    task_id: str
    reason: str
    error_type: str
    payload: str
    dead_since: float
    truncated: bool = False
    other: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, entry_id: str, fields: Mapping[str, str]) -> DeadLetter:
        """Read an entry of the stream."""
        known = {name: fields.get(name, "") for name in ("task_id", "reason", "error_type", "payload")}
        return cls(
            entry_id=entry_id,
            dead_since=int(entry_id.partition("-")[0]) / 1000,
            truncated=fields.get("truncated", "0") not in {"", "0"},
            other={name: text for name, text in fields.items() if name not in {*known, "truncated"}},
            **known,
        )

    def task(self) -> TaskPayload:
        """Return the task.

        Raises:
            DeadLetterError: The payload was cut or is no task.
        """
        if self.truncated:
            raise DeadLetterError(
                f"Dead letter {self.entry_id} cannot be retried: only a part of its payload was kept;"
                " submit the task anew"
            )
        if not self.payload:
            raise DeadLetterError(
                f"Dead letter {self.entry_id} cannot be retried: its payload is lost; submit the task anew"
            )
        try:
            return TaskPayload.from_json(self.payload)
        except InvalidPayloadError as error:
            raise DeadLetterError(
                f"Dead letter {self.entry_id} cannot be retried: its payload is no task: {error}"
            ) from None


class DeadLetters(Connected):
    """The dead letters of one queue.

    Args:
        redis_url: Where Redis is.
        queue_name: The queue.
        namespace: The first word of all keys.
        client: A client to share; without one, :meth:`connect` makes one of its own.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        queue_name: str = DEFAULT_QUEUE,
        namespace: str = DEFAULT_NAMESPACE,
        client: Redis | None = None,
    ) -> None:
        super().__init__(redis_url, client=client)
        self._keys = Keys(namespace).of_queue(queue_name)
        self.queue_name = self._keys.stream
        self.key = self._keys.dead

    async def count(self) -> int:
        """Return how many there are."""
        return int(await self.client.xlen(self.key))

    async def newest(self, limit: int | None = None, *, after: str = "") -> AsyncIterator[DeadLetter]:
        """Yield up to ``limit`` dead letters (all without one), the newest first, from behind that entry id on."""
        end, left = f"({after}" if after else "+", limit
        while left is None or left > 0:
            rows: Any = await self.client.xrevrange(self.key, max=end, count=PAGE if left is None else min(PAGE, left))
            for entry_id, fields in rows:
                yield DeadLetter.of(entry_id, fields)
                end = f"({entry_id}"
            if not rows:
                return
            left = None if left is None else left - len(rows)

    async def find(self, name: str) -> DeadLetter | None:
        """Return a dead letter by its entry id, or the newest one of a task by the task's id."""
        letter = await self.at(name)
        if letter is not None:
            return letter
        async for letter in self.newest():
            if letter.task_id == name:
                return letter
        return None

    async def task_ids(self) -> AsyncIterator[str]:
        """Yield the id of each dead letter's task, where it names one, the newest first."""
        async for letter in self.newest():
            if letter.task_id:
                yield letter.task_id

    async def entries(self, task_ids: Collection[str]) -> dict[str, str]:
        """Return the entry id of the newest dead letter of each of these tasks that has one."""
        found: dict[str, str] = {}
        async for letter in self.newest():
            if letter.task_id in task_ids:
                found.setdefault(letter.task_id, letter.entry_id)
                if len(found) == len(task_ids):
                    break
        return found

    async def at(self, entry_id: str) -> DeadLetter | None:
        """Return a dead letter by its entry id alone."""
        rows: Any = None
        if _ENTRY_ID.fullmatch(entry_id):
            rows = await self.client.xrange(self.key, min=entry_id, max=entry_id)
        return DeadLetter.of(*rows[0]) if rows else None

    async def get(self, entry_id: str) -> DeadLetter:
        """Return a dead letter by its entry id alone.

        Raises:
            DeadLetterError: There is none.
        """
        letter = await self.at(entry_id)
        if letter is None:
            raise DeadLetterError(f"Dead letter not found on queue {self.queue_name}: {entry_id}")
        return letter

    async def drop(self, entry_ids: Sequence[str]) -> int:
        """Delete dead letters for good; return how many there were."""
        return int(await self.client.xdel(self.key, *entry_ids)) if entry_ids else 0

    async def drop_all(self) -> int:
        """Delete every dead letter that is there now; return how many there were."""
        newest = [letter async for letter in self.newest(1)]
        if not newest:
            return 0
        # What comes in meanwhile stays: nobody has seen it.
        milliseconds, _, number = newest[0].entry_id.partition("-")
        return int(await self.client.xtrim(self.key, minid=f"{milliseconds}-{int(number) + 1}", approximate=False))

    async def retry(self, letter: DeadLetter) -> str:
        """Put a dead letter's task on the queue again, with all its retries before it; return the task's id.

        Raises:
            DeadLetterError: The payload is no task, the task is not at its end, or somebody was faster.
            InvalidNameError: No worker can read a queue of this name.
        """
        return await self._resubmit(letter.task(), letter=letter.entry_id)

    async def retry_task(self, task_id: str, *, entry_id: str | None = None) -> str:
        """Put a task that failed or was cancelled on the queue again, with all its retries before it; return its id.

        Args:
            task_id: The task.
            entry_id: Its dead letter, empty where it has none; it is looked for without.

        Raises:
            UnknownTaskError: There is no record of the task, and no dead letter.
            DeadLetterError: The task is not at its end, has completed, or its payload is gone.
        """
        known: Any = await self.client.hget(self._keys.task(task_id), "status")
        if known is not None and known not in {TaskStatus.FAILED, TaskStatus.CANCELLED}:
            raise _refusal(task_id, known)
        letter = await (self.find(task_id) if entry_id is None else self.at(entry_id))
        if letter is not None and letter.task_id == task_id:
            return await self.retry(letter)
        if known is None:
            raise UnknownTaskError(f"Task not found: {task_id}")
        waiting = await self._waiting_entry(task_id) if known == TaskStatus.CANCELLED else None
        if waiting is None:
            raise DeadLetterError(
                f"Task {task_id} is {known} and its payload is gone from queue {self.queue_name}; submit it again"
            )
        return await self._resubmit(waiting[1], waiting=waiting[0])

    async def _waiting_entry(self, task_id: str) -> tuple[str, TaskPayload] | None:
        """Return the entry that a task cancelled while waiting has left on the queue, until a worker comes to it."""
        start = "-"
        while True:
            rows: Any = await self.client.xrange(self.queue_name, min=start, count=PAGE)
            if not rows:
                return None
            for entry_id, fields in rows:
                start = f"({entry_id}"
                try:
                    task = TaskPayload.from_fields(fields)
                except InvalidPayloadError:
                    continue
                if task.task_id == task_id:
                    return entry_id, task

    async def _resubmit(self, task: TaskPayload, *, letter: str = "", waiting: str = "") -> str:
        check_queue_name(self.queue_name, self._keys.namespace)
        task_id = task.task_id
        if check(self.redis_url).kind == "cluster":
            result = await self._resubmit_in_steps(task, letter=letter, waiting=waiting)
        else:
            result = await run(self.client, core.resubmit(self._keys, task, letter=letter, waiting=waiting))
        if result == "gone":
            raise DeadLetterError(
                f"Task {task_id} cannot be retried: somebody else has just retried or dropped it."
                f" Look at it: orbiter task status {task_id}"
            )
        if result != "pending":
            raise _refusal(task_id, result.removeprefix("not "))
        return task_id

    async def _resubmit_in_steps(self, task: TaskPayload, *, letter: str, waiting: str) -> str:
        """Do what ``core/resubmit.lua`` does where the keys are in different slots: the record first."""
        record = self._keys.task(task.task_id)
        result = await run(self.client, cluster.resubmit(self._keys, task, source=letter or waiting))
        if result != "pending":
            return result
        await self.client.delete(self._keys.event_stream(task.task_id))
        await self.client.sadd(self._keys.index, task.task_id)
        await self.client.zadd(self._keys.by_time, {task.task_id: task.created_at * 1000}, nx=True)
        entry: str | None = waiting
        if letter:
            entry = await run(self.client, cluster.requeue_dead_letter(self._keys, letter))
        if entry:
            await run(self.client, core.note_entry(self._keys, task.task_id, entry))
        else:
            await self.client.hset(record, "status", TaskStatus.FAILED)
            result = "gone"
        await self.client.hdel(record, "resubmitting")
        return result


def _refusal(task_id: str, status: str) -> DeadLetterError:
    return DeadLetterError(f"Task {task_id} is {status}: only a failed or cancelled task can be retried")
