"""Fetcher: claims what can start now, and nothing more; one a process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Protocol

from redis.exceptions import RedisError, ResponseError

from orbiter.distributed import failpoints
from orbiter.distributed.broker.payloads import named_task_id, plain_task_id
from orbiter.distributed.broker.records import Claim, Entry, StartResult
from orbiter.distributed.broker.spoilt import is_spoilt
from orbiter.distributed.connection.backoff import Backoff
from orbiter.distributed.connection.deadlines import Deadlines, Limit
from orbiter.distributed.errors import describe
from orbiter.distributed.models import InvalidPayloadError, PayloadTooLargeError, TaskPayload
from orbiter.distributed.telemetry import metrics
from orbiter.distributed.worker.lease import MARGIN

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
    from typing import Any, TypeAlias

    from redis.asyncio import Redis

    from orbiter.distributed.broker.records import Delivery
    from orbiter.distributed.execution.metering import TaskMeter
    from orbiter.distributed.worker.flow import ClaimFlow
    from orbiter.distributed.worker.watchdog import Watchdog

    _Row: TypeAlias = tuple[Entry, TaskPayload, InvalidPayloadError | None]

logger = logging.getLogger(__name__)

READ_WAIT = 1.0
# What an answer of Redis may take beyond that, where nothing else says how long to wait for it.
ANSWER_WITHIN = 1.0
RECOVER_BATCH = 100
SLOT_WITHIN = 0.2
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0


class ClaimSource(Protocol):
    """Where claims come from: the broker."""

    max_payload_bytes: int

    async def ensure_group(self) -> None:
        """Make the queue's consumer group, unless it is there."""

    async def fetch(self, consumer: str, count: int, *, client: Redis | None = None) -> list[Delivery]:
        """Claim up to ``count`` waiting entries without waiting; start what can be started."""

    async def fetch_blocking(
        self, client: Redis, consumer: str, count: int, *, wait: float, since: str, held: int
    ) -> list[Delivery]:
        """Wait up to ``wait`` seconds to claim and start up to ``count`` tasks."""

    async def recover(
        self, consumer: str, count: int, *, running: Collection[str], given_up: Mapping[str, int], born: float
    ) -> list[Entry]:
        """Return up to ``count`` entries that are pending on this consumer, but do not run."""

    async def now(self) -> float:
        """Return the time by Redis' clock, epoch seconds."""

    async def start(
        self, consumer: str, claimed: Sequence[tuple[Entry, TaskPayload]], *, alive: Collection[str] = ()
    ) -> list[StartResult]:
        """Start claimed tasks; of workers ``alive`` no run was lost by a crash."""

    async def requeue(self, consumer: str, claim: Claim) -> str:
        """Give a started task back, uncharged."""

    async def requeue_unread(self, consumer: str, entry: Entry) -> None:
        """Give back an entry that was claimed but not started."""

    async def dead_letter(self, consumer: str, entry: Entry, reason: str) -> None:
        """Make an entry that names no task a dead letter."""

    def hang_up(self, reader: Any) -> None:
        """End the blocking read of a client's, without losing what it was given."""


class Reclaimer(Protocol):
    """Finds what other workers left behind: the sweeper."""

    @property
    def alive(self) -> Collection[str]:
        """The workers that were alive when it looked last."""

    @property
    def due_in(self) -> float:
        """Seconds until it may be this worker's turn."""

    async def sweep(self, count: int) -> list[Entry]:
        """Claim up to ``count`` entries of workers that stopped renewing."""

    async def look(self) -> None:
        """Read what waits, if it is this worker's turn."""


class Starter(Protocol):
    """Runs claims: the slots."""

    def begin(self, claim: Claim, problem: InvalidPayloadError | None, leased: float) -> None:
        """Run a claim whose lease began at ``leased`` (monotonic), or fail it for what is wrong with its payload."""


