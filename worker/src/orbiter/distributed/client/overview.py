"""Overview: what a person wants to see of a fleet, each in bounded work: workers, queues, tasks, failures, alerts."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from orbiter.distributed.alerts.evaluation import read_queue
from orbiter.distributed.alerts.rules import judge
from orbiter.distributed.broker.audit import Action, Audit
from orbiter.distributed.broker.dead_letters import DeadLetter, DeadLetterError, DeadLetters
from orbiter.distributed.broker.deploys import Deploy, Deploys
from orbiter.distributed.broker.inputs import read_inputs
from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.broker.queue_info import QueueInfo, get_queue_info
from orbiter.distributed.broker.rates import Period, Rates, together
from orbiter.distributed.broker.records import CancelOutcome, Command
from orbiter.distributed.broker.task_pages import CursorError, FailureGroup, Failures, TaskFilter, TaskPage, TaskPages
from orbiter.distributed.broker.usage import DayOfUsage, UsageOfQueue
from orbiter.distributed.broker.worker_health import WorkerHealth, get_worker_fleet_status
from orbiter.distributed.connection.connected import redis_time
from orbiter.distributed.models import DEFAULT_QUEUE, InvalidPayloadError, TaskPayload, TaskResult, event_from_json
from orbiter.distributed.names import InvalidNameError, check_queue_name, check_task_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orbiter.distributed.alerts.rules import Alert
    from orbiter.distributed.client.client import Client
    from orbiter.distributed.models import Event

__all__ = [
    "Action",
    "CancelOutcome",
    "Command",
    "CursorError",
    "DayOfUsage",
    "DeadLetter",
    "DeadLetterError",
    "Deploy",
    "FailureGroup",
    "Failures",
    "Overview",
    "Period",
    "QueueInfo",
    "TaskFilter",
    "TaskPage",
    "TaskView",
    "WorkerHealth",
    "together",
]

# Events of a task that are read for its timeline, from its beginning and from its end.
EVENTS = 500
# Bytes of them, likewise: what is more is not read.
_EVENTS_BYTES = 4_000_000
_EVENTS_READ = 25
# A dead letter is written as its task's record is: so many milliseconds apart at most. So many are read at once.
_LETTER_WITHIN = 10_000
_LETTERS = 20


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task with what is still known of it.

    Attributes:
        task: Its record.
        payload: The task as it was submitted; ``None`` where the queue no longer has it.
        letter: Its dead letter, where it has one.
        events: The first of its events.
        last: The last of them, where there are more.
    """

    task: TaskResult
    payload: TaskPayload | None
    letter: DeadLetter | None
    events: list[Event]
    last: list[Event]


