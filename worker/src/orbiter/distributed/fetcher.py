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
from orbiter.distributed.models import InvalidPayloadError, PayloadTooLargeError, TaskPayload

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine
    from typing import Any, TypeAlias

    from redis.asyncio import Redis

    from orbiter.distributed.broker import TaskBroker
    from orbiter.distributed.sweeper import Sweeper
    from orbiter.distributed.task_meter import TaskMeter
    from orbiter.distributed.vitals import Vitals

    Begin: TypeAlias = Callable[[Claim, InvalidPayloadError | None, float], None]

logger = logging.getLogger(__name__)

READ_WAIT = 1.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
_TASK_ID_FIRST = '{"task_id": "'


class Fetcher:
    """Fetches while there is room.

    Args:
        broker: The queue.
        reader: A connection for the blocking read alone.
        sweeper: Finds what others left behind.
        worker_id: The consumer.
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
        self._room = room
        self._held = held
        self._begin = begin
        self._meter = meter
        self._vitals = vitals
        self._reader_id: int | None = None
        # What an earlier life under this name left pending comes first, and what a lost reply delivered, after a loss.
        self._recovering = self._reborn = True
        self._given_up: set[str] = set()
        self._stopping = False
        self._paused = False
        self._changed = asyncio.Event()
        self.parked = asyncio.Event()

    # -- told from outside ---------------------------------------------------------------------------------------

    def give_up(self, entry_id: str) -> None:
        """Take note that a run was given up as lost; if its entry is still pending here, it is taken up again."""
        self._given_up.add(entry_id)
        self._recovering = True

    def look(self) -> None:
        """Look again: there may be room now."""
        self._changed.set()

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
            if self._paused:
                self.parked.set()
            if self._paused or room <= 0:
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

    async def _wait_for_room(self) -> None:
        """Wait until there is room; look meanwhile at what waits on the queue: it grows while all are busy."""
        try:
            async with asyncio.timeout(self._sweeper.due_in):
                await self._changed.wait()
        except TimeoutError:
            with contextlib.suppress(RedisError, OSError):
                await self._sweeper.look()

    async def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()

    async def _claim(self, room: int) -> None:
        if self._recovering:
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
        fetched = await self._broker.fetch(self._worker_id, room, client=self._reader)
        if fetched:
            faults.reach("after fetch")
            unread = [entry for entry, started in fetched if started.verdict == "read"]
            for entry, started in fetched:
                if started.verdict != "read":
                    self._started(entry, started, asked)
            if unread:
                await self._start(unread)
        elif not self._stopping and not self._paused and (entries := await self._read(room)):
            faults.reach("after fetch")
            await self._start(entries)

    async def _read(self, room: int) -> list[Entry]:
        """Wait for entries."""
        async with asyncio.timeout(READ_WAIT + 5):
            if self._reader_id is None:
                self._reader_id = await self._broker.reader_id(self._reader)
            return await self._broker.fetch_blocking(self._reader, self._worker_id, room, wait=READ_WAIT)

    # -- from entry to claim -------------------------------------------------------------------------------------

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
        task_id = text[len(_TASK_ID_FIRST) : text.index('"', len(_TASK_ID_FIRST))]
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