class Fetcher:
    """Claims while there are free slots.

    Args:
        source: The broker.
        reader: A connection for the blocking read alone.
        sweeper: Finds what others left behind.
        flow: Says how many slots are free, and what runs here.
        slots: Run what was claimed.
        meter: Counts what ends without a run.
        watchdog: Told what the fetcher waits for.
        worker_id: The consumer.
        queue: Which queue's disruptions are counted.
        lease: Lifetime of a lease, seconds.
        clock: Monotonic seconds.

    Attributes:
        paused: Set once nothing is fetched any more, after :meth:`pause`.
    """

    def __init__(
        self,
        source: ClaimSource,
        reader: Redis,
        sweeper: Reclaimer,
        *,
        flow: ClaimFlow,
        slots: Starter,
        meter: TaskMeter,
        watchdog: Watchdog,
        worker_id: str,
        queue: str,
        lease: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._reader = reader
        self._sweeper = sweeper
        self._flow = flow
        self._slots = slots
        self._meter = meter
        self._watchdog = watchdog
        self._worker_id = worker_id
        self._queue = queue
        self._lease = lease
        self._clock = clock
        self._reading = self._hung_up = False
        self._deadlines = Deadlines(clock)
        self._born: float | None = None
        # The newest entry that a read gave us: what the next one gives is newer.
        self._newest = "0-0"
        self._stopping = False
        self._stop_by = 0.0
        self._inherits = True
        # What came with outcomes and is still to be read.
        self._unparsed: list[Entry] = []
        self.paused = asyncio.Event()

    def resume(self) -> None:
        """Fetch again, after :meth:`pause`."""
        self._flow.open = True
        self.paused.clear()
        self._flow.look_again.set()

    async def pause(self) -> None:
        """Fetch nothing until :meth:`resume`; returns once that is so."""
        self._flow.open = False
        self._flow.look_again.set()
        await self._end_read(self.paused.wait(), self._clock() + READ_WAIT + ANSWER_WITHIN)

    async def stop(self, running: asyncio.Task[None], *, by: float = 0.0, hurry: asyncio.Event | None = None) -> None:
        """End :meth:`run`, which ``running`` is, once all that was claimed and did not start is given back.

        A read that waits is ended without losing what it was given. What Redis has not answered by the end of the time
        is left to other workers, as a crash leaves it: once its lease has run out.

        Args:
            running: The run of this fetcher.
            by: Until when to wait (monotonic), at least for what a read and its answer take.
            hurry: Once it is set, only for that.
        """
        soon = READ_WAIT + ANSWER_WITHIN
        self._stop_by = max(by, self._clock() + soon)
        self._stopping, self._flow.open = True, False
        self._flow.look_again.set()
        hurried = asyncio.ensure_future((hurry or asyncio.Event()).wait())
        first = asyncio.wait({running, hurried}, return_when=asyncio.FIRST_COMPLETED)
        await self._end_read(first, self._stop_by - soon)
        hurried.cancel()
        await self._end_read(asyncio.wait({running}), self._clock() + soon)
        if not running.done():
            running.cancel()
            await asyncio.wait({running}, timeout=1)

    async def _end_read(self, done: Coroutine[Any, Any, object], until: float) -> None:
        """Keep ending the blocking read until ``done`` has completed, or until then (monotonic).

        Cancelling a blocked XREADGROUP could leave a delivery that nobody knows of; hanging up does not. It is
        repeated, as the read may have been sent just after the first.
        """
        waiting = asyncio.ensure_future(done)
        while not waiting.done() and self._clock() < until:
            if self._reading:
                self._hung_up = True
                self._source.hang_up(self._reader)
            await asyncio.wait({waiting}, timeout=0.02)
        waiting.cancel()

    # -- the loop ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Fetch until told to stop, whatever becomes of Redis."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        flow = self._flow
        while not self._stopping:
            flow.look_again.clear()
            self._accept()
            if self._unparsed and flow.heartbeat_overdue:
                # Another process may have this worker's id by now, and start them.
                self._unparsed, flow.recover = [], True
            free = flow.free
            if not flow.open and flow.none_under_way.is_set() and not self._unparsed:
                self.paused.set()
            recovers = flow.recover and not flow.heartbeat_overdue
            if not self._unparsed and not recovers and (not flow.open or free <= 0):
                await self._wait_for_slot()
                continue
            try:
                with self._watchdog.step("fetch"):
                    await self._next_step(free)
                backoff.reset()
            except (RedisError, OSError) as error:
                flow.recover = True
                # An id of the far future would hide all that comes next.
                self._newest = "0-0"
                metrics.DISRUPTIONS.add(1, self._queue)
                if isinstance(error, ResponseError) and "NOGROUP" in str(error):
                    logger.warning("consumer group of queue %s is gone, creating it again", self._queue)
                    with contextlib.suppress(RedisError, OSError):
                        await self._source.ensure_group()
                else:
                    logger.warning("Redis: %s; trying again", describe(error))
                await flow.troubles.failed("claim", error)
                await self._wait(backoff.pause())
            except Exception as error:
                # A fault of ours, or an entry that nobody thought of, must not end the runs beside it.
                logger.exception("fetching failed; trying again")
                self._flow.recover = True
                await flow.troubles.failed("claim", error)
                await self._wait(LONGEST_PAUSE)
        await self._give_back()

    def _accept(self) -> None:
        """Start what came with recorded outcomes."""
        for arrival in self._flow.take_arrivals():
            try:
                self._unparsed += self._take_deliveries(arrival.begun, arrival.asked)
            except Exception:
                # A fault of ours: what did not start is still pending here.
                logger.exception("tasks claimed while others were settled could not be started, recovering them")
                self._flow.recover = True

    async def _give_back(self) -> None:
        """Requeue what was delivered here and has not started; what cannot be is reclaimed by another worker."""
        with contextlib.suppress(RedisError, OSError):
            async with asyncio.timeout(max(READ_WAIT, self._stop_by - self._clock())):
                await self._flow.none_under_way.wait()
                self._accept()
                unread, self._unparsed = self._unparsed, []
                await self._start(unread)
                if not self._flow.heartbeat_overdue:
                    await self._recover()

    async def _wait_for_slot(self) -> None:
        """Wait for a free slot; look meanwhile at what waits on the queue: it grows while all are busy."""
        self._flow.full = True
        changed = await self._woken(self._sweeper.due_in)
        self._flow.full = False
        if changed:
            return
        # It may be our turn to sweep, for which a slot must be free. With ``full`` off, outcomes bring no claims:
        # the next slot that a run leaves stays free for the sweep.
        if await self._woken(SLOT_WITHIN):
            return
        try:
            await self._sweeper.look()
        except (RedisError, OSError):
            pass  # the next turn begins anew
        except Exception:
            # A fault of ours, or data that nobody thought of, must not end the runs beside it.
            logger.exception("looking at the queue failed; trying again")

    async def _woken(self, within: float) -> bool:
        try:
            # No asyncio.timeout(): under load this is waited for at each batch.
            with Limit(self._deadlines, within):
                await self._flow.look_again.wait()
        except TimeoutError:
            return False
        return True

    async def _wait(self, seconds: float) -> None:
        deadline = self._clock() + seconds
        while not self._stopping and (left := deadline - self._clock()) > 0:
            self._flow.look_again.clear()
            await self._woken(left)

    async def _next_step(self, count: int) -> None:
        if self._unparsed:
            unread, self._unparsed = self._unparsed, []
            await self._start(unread)
            return
        if self._flow.recover:
            await self._recover()
            return
        if entries := await self._sweeper.sweep(count):
            await self._start(entries, alive=self._sweeper.alive)
            return
        asked = self._clock()
        # On the reader's connection, which has nothing else to do now: claims do not queue behind outcomes.
        begun = await self._source.fetch(self._worker_id, count, client=self._reader)
        if not begun and not self._stopping and self._flow.open:
            asked = self._clock()
            begun = await self._read(count)
        self._flow.troubles.worked("claim")
        if unread := self._take_deliveries(begun, asked):
            await self._start(unread)
        # Yield, so that the runs which were begun get their first step before the next claim is prepared.
        await asyncio.sleep(0)

    async def _recover(self) -> None:
        """Take up what is pending on this worker but does not run here; requeue what there is no slot for."""
        # What is on its way to us is pending here, too.
        await self._flow.none_under_way.wait()
        while self._flow.open and self._flow.free <= 0 and (left := self._flow.slot_expected_until - self._clock()) > 0:
            self._flow.look_again.clear()
            await self._woken(left)
        self._accept()
        if self._unparsed:
            return  # started first, or recovery would find them; `recover` stays set
        if self._born is None:
            self._born = await self._source.now()
        given_up = dict(self._flow.given_up)
        # Cleared before the call, so that a request made during it is kept.
        self._flow.recover = False
        entries = await self._source.recover(
            self._worker_id, RECOVER_BATCH, running=self._flow.runs.held, given_up=given_up, born=self._born
        )
        if len(entries) == RECOVER_BATCH:
            self._flow.recover = True
        else:
            for entry_id, deliveries in given_up.items():
                if self._flow.given_up.get(entry_id) == deliveries:
                    del self._flow.given_up[entry_id]
        if entries:
            logger.warning("found %d tasks that were pending on this worker and did not run", len(entries))
            # Once what an earlier process of this name left was taken up, all that is found here is our own.
            await self._start(entries, recovered=True, alive=() if self._inherits else (self._worker_id,))
        if not self._flow.recover:
            self._inherits = False

    async def _read(self, count: int) -> list[Delivery]:
        """Wait for entries."""
        # What it gives may have started when the wait began, for all we know: that must leave most of the lease.
        wait = min(READ_WAIT, self._lease / 4)
        self._reading = True
        try:
            with Limit(self._deadlines, wait + 5):
                return await self._source.fetch_blocking(
                    self._reader, self._worker_id, count, wait=wait, since=self._newest, held=len(self._flow.runs.held)
                )
        except (RedisError, OSError):
            if not self._hung_up:
                raise
            self._flow.recover = True
            return []
        finally:
            self._reading = self._hung_up = False

    # -- from entry to claim -------------------------------------------------------------------------------------

    def _take_deliveries(self, begun: Sequence[Delivery], asked: float) -> list[Entry]:
        """Take over what has started; return what is still to be read."""
        if not begun:
            return []
        failpoints.reach("after fetch")
        self._newest = begun[-1][0].entry_id
        unread = []
        for entry, started in begun:
            if started.verdict == "read":
                unread.append(entry)
            else:
                self._take_started(entry, started, asked)
        return unread

    async def _start(self, entries: list[Entry], *, recovered: bool = False, alive: Collection[str] = ()) -> None:
        """Start claimed entries. Requeue them where the worker stops, and those ``recovered`` where no slot is free.

        What was recovered may have run before: only its start tells, so that it is started also to be requeued.
        """
        if self._stopping and not recovered:
            for entry in entries:
                await self._source.requeue_unread(self._worker_id, entry)
            self._requeued(len(entries))
            return
        claimed = []
        for entry in entries:
            task, problem = self._payload(entry, named_task_id(entry.fields.get("payload", "")))
            if task is None:
                await self._dead_letter(entry, str(problem))
            else:
                claimed.append((entry, task, problem))
        asked = self._clock()
        for (entry, task, problem), started in await self._verdicts(claimed, alive):
            if (
                recovered
                and started.verdict == "run"
                and (self._stopping or not self._flow.open or self._flow.free <= 0)
            ):
                claim = _claim(entry, task, started)
                await self._source.requeue(self._worker_id, claim)
                self._requeued(1)
            else:
                self._begin_run(entry, task, problem, started, asked)

    async def _verdicts(self, rows: list[_Row], alive: Collection[str]) -> list[tuple[_Row, StartResult]]:
        """Start entries in one call; where one of them makes that fail, each by itself: it becomes a dead letter."""
        if not rows:
            return []
        try:
            started = await self._source.start(self._worker_id, [row[:2] for row in rows], alive=alive)
        except Exception as error:
            if not is_spoilt(error):
                raise
            if len(rows) == 1:
                # The queue's own keys may be what is wrong, and no fault of the entry.
                if isinstance(error, ResponseError) and await self._flow.troubles.mends():
                    raise
                await self._dead_letter(rows[0][0], f"it cannot be started: {describe(error)}")
                return []
            return [pair for row in rows for pair in await self._verdicts([row], alive)]
        return list(zip(rows, started, strict=True))

    async def _dead_letter(self, entry: Entry, reason: str) -> None:
        await self._source.dead_letter(self._worker_id, entry, reason)
        metrics.DEAD_LETTERED.add(1, self._queue)

    def _requeued(self, number: int) -> None:
        if number:
            metrics.HANDED_BACK.add(number, self._queue)
            logger.info("requeued %d tasks that had not started", number)

    def _take_started(self, entry: Entry, started: StartResult, asked: float) -> None:
        """Take over what the queue has started by the plain task id of its payload."""
        if started.verdict != "run":
            logger.info("not run: %s", started.verdict, extra={"entry_id": entry.entry_id})
            self._meter.not_run(started)
            return
        task_id = plain_task_id(entry.fields["payload"])
        task, problem = self._payload(entry, task_id)
        if task is None or task.task_id != task_id:
            task, problem = (
                TaskPayload(task_id=task_id),
                InvalidPayloadError("task_id: given more than once"),
            )  # the script takes the first, JSON the last
        self._begin_run(entry, task, problem, started, asked)

    def _payload(self, entry: Entry, task_id: str) -> tuple[TaskPayload | None, InvalidPayloadError | None]:
        """Read an entry as a task. If it is no valid task but has a task id, that task fails."""
        text = entry.fields.get("payload", "")
        try:
            if len(text) > (limit := self._source.max_payload_bytes):
                raise PayloadTooLargeError(f"payload: {len(text)} bytes are more than the {limit} this worker accepts")
            return TaskPayload.from_fields(entry.fields), None
        except (ValueError, RecursionError, TypeError, OverflowError) as cause:
            error = cause if isinstance(cause, InvalidPayloadError) else InvalidPayloadError(describe(cause))
            logger.warning("dead letter: entry %s: %s", entry.entry_id, error, extra={"task_id": task_id or None})
            return (TaskPayload(task_id=task_id) if task_id else None), error

    def _begin_run(
        self, entry: Entry, task: TaskPayload, problem: InvalidPayloadError | None, started: StartResult, asked: float
    ) -> None:
        if entry.entry_id in self._flow.runs.held:
            # Delivered once more while it runs here, as after somebody destroyed the group: one run is enough.
            logger.warning("task delivered again while it runs here, running it once", extra={"task_id": task.task_id})
        elif started.verdict == "run" and self._clock() > asked + self._lease * (1 - MARGIN):
            # Another worker may run it by now. If not, recovery starts it under the same attempt.
            logger.warning("not run: lease expired before the claim came, recovering", extra={"task_id": task.task_id})
            self._flow.recover = True
        elif started.verdict == "run":
            claim = _claim(entry, task, started)
            self._slots.begin(claim, problem, asked)
        else:
            logger.info("not run: %s", started.verdict, extra={"task_id": task.task_id})
            self._meter.not_run(started)


def _claim(entry: Entry, task: TaskPayload, started: StartResult) -> Claim:
    payload = entry.fields.get("payload", "")
    return Claim(entry.entry_id, task, started.deliveries, started.attempt, started.retries, started.alone, payload)