class Overview:
    """Reads a fleet for people.

    Args:
        client: The client that asks.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._keys = Keys(client.namespace)
        self._pages = TaskPages(client.redis_url, namespace=client.namespace, client=client.redis)
        self._audit = Audit(client.redis_url, namespace=client.namespace, client=client.redis)
        self._deploys = Deploys(client.redis_url, namespace=client.namespace, client=client.redis)
        self._usage = UsageOfQueue(client.redis_url, namespace=client.namespace, client=client.redis)
        self._rates = Rates(client.redis_url, namespace=client.namespace, client=client.redis)

    @property
    def namespace(self) -> str:
        """The first word of all keys."""
        return self._client.namespace

    @property
    def queue(self) -> str:
        """The queue of the client."""
        return self._client.queue

    async def now(self) -> float:
        """Return Redis' clock, epoch seconds."""
        return await redis_time(self._client.redis)

    async def workers(self) -> list[WorkerHealth]:
        """Return every worker heard of during the last day, ordered by host, instance and id.

        A fleet of 0.1 alone has no list of its workers: to find these would be to look through all keys.
        """
        return await get_worker_fleet_status(
            self._client.redis_url, namespace=self.namespace, client=self._client.redis, unlisted=False
        )

    async def queue_info(self, queue: str = "") -> QueueInfo:
        """Return what a queue looks like now.

        Raises:
            InvalidNameError: No queue can have this name.
        """
        client = self._client
        return await get_queue_info(
            client.redis_url, queue or self.queue, namespace=self.namespace, client=client.redis, unlisted=False
        )

    async def rates(self, queue: str = "", *, minutes: int = 60) -> tuple[list[Period], float]:
        """Return what workers of a queue counted in each of the last minutes, the oldest first, and Redis' clock.

        Raises:
            InvalidNameError: No queue can have this name.
        """
        name, now = check_queue_name(queue or self.queue, self.namespace), await self.now()
        return await self._rates.last(name, minutes, now=now), now

    async def usage(self, queue: str = "", *, days: int = 7) -> list[DayOfUsage]:
        """Return what a queue's tasks used of models on each of the last days (UTC), the newest first.

        Raises:
            InvalidNameError: No queue can have this name.
        """
        name = check_queue_name(queue or self.queue, self.namespace)
        return await self._usage.last(name, days, now=await self.now())

    async def deploys(self, limit: int = 10) -> list[Deploy]:
        """Return the last runs of playbooks that changed the fleet, the newest first."""
        return await self._deploys.newest(limit)

    async def alerts(self, queue: str = "") -> list[Alert]:
        """Judge a queue by all rules.

        Raises:
            InvalidNameError: No queue can have this name.
        """
        reading = await read_queue(
            self._client.redis_url, queue or self.queue, namespace=self.namespace, client=self._client.redis
        )
        return judge(reading)

    async def tasks(self, sought: TaskFilter, *, after: str = "", limit: int = 50) -> TaskPage:
        """Return a page of tasks; arguments and errors are those of :meth:`TaskPages.page`."""
        return await self._pages.page(sought, after=after, limit=limit)

    async def inputs(self, tasks: Sequence[TaskResult]) -> dict[str, str]:
        """Return what tasks that have not ended were asked, by task id, as far as 4 MB of payloads tell."""
        return await read_inputs(self._client.redis, self._keys, tasks)

    async def failures(self, *, queue: str = "") -> Failures:
        """Group the last failed tasks by agent and kind of error."""
        return await self._pages.failures(queue=queue)

    async def task(self, task_id: str, *, payload: bool = True) -> TaskView | None:
        """Return one task with its payload and events, ``None`` where it is unknown or has expired.

        Args:
            task_id: The task.
            payload: Whether to look for its payload and its dead letter.

        Raises:
            InvalidNameError: No task can have this id.
        """
        task = await self._client.status(check_task_id(task_id))
        if task is None:
            return None
        events, last = await asyncio.gather(self._events(task_id), self._events(task_id, newest=True))
        submitted, letter = await self._payload(task) if payload else (None, None)
        seen = {event.entry_id for event in events}
        return TaskView(task, submitted, letter, events, [event for event in last if event.entry_id not in seen])

    async def dead_letters(self, *, queue: str = "", limit: int = 50, after: str = "") -> tuple[list[DeadLetter], int]:
        """Return dead letters of a queue, the newest first, and how many there are.

        Args:
            queue: The queue; the client's without it.
            limit: How many.
            after: The entry id of the last one of the page before.

        Raises:
            InvalidNameError: No queue can have this name.
        """
        letters = self.letters(queue)
        page = [letter async for letter in letters.newest(limit, after=after)]
        return page, await letters.count()

    async def actions(self, limit: int = 100) -> list[Action]:
        """Return what people did by the dashboard, the newest first."""
        return await self._audit.newest(limit)

    def letters(self, queue: str = "") -> DeadLetters:
        """Return the dead letters of a queue.

        Raises:
            InvalidNameError: No queue can have this name.
        """
        name = check_queue_name(queue or self.queue, self.namespace)
        client = self._client
        return DeadLetters(client.redis_url, queue_name=name, namespace=self.namespace, client=client.redis)

    async def _payload(self, task: TaskResult) -> tuple[TaskPayload | None, DeadLetter | None]:
        """Look for a task's payload where it may be: on the queue, among the delayed ones, in a dead letter."""
        redis: Any = self._client.redis
        try:
            keys = self._keys.of_queue(check_queue_name(task.queue or DEFAULT_QUEUE, self.namespace))
            entry, fence = await redis.hmget(keys.task(task.task_id), "entry", "fence")
        except (InvalidNameError, ResponseError):
            return None, None
        if task.completed_at is not None:
            with suppress(ResponseError):
                letter = await self._letter(keys.dead, task.task_id, int(task.completed_at * 1000))
                if letter is not None:
                    return _task(letter.payload), letter
        for place in dict.fromkeys(((fence or "").partition(" ")[0], entry or "")):
            with suppress(ResponseError):
                rows = await redis.xrange(keys.stream, place, place) if place else ()
                if rows and (found := _task(rows[0][1].get("payload", ""), task.task_id)):
                    return found, None
        with suppress(ResponseError):
            return _task(await redis.hget(keys.parked, task.task_id) or "", task.task_id), None
        return None, None

    async def _letter(self, stream: str, task_id: str, ended: int) -> DeadLetter | None:
        """Look for a task's dead letter from its end on, and back from there."""
        redis: Any = self._client.redis
        places = {True: str(ended), False: str(max(0, ended - 1))}
        while places:
            for onwards, place in list(places.items()):
                if onwards:
                    rows = await redis.xrange(stream, place, ended + _LETTER_WITHIN, count=_LETTERS)
                else:
                    rows = await redis.xrevrange(stream, place, max(0, ended - _LETTER_WITHIN), count=_LETTERS)
                for entry_id, fields in rows:
                    if fields.get("task_id") == task_id:
                        return DeadLetter.of(entry_id, fields)
                if len(rows) < _LETTERS:
                    del places[onwards]
                else:
                    places[onwards] = f"({rows[-1][0]}"
        return None

    async def _event_rows(self, stream: str, *, newest: bool) -> list[Any]:
        """Return the first entries of a stream, or the last ones, the newest first: no more than a page can show."""
        redis: Any = self._client.redis
        rows: list[Any] = []
        place, left = "+" if newest else "-", _EVENTS_BYTES
        while len(rows) < EVENTS:
            found = await (
                redis.xrevrange(stream, max=place, count=_EVENTS_READ)
                if newest
                else redis.xrange(stream, min=place, count=_EVENTS_READ)
            )
            for row in found:
                left -= sum(map(len, row[1].values()))
                if left < 0 and rows:
                    return rows
                rows.append(row)
            if len(found) < _EVENTS_READ:
                break
            place = f"({found[-1][0]}"
        return rows

    async def _events(self, task_id: str, *, newest: bool = False) -> list[Event]:
        try:
            rows = await self._event_rows(self._keys.event_stream(task_id), newest=newest)
        except ResponseError:
            return []
        events = []
        for entry_id, fields in reversed(rows) if newest else rows:
            # What a later release says is not known here; the rest is.
            with suppress(KeyError, ValueError):
                event = event_from_json(fields["event"])
                event.entry_id = entry_id
                events.append(event)
        return events


def _task(text: str, task_id: str = "") -> TaskPayload | None:
    try:
        task = TaskPayload.from_json(text)
    except InvalidPayloadError:
        return None
    return task if not task_id or task.task_id == task_id else None
