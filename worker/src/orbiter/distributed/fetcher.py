"""Fetcher: claims what can start now, and nothing more; one a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from typing import TYPE_CHECKING

from redis.exceptions import RedisError, ResponseError

from orbiter.distributed import faults, metrics
from orbiter.distributed.claims import Claim, Entry, Started
from orbiter.distributed.deadlines import Deadlines, Limit
from orbiter.distributed.models import InvalidPayloadError, PayloadTooLargeError, TaskPayload

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Sequence
    from typing import Any, TypeAlias

    from redis.asyncio import Redis

    from orbiter.distributed.broker import TaskBroker
    from orbiter.distributed.claims import Begun
    from orbiter.distributed.sweeper import Sweeper
    from orbiter.distributed.task_meter import TaskMeter
    from orbiter.distributed.vitals import Vitals

    Begin: TypeAlias = Callable[[Claim, InvalidPayloadError | None, float], None]

logger = logging.getLogger(__name__)

READ_WAIT = 1.0
ROOM_WITHIN = 0.2
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
_AFTER_TASK_ID = len('{"task_id":')


class Fetcher:
    """Fetches while there is room.

    Args:
        broker: The queue.
        reader: A connection for the blocking read alone.
        sweeper: Finds what others left behind.
        worker_id: The consumer.
        lease: Lifetime of a lease, seconds.
        room: Returns how many tasks can start now.
        held: Ids of the entries that run here.
        begin: Called with each started claim, with what is wrong with its payload, and with the moment (monotonic) at
            which its lease began at the latest.
        meter: Counts what ends without a run.
        vitals: Told what the fetcher waits for.
    """

    def __init__(
        self,
        broker: TaskBroker,
        reader: Redis,
        sweeper: Sweeper,
        *,
        worker_id: str,
        lease: float,
        room: Callable[[], int],
        held: Collection[str],
        begin: Begin,
        meter: TaskMeter,
        vitals: Vitals,
    ) -> None:
        self._broker = broker
        self._reader = reader
        self._sweeper = sweeper
        self._worker_id = worker_id
        self._lease = lease
        self._room = room
        self._held = held
        self._begin = begin
        self._meter = meter
        self._vitals = vitals
        self._reader_id: int | None = None
        self._deadlines = Deadlines()
        # What an earlier life under this name left pending comes first, and what a lost reply delivered, after a loss.
        self._recovering = self._reborn = True
        self._given_up: set[str] = set()
        # The newest entry that a read gave us: what the next one gives is newer.
        self._newest = "0-0"
        self._stopping = False
        self._paused = False
        self._full = False
        # What came with outcomes and is still to be started.
        self._unread: list[Entry] = []
        self._flying = 0
        self._landed = asyncio.Event()
        self._landed.set()
        self._changed = asyncio.Event()
        self.parked = asyncio.Event()

    # -- told from outside ---------------------------------------------------------------------------------------

    def give_up(self, entry_id: str) -> None:
        """Take note that a run was given up as lost; if its entry is still pending here, it is taken up again."""
        self._given_up.add(entry_id)
        self._recovering = True

    def look(self) -> None:
        """Look again, if there is room now."""
        if self._room() > 0:
            self._changed.set()

    # -- claims that come with outcomes --------------------------------------------------------------------------

    @property
    def spare(self) -> Redis:
        """The reader's connection: nobody reads while claims come with outcomes."""
        return self._reader

    def board(self, free: int) -> int:
        """Return how many claims may come with a call that frees so many slots: all of them, or none.

        They do while every slot is taken, so that nobody claims beside them, and nothing else is to be done first.
        """
        if not self._full or self._stopping or self._paused or self._recovering:
            return 0
        self._flying += 1
        self._landed.clear()
        return free

    def land(self, begun: Sequence[Begun], asked: float) -> None:
        """Take over what came with outcomes, asked for at that moment (monotonic)."""
        self._arrived()
        try:
            self._unread += self._take(begun, asked)
        except Exception:
            # As in run(): it must not end those that came with it, nor the recording of outcomes.
            logger.exception("what came with outcomes could not be taken over; trying again")
            self._recovering = True
        if self._unread or self._paused or self._recovering:
            self._changed.set()

    def crash(self) -> None:
        """Take note that it is not known what came with outcomes."""
        self._arrived()
        self._recovering = True
        self._changed.set()

    def _arrived(self) -> None:
        self._flying -= 1
        if self._flying == 0:
            self._landed.set()

    def resume(self) -> None:
        """Fetch again, after :meth:`pause`."""
        self._paused = False
        self.parked.clear()
        self._changed.set()

    async def pause(self) -> None:
        """Fetch nothing until :meth:`resume`; returns once that is so."""
        self._paused = True
        self._changed.set()
        await self._unblock(self.parked.wait())

    async def stop(self, running: asyncio.Task[None]) -> None:
        """End :meth:`run`, which ``running`` is; a read that waits is ended without losing what it was given."""
        self._stopping = True
        self._changed.set()
        await self._unblock(asyncio.wait({running}))
        if not running.done():
            running.cancel()
            await asyncio.wait({running}, timeout=1)

    async def _unblock(self, done: Coroutine[Any, Any, object]) -> None:
        """End the blocking read until ``done`` is, for a little longer than it can last by itself.

        Cancelling a blocked XREADGROUP could leave a delivery that nobody knows of; CLIENT UNBLOCK ends it cleanly. It
        is repeated, as the read may have been sent just after the first.
        """
        waiting = asyncio.ensure_future(done)
        until = time.monotonic() + READ_WAIT + 1
        while not waiting.done() and time.monotonic() < until:
            if self._reader_id is not None:
                with contextlib.suppress(RedisError, OSError):
                    async with asyncio.timeout(0.5):
                        await self._broker.unblock(self._reader_id)
            await asyncio.wait({waiting}, timeout=0.02)
        waiting.cancel()

    # -- the loop ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Fetch until told to stop, whatever becomes of Redis."""
        pause = FIRST_PAUSE
        while not self._stopping:
            self._changed.clear()
            room = self._room()
            if self._paused and self._landed.is_set() and not self._unread:
                self.parked.set()
            if not self._unread and (self._paused or room <= 0):
                await self._wait_for_room()
                continue
            try:
                with self._vitals.step("fetch"):
                    await self._claim(room)
                pause = FIRST_PAUSE
            except (RedisError, OSError) as error:
                self._reader_id = None
                self._recovering = True
                metrics.DISRUPTIONS.add(1, self._broker.queue_name)
                if isinstance(error, ResponseError) and "NOGROUP" in str(error):
                    logger.warning("the queue has no group any more: making it again")
                    with contextlib.suppress(RedisError, OSError):
                        await self._broker.ensure_group()
                else:
                    logger.warning("Redis: %s; trying again", error or type(error).__name__)
                await self._wait(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter
                pause = min(LONGEST_PAUSE, pause * 2)
            except Exception:
                # A fault of ours, or an entry that nobody thought of, must not end the runs beside it.
                logger.exception("fetching failed; trying again")
                self._recovering = True
                await self._wait(LONGEST_PAUSE)
        await self._give_back()

    async def _give_back(self) -> None:
        """Hand back what came with outcomes and has not started; what cannot be is recovered, here or elsewhere."""
        with contextlib.suppress(RedisError, OSError):
            async with asyncio.timeout(READ_WAIT):
                await self._landed.wait()
                if self._unread:
                    unread, self._unread = self._unread, []
                    await self._start(unread)

    async def _wait_for_room(self) -> None:
        """Wait until there is room; look meanwhile at what waits on the queue: it grows while all are busy."""
        self._full = True
        changed = await self._change(self._sweeper.due_in)
        self._full = False
        # It may be our turn to sweep, for which there must be room: the next slot that is free stays so.
        if not changed and not await self._change(ROOM_WITHIN):
            with contextlib.suppress(RedisError, OSError):
                await self._sweeper.look()

    async def _change(self, within: float) -> bool:
        try:
            async with asyncio.timeout(within):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            self._changed.clear()
            await self._change(left)

    async def _claim(self, room: int) -> None:
        if self._unread:
            unread, self._unread = self._unread, []
            await self._start(unread)
            return
        if self._recovering:
            # What is on its way to us is pending here, too.
            await self._landed.wait()
            entries = await self._broker.recover(
                self._worker_id, room, running=self._held, given_up=self._given_up, reborn=self._reborn
            )
            self._recovering = len(entries) == room
            if not self._recovering:
                self._reborn = False
                self._given_up.clear()
            if entries:
                logger.warning("took up %d tasks that were pending on this worker", len(entries))
                await self._start(entries)
                return
        if entries := await self._sweeper.sweep(room):
            await self._start(entries)
            return
        asked = time.monotonic()
        # On the reader's connection, which has nothing else to do now: claims do not queue behind outcomes.
        begun = await self._broker.fetch(self._worker_id, room, client=self._reader)
        if not begun and not self._stopping and not self._paused:
            asked = time.monotonic()
            begun = await self._read(room)
        if unread := self._take(begun, asked):
            await self._start(unread)
        # Let them begin before the next claim is prepared: who was idle has tasks that wait for nothing else.
        await asyncio.sleep(0)

    async def _read(self, room: int) -> list[Begun]:
        """Wait for entries."""
        # What it gives may have started when the wait began, for all we know: that must leave most of the lease.
        wait = min(READ_WAIT, self._lease / 4)
        with Limit(self._deadlines, wait + 5):
            if self._reader_id is None:
                self._reader_id = await self._broker.reader_id(self._reader)
            return await self._broker.fetch_blocking(
                self._reader, self._worker_id, room, wait=wait, since=self._newest, held=len(self._held)
            )

    # -- from entry to claim -------------------------------------------------------------------------------------

    def _take(self, begun: Sequence[Begun], asked: float) -> list[Entry]:
        """Take over what has started; return what is still to be read."""
        if not begun:
            return []
        faults.reach("after fetch")
        self._newest = begun[-1][0].entry_id
        unread = []
        for entry, started in begun:
            if started.verdict == "read":
                unread.append(entry)
            else:
                self._started(entry, started, asked)
        return unread

    async def _start(self, entries: list[Entry]) -> None:
        if self._stopping:
            for entry in entries:
                await self._broker.hand_back_unread(self._worker_id, entry)
            metrics.HANDED_BACK.add(len(entries), self._broker.queue_name)
            logger.info("handed back %d tasks that had not started", len(entries))
            return
        claimed = []
        for entry in entries:
            task, problem = self._payload(entry, named_task(entry.fields.get("payload", "")))
            if task is None:
                await self._broker.bury(self._worker_id, entry, str(problem))
                metrics.DEAD_LETTERED.add(1, self._broker.queue_name)
            else:
                claimed.append((entry, task, problem))
        if not claimed:
            return
        asked = time.monotonic()
        verdicts = await self._broker.start(self._worker_id, [(entry, task) for entry, task, _ in claimed])
        for (entry, task, problem), started in zip(claimed, verdicts, strict=True):
            self._run(entry, task, problem, started, asked)

    def _started(self, entry: Entry, started: Started, asked: float) -> None:
        """Take over what the queue has started by the task id at the beginning of its payload."""
        if started.verdict != "run":
            logger.info("not run: %s", started.verdict, extra={"entry_id": entry.entry_id})
            self._meter.not_run(started)
            return
        text = entry.fields["payload"]
        start = text.index('"', _AFTER_TASK_ID) + 1
        task_id = text[start : text.index('"', start)]
        task, problem = self._payload(entry, task_id)
        if task is None or task.task_id != task_id:
            task, problem = TaskPayload(task_id=task_id), InvalidPayloadError("task_id: given more than once")
        self._run(entry, task, problem, started, asked)

    def _payload(self, entry: Entry, task_id: str) -> tuple[TaskPayload | None, InvalidPayloadError | None]:
        """Read an entry as a task. One that is none but names a task fails that task."""
        text = entry.fields.get("payload", "")
        try:
            if len(text) > (limit := self._broker.max_payload_bytes):
                raise PayloadTooLargeError(f"payload: {len(text)} bytes are more than the {limit} this worker accepts")
            return TaskPayload.from_fields(entry.fields), None
        except InvalidPayloadError as error:
            logger.warning("dead letter: entry %s: %s", entry.entry_id, error, extra={"task_id": task_id or None})
            return (TaskPayload(task_id=task_id) if task_id else None), error

    def _run(
        self, entry: Entry, task: TaskPayload, problem: InvalidPayloadError | None, started: Started, asked: float
    ) -> None:
        if entry.entry_id in self._held:
            # Delivered once more while it runs here, as after somebody destroyed the group: one run is enough.
            logger.warning("runs already", extra={"task_id": task.task_id})
        elif started.verdict == "run":
            claim = Claim(entry.entry_id, task, started.deliveries, started.attempt, started.retries)
            self._begin(claim, problem, asked)
        else:
            logger.info("not run: %s", started.verdict, extra={"task_id": task.task_id})
            self._meter.not_run(started)


def named_task(text: str) -> str:
    """Return the task id that a payload names although it is no valid task, or an empty string."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    task_id = value.get("task_id") if isinstance(value, dict) else None
    try:
        return TaskPayload(task_id=task_id).task_id if task_id is not None else ""
    except ValueError:
        return ""
