"""Housekeeping: the steps in Redis by which workers keep a queue and its records in order, one method a step.

The sweeper and the reconciler decide what is to be done; nothing here keeps a state.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orbiter.distributed.broker.calls import core
from orbiter.distributed.broker.queue_info import read_backlog
from orbiter.distributed.broker.records import ENDED_RANGE, EVENT_STATUS, ended_score
from orbiter.distributed.broker.spoilt import readable
from orbiter.distributed.limits import FLEET_TTL, TASK_TTL
from orbiter.distributed.names import RESERVED_TASK_IDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from orbiter.distributed.broker.queue_info import Backlog
    from orbiter.distributed.broker.records import Entry, Listing, Lost, Mended
    from orbiter.distributed.broker.task_broker import TaskBroker

PROGRESS_KEPT = 3600
# Seconds for which a worker of 0.1 is on the list of workers after each sweep.
NOTED_TTL = 120


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer of the group, and its heartbeat.

    Attributes:
        name: Its worker id.
        pending: Entries that it holds.
        idle: Seconds since it last asked for something.
        status: Its heartbeat's ``status``, ``None`` where there is no heartbeat.
        version: Its release, ``None`` where it names none, as 0.1.
        lease: Its lease in seconds, ``None`` where it names none.
    """

    name: str
    pending: int
    idle: float
    status: str | None
    version: str | None
    lease: str | None


