"""Sweeper: takes over what dead workers left, and removes what nobody needs any more; one at a time."""

from __future__ import annotations

import logging
import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from orbiter.distributed import faults, keys, metrics
from orbiter.distributed.broker import entries_of
from orbiter.distributed.lua import TASK_TTL
from orbiter.distributed.queue_info import read_backlog

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orbiter.distributed.broker import TaskBroker
    from orbiter.distributed.claims import Entry

logger = logging.getLogger(__name__)

CONSUMER_KEPT = 60.0
DEAD_LETTERS_KEPT = 7 * 86400.0
FLEET_KEPT = 86400.0
PRUNE_AFTER = 12 * 3600.0
PRUNE_BATCH = 200
PRUNE_BATCHES = 10
ADOPT_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Owner:
    """A consumer of the group.

    Attributes:
        name: Its worker id.
        pending: Entries that it holds.
        idle: Seconds since it last asked for something.
        alive: Whether it has a heartbeat.
        lease: Its own lease in seconds; ``None`` where it says none, infinity for an 0.1 worker that lives.
    """

    name: str
    pending: int
    idle: float
    alive: bool
    lease: float | None


class Sweeper:
    """Sweeps about once every third of a lease, if no other worker does.

    Args:
        broker: The queue.
        worker_id: Who takes over.
        lease: Own lease, seconds; also that of owners who say none.
    """

    def __init__(self, broker: TaskBroker, worker_id: str, *, lease: float) -> None:
        self._broker = broker
        self._worker_id = worker_id
        self._lease = lease
        self._next = 0.0
        self._pruned = "-inf"
        self._seen = 0
        self._adopted = 0

    async def sweep(self, room: int) -> list[Entry]:
        """Claim up to ``room`` entries of workers that stopped renewing; tidy up when there are none left.

        Raises:
            RedisError: Redis could not be reached; the next sweep begins anew.
        """
        if not await self._turn():
            return []
        await self._read()
        owners = await self._owners()
        leases = {owner.name: self._lease if owner.lease is None else owner.lease for owner in owners if owner.pending}
        # What is pending on this worker is the fetcher's to take up: it knows what runs here.
        leases.pop(self._worker_id, None)
        entries = await self._reclaim(room, {name: lease for name, lease in leases.items() if lease < math.inf})
        faults.reach("after sweep")
        if entries:
            metrics.RECLAIMED.add(len(entries), self._broker.queue_name)
            logger.warning("reclaimed %d tasks from workers that stopped renewing", len(entries))
        if len(entries) == room:
            # There may be more than this worker has room for: whoever has some sweeps at once.
            await self._release()
            self._next = 0.0
            return entries
        await self._tidy([owner.name for owner in owners if _gone(owner)])
        for _ in range(PRUNE_BATCHES):
            await self._prune()
            if self._pruned == "-inf":
                break
        await self._adopt()
        return entries

    @property
    def due_in(self) -> float:
        """Seconds until it may be this worker's turn again."""
        return max(0.0, self._next - time.monotonic())

    async def look(self) -> None:
        """Read what waits, if it is this worker's turn: one without room does not sweep, but its queue may be long.

        Raises:
            RedisError: Redis could not be reached.
        """
        if await self._turn():
            await self._read()
            # Who has room sweeps.
            await self._release()

    async def _turn(self) -> bool:
        if time.monotonic() < self._next:
            return False
        interval = self._lease / 3
        self._next = time.monotonic() + interval * random.uniform(0.8, 1)  # noqa: S311 - jitter
        return await self._take(interval * 0.8)

    async def _read(self) -> None:
        """Take readings for the metrics; they count until somebody else has had a turn."""
        queue = self._broker.queue_name
        try:
            backlog = await self._broker.within(read_backlog(self._broker.client, queue))
        except ResponseError as error:
            # A user with fewer rights than docs/redis.md gives: that must not keep anybody from sweeping.
            logger.warning("the queue's depth cannot be read: %s", error)
            return
        valid = self._lease / 2
        metrics.DEPTH.set(backlog.waiting, queue, valid=valid)
        metrics.PENDING.set(backlog.running, queue, valid=valid)
        metrics.DELAYED.set(backlog.delayed, queue, valid=valid)
        metrics.DEAD_LETTERS.set(backlog.dead, queue, valid=valid)
        metrics.OLDEST.set(backlog.oldest_waiting or 0, queue, valid=valid)

    async def _take(self, interval: float) -> bool:
        """Become the one who sweeps for ``interval`` seconds; ``False`` while another worker is."""
        redis = self._broker.client
        milliseconds = max(1, int(interval * 1000))
        return bool(await self._broker.within(redis.set(self._holder, self._worker_id, nx=True, px=milliseconds)))

    async def _release(self) -> None:
        await self._broker.within(self._broker.client.delete(self._holder))

    @property
    def _holder(self) -> str:
        return keys.tagged(self._broker.queue_name, "sweep")

    async def _owners(self) -> list[Owner]:
        """Return the group's consumers.

        The lease that counts is its owner's: a short-lived sweeper must not steal from a worker that beats more slowly.
        One without a heartbeat has missed its own; one with a heartbeat but no version is 0.1, which never renews while
        it lives.
        """
        broker = self._broker
        consumers: Any = await broker.within(broker.client.xinfo_consumers(broker.queue_name, broker.group))
        async with broker.client.pipeline(transaction=False) as pipeline:
            for consumer in consumers:
                pipeline.hmget(keys.worker(consumer["name"]), "status", "version", "heartbeat_ttl")
            beats = await broker.within(pipeline.execute())
        return [
            Owner(
                name=consumer["name"],
                pending=consumer["pending"],
                idle=consumer["idle"] / 1000,
                alive=status is not None,
                lease=math.inf if status and not version else _seconds(lease),
            )
            for consumer, (status, version, lease) in zip(consumers, beats, strict=True)
        ]

    async def _reclaim(self, room: int, leases: Mapping[str, float]) -> list[Entry]:
        broker = self._broker
        args = [part for name, lease in leases.items() for part in (name, int(lease * 1000))]
        return entries_of(
            await broker.call("reclaim", [broker.queue_name], [broker.group, self._worker_id, room, *args])
        )

    async def _tidy(self, gone: list[str]) -> None:
        """Remove consumers that are gone, what 0.1 workers acknowledged, dead letters older than a week, and so on."""
        broker = self._broker
        kept = int(DEAD_LETTERS_KEPT * 1000)
        await broker.call("janitor", [broker.queue_name, broker.dead], [broker.group, kept, *gone])
        before = await self._now() - FLEET_KEPT
        await broker.within(broker.client.zremrangebyscore(keys.FLEET, "-inf", int(before * 1000)))

    async def _prune(self) -> None:
        """Forget some tasks whose records have expired, and keep the records of those that still wait."""
        broker, redis = self._broker, self._broker.client
        until = int((await self._now() - PRUNE_AFTER) * 1000)
        rows: Any = await broker.within(
            redis.zrangebyscore(keys.BY_TIME, self._pruned, until, start=self._seen, num=PRUNE_BATCH, withscores=True)
        )
        async with redis.pipeline(transaction=False) as pipeline:
            for task_id, _ in rows:
                pipeline.hget(keys.task(task_id), "status")
            statuses = await broker.within(pipeline.execute())
        async with redis.pipeline(transaction=False) as pipeline:
            for (task_id, _), status in zip(rows, statuses, strict=True):
                if status is None:
                    pipeline.zrem(keys.BY_TIME, task_id)
                    pipeline.srem(keys.INDEX, task_id)
                elif status in {"pending", "running", "retrying"}:
                    pipeline.expire(keys.task(task_id), TASK_TTL, gt=True)
            await broker.within(pipeline.execute())
        if len(rows) < PRUNE_BATCH:
            self._pruned, self._seen = "-inf", 0
            return
        # Any number of tasks can have one score: the next batch begins with that of the last one here, behind those
        # that this and the batches before have looked at and kept.
        last = rows[-1][1]
        kept = sum(score == last and status is not None for (_, score), status in zip(rows, statuses, strict=True))
        self._seen = kept + (self._seen if str(last) == self._pruned else 0)
        self._pruned = str(last)

    async def _adopt(self) -> None:
        """Give some tasks that only 0.1 clients and workers know their place in the order of time, or forget them."""
        broker, redis = self._broker, self._broker.client
        async with redis.pipeline(transaction=False) as pipeline:
            pipeline.scard(keys.INDEX)
            pipeline.zcard(keys.BY_TIME)
            known, ordered = await broker.within(pipeline.execute())
        if known <= ordered:
            return
        scanned: Any = await broker.within(redis.sscan(keys.INDEX, self._adopted, count=ADOPT_BATCH))
        self._adopted, ids = scanned
        scores: Any = await broker.within(redis.zmscore(keys.BY_TIME, ids)) if ids else []
        missing = [task_id for task_id, score in zip(ids, scores, strict=True) if score is None]
        async with redis.pipeline(transaction=False) as pipeline:
            for task_id in missing:
                pipeline.hmget(keys.task(task_id), "status", "started_at")
            records = await broker.within(pipeline.execute())
        now = await self._now()
        async with redis.pipeline(transaction=False) as pipeline:
            for task_id, (status, started) in zip(missing, records, strict=True):
                if status is None:
                    pipeline.srem(keys.INDEX, task_id)
                else:
                    pipeline.zadd(keys.BY_TIME, {task_id: int(_moment(started, now) * 1000)}, nx=True)
            await broker.within(pipeline.execute())

    async def _now(self) -> float:
        seconds, micros = await self._broker.within(self._broker.client.time())
        return float(seconds + micros / 1e6)


def _gone(owner: Owner) -> bool:
    return not owner.alive and not owner.pending and owner.idle > CONSUMER_KEPT


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdigit() else None


def _moment(text: str | None, now: float) -> float:
    """Read epoch seconds as 0.1 writes them; what is no moment up to now is now."""
    try:
        moment = float(text or now)
    except ValueError:
        return now
    return moment if 0 <= moment <= now else now
