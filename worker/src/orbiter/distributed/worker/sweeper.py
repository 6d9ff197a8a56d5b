"""Sweeper: takes over what dead workers left, and removes what nobody needs any more; one at a time."""

from __future__ import annotations

import logging
import math
import random
import time
from typing import TYPE_CHECKING, Protocol

from redis.exceptions import ResponseError

from orbiter.distributed import failpoints
from orbiter.distributed.limits import DEAD_LETTERS_TTL, FLEET_TTL
from orbiter.distributed.telemetry import metrics
from orbiter.distributed.worker.reconciler import Reconciler, ReconcileStore
from orbiter.distributed.worker.troubles import Mender, MendStore

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from orbiter.distributed.broker.housekeeping import Consumer
    from orbiter.distributed.broker.queue_info import Backlog
    from orbiter.distributed.broker.records import Entry, Listing

logger = logging.getLogger(__name__)

CONSUMER_KEPT = 60.0
PRUNE_AFTER = 12 * 3600.0
PRUNE_BATCH = 200
PRUNE_BATCHES = 10
ADOPT_BATCH = 1000
_WAITING = frozenset({"pending", "running", "retrying"})


class SweepStore(ReconcileStore, MendStore, Protocol):
    """The steps of a sweep: :class:`~orbiter.distributed.broker.housekeeping.Housekeeping`, which describes them."""

    async def acquire_sweep(self, worker_id: str, seconds: float) -> bool:
        """Become the one who sweeps for so long; return ``False`` while another worker is."""

    async def release_sweep(self) -> None:
        """Let another worker sweep."""

    async def backlog(self) -> Backlog:
        """Return what there is to do on the queue."""

    async def consumers(self) -> list[Consumer]:
        """Return the group's consumers."""

    async def reclaim(self, consumer: str, count: int, leases: Mapping[str, float]) -> list[Entry]:
        """Claim up to ``count`` entries whose owners have not renewed them for their leases, seconds."""

    async def tidy(self, gone: Iterable[str], *, dead_letters_ttl: float) -> None:
        """Remove consumers that are gone, what 0.1 workers acknowledged, and old dead letters."""

    async def forget_workers(self, before: float) -> None:
        """Take workers off the list of all that have not beaten since then, epoch seconds."""

    async def note_workers(self, worker_ids: Iterable[str]) -> None:
        """List workers that live and do not list themselves."""

    async def listing(self, name: Listing, *, skip: int, count: int) -> list[str]:
        """Return a page of a list of tasks, the oldest first."""

    async def unlist(self, name: Listing, gone: Collection[str]) -> None:
        """Take the tasks ``gone`` off such a list."""

    async def mend_times(self, now: float) -> None:
        """Take tasks off the lists by time that have an impossible place there; ``now`` is epoch seconds."""

    async def prune(self, gone: Iterable[str], waiting: Iterable[str]) -> None:
        """Take the tasks ``gone`` off the lists, and keep the records of those ``waiting``."""

    async def listed(self) -> tuple[int, int]:
        """Return how many tasks are known, and how many of them have a place in the order of time."""

    async def unordered(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """Look at some known tasks; return where to go on, and those that have no place in the order of time."""

    async def adopt(self, moments: Mapping[str, float], gone: Iterable[str]) -> None:
        """Give tasks their places in the order of time (epoch seconds), and forget those ``gone``."""


class Sweeper:
    """Sweeps about once every third of a lease, if no other worker does.

    Args:
        store: The queue's housekeeping.
        worker_id: Who takes over.
        lease: Own lease, seconds; also that of owners who say none.
        mender: Mends the queue's keys, at the beginning of each turn.
        clock: Monotonic seconds.

    Attributes:
        alive: The workers whose heartbeats stood when it looked last.
    """

    def __init__(
        self,
        store: SweepStore,
        worker_id: str,
        *,
        lease: float,
        mender: Mender | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._mender = mender or Mender(store, clock=clock)
        self._clock = clock
        self._worker_id = worker_id
        self._lease = lease
        self._next = 0.0
        self.alive: frozenset[str] = frozenset()
        self._pruned = "-inf"
        self._seen = 0
        self._adopted = 0
        self._trimmed: dict[Listing, int] = {"tasks": 0, "ended": 0}
        self._reconciler = Reconciler(store, lease=lease)

    async def sweep(self, count: int) -> list[Entry]:
        """Claim up to ``count`` entries of workers that stopped renewing; tidy up when there are none left.

        Raises:
            RedisError: Redis could not be reached; the next sweep begins anew.
        """
        if not await self._acquire():
            return []
        await self._mender.mend()
        await self._read()
        consumers = await self._store.consumers()
        leases = {consumer.name: self._lease_of(consumer) for consumer in consumers if consumer.pending}
        # What is pending on this worker is the fetcher's to take up: it knows what runs here.
        leases.pop(self._worker_id, None)
        self.alive = frozenset(consumer.name for consumer in consumers if consumer.status)
        finite = {name: lease for name, lease in leases.items() if lease < math.inf}
        entries = await self._store.reclaim(self._worker_id, count, finite)
        failpoints.reach("after sweep")
        if entries:
            metrics.RECLAIMED.add(len(entries), self._store.queue_name)
            logger.warning("reclaimed %d tasks from workers that stopped renewing", len(entries))
        if len(entries) == count:
            # There may be more than this worker has free slots for: a worker with free slots sweeps at once.
            await self._store.release_sweep()
            self._next = 0.0
            return entries
        try:
            await self._tidy([consumer.name for consumer in consumers if _is_gone(consumer)])
            old = [consumer.name for consumer in consumers if consumer.status and not consumer.version]
            await self._store.note_workers(old)
        except ResponseError as error:
            # What was reclaimed is to be started all the same.
            logger.warning("the queue cannot be tidied: %s", error)
        await self._reconciler.round()
        return entries

    async def _tidy(self, gone: Iterable[str]) -> None:
        await self._store.tidy(gone, dead_letters_ttl=DEAD_LETTERS_TTL)
        now = await self._store.now()
        await self._store.forget_workers(now - FLEET_TTL)
        await self._store.mend_times(now)
        for _ in range(PRUNE_BATCHES):
            await self._prune()
            if self._pruned == "-inf":
                break
        await self._adopt()
        for name in self._trimmed:
            await self._trim(name)

    @property
    def due_in(self) -> float:
        """Seconds until it may be this worker's turn again."""
        return max(0.0, self._next - self._clock())

    async def look(self) -> None:
        """Read what waits, if no other worker does: one without a free slot does not sweep, but its queue may be long.

        Raises:
            RedisError: Redis could not be reached.
        """
        if await self._acquire():
            await self._mender.mend()
            await self._read()
            # This needs no free slot, either: a fleet that is busy for hours has lost tasks, too.
            await self._reconciler.round()
            # A worker with a free slot sweeps.
            await self._store.release_sweep()

    async def _acquire(self) -> bool:
        if self._clock() < self._next:
            return False
        interval = self._lease / 3
        self._next = self._clock() + interval * random.uniform(0.8, 1)  # noqa: S311 - jitter
        return await self._store.acquire_sweep(self._worker_id, interval * 0.8)

    async def _read(self) -> None:
        """Take readings for the metrics; they count until somebody else has had a turn."""
        queue = self._store.queue_name
        try:
            backlog = await self._store.backlog()
        except ResponseError as error:
            # A user with fewer rights than docs/redis-rights.md gives: that must not keep anybody from sweeping.
            logger.warning("the queue's depth cannot be read: %s", error)
            return
        valid = self._lease / 2
        metrics.DEPTH.set(backlog.waiting, queue, valid=valid)
        metrics.PENDING.set(backlog.running, queue, valid=valid)
        metrics.DELAYED.set(backlog.delayed, queue, valid=valid)
        metrics.DEAD_LETTERS.set(backlog.dead, queue, valid=valid)
        metrics.OLDEST.set(backlog.oldest_waiting or 0, queue, valid=valid)

    def _lease_of(self, consumer: Consumer) -> float:
        """Return the lease that counts, which is its owner's.

        A short-lived sweeper must not steal from a worker that beats more slowly. A consumer without a heartbeat has
        missed its own; one with a heartbeat but no version is 0.1, which never renews while it lives.
        """
        if consumer.status and not consumer.version:
            return math.inf
        return float(consumer.lease) if consumer.lease and consumer.lease.isdigit() else self._lease

    async def _prune(self) -> None:
        """Forget some tasks whose records have expired, and keep the records of those that still wait."""
        until = int((await self._store.now() - PRUNE_AFTER) * 1000)
        rows = await self._store.tasks_by_time(self._pruned, until, skip=self._seen, count=PRUNE_BATCH)
        records = await self._store.records([task_id for task_id, _ in rows], ["status"])
        statuses = [status for (status,) in records]
        gone = [task_id for (task_id, _), status in zip(rows, statuses, strict=True) if status is None]
        waiting = [task_id for (task_id, _), status in zip(rows, statuses, strict=True) if status in _WAITING]
        await self._store.prune(gone, waiting)
        if len(rows) < PRUNE_BATCH:
            self._pruned, self._seen = "-inf", 0
            return
        # Any number of tasks can have one score: the next batch begins with that of the last one here, behind those
        # that this and the batches before have looked at and kept.
        last = rows[-1][1]
        kept = sum(score == last and status is not None for (_, score), status in zip(rows, statuses, strict=True))
        self._seen = kept + (self._seen if str(last) == self._pruned else 0)
        self._pruned = str(last)

    async def _trim(self, name: Listing) -> None:
        """Forget tasks of a list whose records have expired: the oldest, while most of them have; then some others."""
        for _ in range(PRUNE_BATCHES):
            looked, gone = await self._trim_page(name, 0)
            if gone < ADOPT_BATCH / 2:
                break
        if looked == ADOPT_BATCH:
            skip = max(self._trimmed[name], ADOPT_BATCH)
            looked, gone = await self._trim_page(name, skip)
            self._trimmed[name] = 0 if looked < ADOPT_BATCH else skip + looked - gone

    async def _trim_page(self, name: Listing, skip: int) -> tuple[int, int]:
        task_ids = await self._store.listing(name, skip=skip, count=ADOPT_BATCH)
        records = await self._store.records(task_ids, ["status"])
        gone = [task_id for task_id, (status,) in zip(task_ids, records, strict=True) if status is None]
        await self._store.unlist(name, gone)
        return len(task_ids), len(gone)

    async def _adopt(self) -> None:
        """Give some tasks that only 0.1 clients and workers know their place in the order of time, or forget them."""
        known, ordered = await self._store.listed()
        if known <= ordered:
            return
        self._adopted, missing = await self._store.unordered(self._adopted, ADOPT_BATCH)
        records = await self._store.records(missing, ["status", "started_at"])
        now = await self._store.now()
        moments = {
            task_id: _moment(started, now)
            for task_id, (status, started) in zip(missing, records, strict=True)
            if status is not None
        }
        await self._store.adopt(moments, [task_id for task_id in missing if task_id not in moments])


def _is_gone(consumer: Consumer) -> bool:
    return consumer.status is None and not consumer.pending and consumer.idle > CONSUMER_KEPT


def _moment(text: str | None, now: float) -> float:
    """Read epoch seconds as 0.1 writes them; return now for text that is no number, or in the future."""
    try:
        moment = float(text or now)
    except ValueError:
        return now
    return moment if 0 <= moment <= now else now