class Housekeeping:
    """The steps on one queue.

    Args:
        broker: The queue.
    """

    def __init__(self, broker: TaskBroker) -> None:
        self._broker = broker
        self._keys = broker.keys
        self.queue_name = broker.queue_name
        self.event_ttl = broker.event_ttl
        self._sweeping, self._reconciling, self._progress, self._missing = (
            self._keys.beside(name) for name in ("sweep", "reconciling", "reconcile", "missing")
        )

    async def now(self) -> float:
        """Return the time by Redis' clock, epoch seconds."""
        return await self._broker.now()

    async def tasks_by_time(self, score: str, until: int, *, skip: int, count: int) -> list[tuple[str, float]]:
        """Return a page of all tasks in the order of time.

        Args:
            score: The time with which the page begins, milliseconds or ``-inf``.
            until: The time with which it ends at the latest, milliseconds.
            skip: How many from ``score`` on are left out.
            count: How many are returned at most.

        Returns:
            Task ids with their times, milliseconds.
        """
        rows: Any = await self._broker.within(
            self._broker.client.zrangebyscore(self._keys.by_time, score, until, start=skip, num=count, withscores=True)
        )
        return [(task_id, at) for task_id, at in rows]

    async def records(self, task_ids: Sequence[str], names: Sequence[str]) -> list[list[str | None]]:
        """Return the fields ``names`` of each task's record; all ``None`` where there is none."""
        # A client may put anything on the lists of tasks: what would be the name of a list is no record.
        real = [task_id for task_id in task_ids if task_id not in RESERVED_TASK_IDS]
        nothing: list[str | None] = [None] * len(names)
        async with self._broker.client.pipeline(transaction=False) as pipeline:
            for task_id in real:
                pipeline.hmget(self._keys.task(task_id), *names)
            rows = await self._broker.within(pipeline.execute(raise_on_error=False))
        found = dict(zip(real, readable(rows, nothing), strict=True))
        return [found.get(task_id, nothing) for task_id in task_ids]

    # -- mending ---------------------------------------------------------------------------------------------------

    async def mend(self) -> list[Mended]:
        """Put keys away that are of another type than they should be; return them."""
        return await self._broker.mend()

    async def renew_stream(self) -> bool:
        """Make the queue a new stream where the old one can take no more; tell whether that happened."""
        return await self._broker.renew_stream()

    async def keep_delayed(self, task_id: str, due: float) -> bool:
        """Give a delayed task that has lost its place a place again, due then (epoch seconds); tell if it was kept."""
        return await self._broker.keep_delayed(task_id, due)

    # -- sweeping --------------------------------------------------------------------------------------------------

    async def acquire_sweep(self, worker_id: str, seconds: float) -> bool:
        """Become the one who sweeps for so long; return ``False`` while another worker is."""
        milliseconds = max(1, int(seconds * 1000))
        return await self._broker.run(core.take_turn(self._sweeping, worker_id, milliseconds))

    async def release_sweep(self) -> None:
        """Let another worker sweep."""
        await self._broker.within(self._broker.client.delete(self._sweeping))

    async def backlog(self) -> Backlog:
        """Return what there is to do on the queue."""
        return await self._broker.within(read_backlog(self._broker.client, self._keys))

    async def consumers(self) -> list[Consumer]:
        """Return the group's consumers."""
        broker = self._broker
        consumers: Any = await broker.within(broker.client.xinfo_consumers(broker.queue_name, broker.group))
        async with broker.client.pipeline(transaction=False) as pipeline:
            for consumer in consumers:
                pipeline.hmget(self._keys.worker(consumer["name"]), "status", "version", "heartbeat_ttl")
            beats = await broker.within(pipeline.execute())
        return [
            Consumer(consumer["name"], consumer["pending"], consumer["idle"] / 1000, *beat)
            for consumer, beat in zip(consumers, beats, strict=True)
        ]

    async def reclaim(self, consumer: str, count: int, leases: Mapping[str, float]) -> list[Entry]:
        """Claim up to ``count`` entries whose owners have not renewed them for their leases.

        Args:
            consumer: The worker that gets them.
            count: How many at most.
            leases: The owners' leases, seconds.
        """
        return await self._broker.run(core.reclaim(self._broker.keys, consumer, count, leases))

    async def tidy(self, gone: Iterable[str], *, dead_letters_ttl: float) -> None:
        """Remove consumers that are gone, what 0.1 workers acknowledged, and outdated dead letters."""
        await self._broker.run(core.tidy(self._broker.keys, gone, dead_letters_ttl=dead_letters_ttl))

    async def forget_workers(self, before: float) -> None:
        """Take workers off the list of all that have not beaten since then, epoch seconds."""
        await self._broker.within(self._broker.client.zremrangebyscore(self._keys.fleet, "-inf", int(before * 1000)))

    async def note_workers(self, worker_ids: Iterable[str]) -> None:
        """List workers that live and do not list themselves, as those of 0.1, for a short time: they take no leave."""
        beat = int((await self.now() - FLEET_TTL + NOTED_TTL) * 1000)
        if beats := dict.fromkeys(worker_ids, beat):
            await self._broker.within(self._broker.client.zadd(self._keys.fleet, beats))

    async def listing(self, name: Listing, *, skip: int, count: int) -> list[str]:
        """Return a page of a list of tasks, the oldest first: of the queue's own, or of ended ones by status."""
        redis: Any = self._broker.client
        found: list[str] = await self._broker.within(redis.zrange(self._listing(name), skip, skip + count - 1))
        return found

    async def unlist(self, name: Listing, gone: Collection[str]) -> None:
        """Take the tasks ``gone`` off such a list."""
        if gone:
            await self._broker.within(self._broker.client.zrem(self._listing(name), *gone))

    def _listing(self, name: Listing) -> str:
        return self._broker.keys.tasks if name == "tasks" else self._keys.ended

    async def list_again(self, created: Mapping[str, float], ended: Mapping[str, Mapping[str, float]]) -> None:
        """List tasks where they are not listed: of this queue, and by status; each with its time, milliseconds."""
        async with self._broker.client.pipeline(transaction=False) as pipeline:
            if created:
                pipeline.zadd(self._broker.keys.tasks, dict(created), nx=True)
            for status, rows in ended.items():
                scores = {task_id: ended_score(status, at) for task_id, at in rows.items()}
                pipeline.zadd(self._keys.ended, scores)
            # A Redis that is full, or the rights of an earlier release: only listings need these.
            await self._broker.within(pipeline.execute(raise_on_error=False))

    async def mend_times(self, now: float) -> None:
        """Take tasks off the lists by time that have an impossible place there: before 1970, or a day or more ahead.

        Those that are known get their places anew, as tasks of 0.1 clients do.

        Args:
            now: Epoch seconds, by Redis' clock.
        """
        redis, latest = self._broker.client, int((now + 86_400) * 1000)
        async with redis.pipeline(transaction=False) as pipeline:
            pipeline.zremrangebyscore(self._keys.by_time, "-inf", "(0")
            pipeline.zremrangebyscore(self._keys.by_time, f"({latest}", "+inf")
            pipeline.zremrangebyscore(self._keys.ended, "-inf", "(0")
            *ranges, last = [ended_score(status, 0) for status in EVENT_STATUS]
            for first in ranges:
                pipeline.zremrangebyscore(self._keys.ended, f"({first + latest}", f"({first + ENDED_RANGE}")
            pipeline.zremrangebyscore(self._keys.ended, f"({last + latest}", "+inf")
            await self._broker.within(pipeline.execute())

    async def prune(self, gone: Iterable[str], waiting: Iterable[str]) -> None:
        """Take the tasks ``gone`` off the lists, and keep the records of those ``waiting``."""
        async with self._broker.client.pipeline(transaction=False) as pipeline:
            for task_id in gone:
                pipeline.zrem(self._keys.by_time, task_id)
                pipeline.srem(self._keys.index, task_id)
            for task_id in waiting:
                pipeline.expire(self._keys.task(task_id), TASK_TTL, gt=True)
            await self._broker.within(pipeline.execute())

    async def listed(self) -> tuple[int, int]:
        """Return how many tasks are known, and how many of them have a place in the order of time."""
        async with self._broker.client.pipeline(transaction=False) as pipeline:
            pipeline.scard(self._keys.index)
            pipeline.zcard(self._keys.by_time)
            known, ordered = await self._broker.within(pipeline.execute())
        return known, ordered

    async def unordered(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """Look at about ``count`` known tasks; return where to go on, and those that have no place in time."""
        redis = self._broker.client
        scanned: Any = await self._broker.within(redis.sscan(self._keys.index, cursor, count=count))
        cursor, ids = scanned
        scores: Any = await self._broker.within(redis.zmscore(self._keys.by_time, ids)) if ids else []
        return cursor, [task_id for task_id, score in zip(ids, scores, strict=True) if score is None]

    async def adopt(self, moments: Mapping[str, float], gone: Iterable[str]) -> None:
        """Give tasks their places in the order of time (epoch seconds), and forget those ``gone``."""
        async with self._broker.client.pipeline(transaction=False) as pipeline:
            for task_id in gone:
                pipeline.srem(self._keys.index, task_id)
            for task_id, moment in moments.items():
                pipeline.zadd(self._keys.by_time, {task_id: int(moment * 1000)}, nx=True)
            await self._broker.within(pipeline.execute())

    # -- reconciling -----------------------------------------------------------------------------------------------

    async def begin_round(self, milliseconds: int) -> bool:
        """Become the one who reconciles for so long; return ``False`` while another worker is."""
        return await self._broker.run(core.take_turn(self._reconciling, "1", milliseconds))

    async def progress(self) -> tuple[dict[str, str], dict[str, Any]]:
        """Return how far the rounds have come, and what was noted of tasks that are missing, by id."""
        stored: Any = await self._broker.within(self._broker.client.hgetall(self._progress))
        missing: Any = await self._broker.within(self._broker.client.hgetall(self._missing))
        return stored, {task_id: _json(text) for task_id, text in missing.items()}

    async def save_progress(self, fields: Mapping[str, str], missing: Mapping[str, Any], gone: Collection[str]) -> None:
        """Keep how far the rounds have come, and notes of missing tasks; drop the notes of those ``gone``."""
        values: Any = dict(fields)
        rows: Any = {task_id: json.dumps(row) for task_id, row in missing.items()}
        async with self._broker.client.pipeline(transaction=False) as pipeline:
            pipeline.hset(self._progress, mapping=values)
            pipeline.expire(self._progress, PROGRESS_KEPT)
            if gone:
                pipeline.hdel(self._missing, *gone)
            if rows:
                pipeline.hset(self._missing, mapping=rows)
                pipeline.expire(self._missing, PROGRESS_KEPT)
            await self._broker.within(pipeline.execute())

    async def relist(self, place: str) -> str:
        """List again some records that are on no list; return where to go on."""
        return await self._broker.relist(place)

    async def held(self, tasks: Iterable[tuple[str, tuple[str, str]]], *, max_bytes: int) -> Sequence[int]:
        """Tell of tasks whether the queue holds them.

        Args:
            tasks: Ids, each with two ids of entries that may be its, ``""`` where unknown.
            max_bytes: How much of the entries is read at most.

        Returns:
            1 or 0 for each task; for fewer of them where that much was read.
        """
        return await self._broker.run(core.held(self._broker.keys, tasks, max_bytes=max_bytes))

    async def walk(self, after: str, *, count: int, max_bytes: int) -> tuple[str, list[tuple[str, str]]]:
        """Tell which tasks the next entries of the queue are.

        Args:
            after: Id of the entry before the first one.
            count: How many entries are read at most.
            max_bytes: How much of them is read at most.

        Returns:
            The id of the last entry, ``""`` where there are no more; and (entry id, task id) of each that names a task.
        """
        return await self._broker.run(core.walk(self._broker.keys, after, count=count, max_bytes=max_bytes))

    async def note_entry(self, task_id: str, entry_id: str) -> None:
        """Note in a task's record which entry stands for it."""
        await self._broker.run(core.note_entry(self._keys, task_id, entry_id))

    async def end_lost(self, lost: Lost) -> str:
        """End a task that the queue does not hold any more; return the status that stands, or an empty text."""
        return await self._broker.end_lost(lost)

    async def last_events(self, task_ids: Sequence[str]) -> list[dict[str, str] | None]:
        """Return the last entry of each task's events, ``None`` where there is none."""
        async with self._broker.client.pipeline(transaction=False) as pipeline:
            for task_id in task_ids:
                pipeline.xrevrange(self._keys.event_stream(task_id), count=1)
            rows = await self._broker.within(pipeline.execute(raise_on_error=False))
        return [last[0][1] if last else None for last in readable(rows, [])]

    async def end_events(self, task_id: str, status: str, error: str) -> None:
        """End the events of a task that has ended, unless they have."""
        await self._broker.end_events(task_id, status, error)


def _json(text: str) -> Any:
    """Read a note of a missing task; of one that is spoilt nothing is known."""
    try:
        return json.loads(text)
    except ValueError:
        return None
