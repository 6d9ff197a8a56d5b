"""Worker: claims tasks, runs them in slots, and leaves without losing one.

Reads top to bottom as the life of a task: fetch, start, run, settle; then how a worker drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import socket
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from orbiter.distributed.broker import Claim, Entry, TaskBroker
from orbiter.distributed.cancellation import CancelListener
from orbiter.distributed.errors import RedisUnavailableError
from orbiter.distributed.events import EventPublisher
from orbiter.distributed.executors.local import LocalExecutor
from orbiter.distributed.lease import LeaseKeeper
from orbiter.distributed.models import DEFAULT_QUEUE, InvalidPayloadError, TaskPayload
from orbiter.distributed.redis_url import check, connect, mask
from orbiter.distributed.runtimes.imports import ImportGuard
from orbiter.distributed.settings import WorkerSettings
from orbiter.distributed.settling import Settler
from orbiter.distributed.slot import Slot
from orbiter.distributed.systemd import notify

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

logger = logging.getLogger(__name__)

READ_WAIT = 1.0
SETTLE_GRACE = 2.0


class Worker:
    """A process that runs tasks.

    Args:
        redis_url: Where Redis is.
        worker_id: Unique name; ``{hostname}-{pid}-{random}`` by default.
        concurrency: How many tasks run at the same time.
        queue_name: The queue.
        heartbeat_ttl: Lifetime of leases and of the heartbeat, seconds.
        executor: Execution backend.
        options: The other fields of :class:`WorkerSettings`, by name.

    Raises:
        RedisUrlError: The URL cannot be used.
        SettingsError: A setting breaks its rule.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        worker_id: str | None = None,
        concurrency: int = 1,
        queue_name: str = DEFAULT_QUEUE,
        heartbeat_ttl: int = 30,
        executor: Literal["local", "temporal"] = "local",
        **options: Any,
    ) -> None:
        check(redis_url)
        self.redis_url = redis_url
        self.settings = WorkerSettings.of(
            worker_id=worker_id,
            concurrency=concurrency,
            queue=queue_name,
            heartbeat_ttl=heartbeat_ttl,
            executor=executor,
            **options,
        )
        self.worker_id = self.settings.worker_id
        self.tasks_processed = 0
        self.tasks_failed = 0
        self.state = "starting"
        self._version = version("orbiter-distributed")
        self._slots: dict[str, Slot] = {}
        self._slot_freed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._drain_deadline = 0.0
        self._next_sweep = 0.0
        self._reader_id: int | None = None

    # -- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Work until :meth:`stop`, SIGTERM or SIGINT; then drain and return.

        Raises:
            RedisUnavailableError: Redis did not answer within ``connect_timeout``.
        """
        settings = self.settings
        # Four connections, whatever the concurrency: commands, the blocking read, the lease, the cancel channel.
        name = settings.worker_id
        clients = [connect(self.redis_url, max_connections=1, retries=0, name=name) for _ in range(3)]
        commands, self._reader, leasing = clients
        listening = connect(self.redis_url, max_connections=1, retries=0, name=name)
        self._broker = TaskBroker(
            self.redis_url,
            queue_name=settings.queue,
            max_retries=settings.max_retries,
            max_crashes=settings.max_crashes,
            client=commands,
        )
        self._publisher = EventPublisher(commands)
        self._settler = Settler(self._broker, self._publisher, self.worker_id, backoff=settings.retry_backoff)
        self._executor = LocalExecutor(ImportGuard(settings.allow_import))
        self._lease = LeaseKeeper(
            self._broker,
            leasing,
            worker_id=self.worker_id,
            ttl=settings.heartbeat_ttl,
            holders=self._slots,
            describe=self._describe,
        )
        cancels = CancelListener(listening, self._cancel)
        try:
            with self._signals():
                if not await self._reach_redis():
                    return
                await self._serve(cancels)
        finally:
            for client in (*clients, listening):
                with contextlib.suppress(RedisError, OSError, TimeoutError):
                    async with asyncio.timeout(1):
                        await client.aclose()

    async def stop(self) -> None:
        """Begin to drain; :meth:`start` returns once that is done. A second call ends the wait for running tasks."""
        self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        (self._hurry if self._stopping.is_set() else self._stopping).set()

    @contextlib.contextmanager
    def _signals(self) -> Any:
        loop, numbers = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
        with contextlib.ExitStack() as undo:
            for number in numbers:
                # Only the main thread may; elsewhere whoever embeds the worker calls stop().
                with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                    loop.add_signal_handler(number, self._ask_to_stop)
                    undo.callback(loop.remove_signal_handler, number)
            yield

    async def _reach_redis(self) -> bool:
        """Wait for Redis, ``connect_timeout`` at most; ``False`` where the worker was told to stop meanwhile."""
        deadline = time.monotonic() + self.settings.connect_timeout
        pause = 0.2
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(6):
                    await self._broker.ensure_group()
                    await self._lease.beat()
            except (RedisError, OSError, TimeoutError) as error:
                left = deadline - time.monotonic()
                reason = f"cannot reach Redis at {mask(self.redis_url)}: {error or type(error).__name__}"
                refused = isinstance(error, AuthenticationError | NoPermissionError)
                if left <= 0 or refused:
                    hint = (
                        "check user and password" if refused else f"gave up after {self.settings.connect_timeout:g} s"
                    )
                    raise RedisUnavailableError(f"{reason} ({hint})") from error
                logger.warning("%s; trying again for %.0f s", reason, left)
                await _wait(self._stopping, min(left, pause * random.uniform(0.5, 1)))  # noqa: S311 - jitter
                pause = min(5.0, pause * 2)
            else:
                return True
        return False

    async def _serve(self, cancels: CancelListener) -> None:
        """Run every part until told to stop, then stop them in order: fetcher, tasks, listener, events, lease."""
        async with asyncio.TaskGroup() as parts:
            lease = parts.create_task(self._lease.run(), name="lease")
            events = parts.create_task(self._publisher.run(), name="events")
            settling = parts.create_task(self._settler.run(), name="settler")
            listener = parts.create_task(cancels.run(), name="cancel listener")
            self._set_state("running")
            notify("READY=1", self._status_line())
            logger.info("ready: queue %s, %d slots", self.settings.queue, self.settings.concurrency)
            fetcher = parts.create_task(self._fetch(), name="fetcher")
            await self._stopping.wait()
            await self._drain(fetcher)
            for part in (listener, settling, events, lease):
                part.cancel()
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(SETTLE_GRACE):
                await self._broker.leave(self.worker_id)
        self.state = "stopped"

    # -- fetch and start -----------------------------------------------------------------------------------------

    async def _fetch(self) -> None:
        """Claim what can start now, and nothing more; one fetcher a process."""
        pause = 0.1
        while not self._stopping.is_set():
            free = self.settings.concurrency - len(self._slots)
            if free <= 0:
                self._slot_freed.clear()
                await _first(self._slot_freed, self._stopping)
                continue
            try:
                entries = await self._claim(free)
                if entries and self._stopping.is_set():
                    await self._return_unstarted(entries)
                elif entries:
                    await self._start(entries)
                pause = 0.1
            except (RedisError, OSError, TimeoutError) as error:
                self._reader_id = None
                if isinstance(error, ResponseError) and "NOGROUP" in str(error):
                    logger.warning("queue %s has no group any more: making it again", self.settings.queue)
                    with contextlib.suppress(RedisError, OSError):
                        await self._broker.ensure_group()
                        continue
                logger.warning("Redis: %s; trying again", error or type(error).__name__)
                await _wait(self._stopping, pause * random.uniform(0.5, 1))  # noqa: S311 - jitter
                pause = min(5.0, pause * 2)

    async def _claim(self, free: int) -> list[Entry]:
        interval = self.settings.heartbeat_ttl / 3
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + interval * random.uniform(0.8, 1)  # noqa: S311 - jitter
            entries = await self._broker.reclaim(self.worker_id, free, self.settings, interval=interval * 0.8)
            if entries:
                logger.warning("reclaimed %d tasks from workers that stopped renewing", len(entries))
                self._next_sweep = 0.0
                return entries
        entries = await self._broker.fetch(self.worker_id, free)
        if entries or self._stopping.is_set():
            return entries
        if self._reader_id is None:
            self._reader_id = await self._reader.client_id()
        wait = min(READ_WAIT, interval)
        async with asyncio.timeout(wait + 5):
            return await self._broker.fetch_blocking(self._reader, self.worker_id, free, wait=wait)

    async def _start(self, entries: list[Entry]) -> None:
        claimed = [pair for entry in entries if (pair := await self._read(entry))]
        if not claimed:
            return
        asked = time.monotonic()
        verdicts = await self._broker.start(self.worker_id, [(entry, task) for entry, task, _ in claimed])
        for (entry, task, problem), started in zip(claimed, verdicts, strict=True):
            if started.verdict != "run":
                logger.info("not run: %s", started.verdict, extra={"task_id": task.task_id})
                continue
            claim = Claim(entry.entry_id, task, started.deliveries, started.attempt, started.retries)
            slot = Slot(claim, self._publisher.log(task.task_id, claim.attempt), asked + self.settings.heartbeat_ttl)
            self._slots[claim.entry_id] = slot
            self._lease.tell()
            slot.begin(self._executor.execute if problem is None else _refuse(problem), self._run(slot))

    async def _read(self, entry: Entry) -> tuple[Entry, TaskPayload, InvalidPayloadError | None] | None:
        """Read an entry as a task. One that is none but names a task fails that task; any other is buried."""
        try:
            return entry, TaskPayload.from_fields(entry.fields), None
        except InvalidPayloadError as error:
            task_id = _named_task(entry.fields.get("payload", ""))
            logger.warning("dead letter: entry %s: %s", entry.entry_id, error, extra={"task_id": task_id})
            if task_id:
                return entry, TaskPayload(task_id=task_id), error
            await self._broker.bury(self.worker_id, entry, str(error))
            return None

    # -- run and settle ------------------------------------------------------------------------------------------

    async def _run(self, slot: Slot) -> None:
        """Wait for the run's end, whatever it is, and settle it."""
        extra = {"task_id": slot.claim.task.task_id, "attempt": slot.claim.attempt, "worker_id": self.worker_id}
        logger.info("started", extra=extra)
        try:
            ended = await slot.ended()
            recorded = await self._settler.settle(slot, ended)
        finally:
            del self._slots[slot.claim.entry_id]
            self._slot_freed.set()
        if recorded == "completed":
            self.tasks_processed += 1
        elif recorded in {"failed", "retrying"}:
            self.tasks_failed += 1
        self._lease.tell()
        logger.info("%s after %.1f s", recorded, time.monotonic() - slot.started, extra=extra)

    def _cancel(self, task_id: str) -> None:
        for slot in list(self._slots.values()):
            if slot.claim.task.task_id == task_id:
                slot.stop("cancelled")

    # -- drain ---------------------------------------------------------------------------------------------------

    async def _drain(self, fetcher: asyncio.Task[None]) -> None:
        """Stop fetching at once; let running tasks end, up to the deadline; hand back the rest."""
        began = time.monotonic()
        running, timeout = len(self._slots), self.settings.drain_timeout
        self._drain_deadline = time.time() + timeout
        notify("STOPPING=1", f"STATUS=draining, {running} running")
        logger.info("draining: %d running, deadline in %g s", running, timeout)
        self._set_state("draining")
        await self._stop_fetching(fetcher)
        finished_before = self.tasks_processed + self.tasks_failed
        waiting = {slot.supervisor for slot in self._slots.values() if slot.supervisor}
        if waiting:
            hurry = asyncio.ensure_future(self._hurry.wait())
            deadline = began + timeout
            while waiting and not hurry.done() and time.monotonic() < deadline:
                done, _ = await asyncio.wait(
                    {*waiting, hurry}, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED
                )
                waiting -= done
            hurry.cancel()
        handed_back = 0
        if waiting:
            handed_back = len(waiting)
            logger.info("drain deadline: handing back %d tasks", handed_back)
            for slot in list(self._slots.values()):
                slot.stop("handed back")
            _, stuck = await asyncio.wait(waiting, timeout=SETTLE_GRACE)
            for supervisor in stuck:
                # Redis is away: the leases run out and others take these tasks over.
                supervisor.cancel()
        finished = self.tasks_processed + self.tasks_failed - finished_before
        logger.info("drained in %.1f s: %d finished, %d handed back", time.monotonic() - began, finished, handed_back)

    async def _stop_fetching(self, fetcher: asyncio.Task[None]) -> None:
        # Cancelling a blocked XREADGROUP could leave a delivery that nobody knows of; CLIENT UNBLOCK ends it cleanly.
        # It is repeated, as the read may have been sent just after the first.
        until = time.monotonic() + READ_WAIT + 1
        while not fetcher.done() and time.monotonic() < until:
            if self._reader_id is not None:
                with contextlib.suppress(RedisError, OSError, TimeoutError):
                    async with asyncio.timeout(0.5):
                        await self._broker.client.client_unblock(self._reader_id)
            await asyncio.wait({fetcher}, timeout=0.02)
        if not fetcher.done():
            fetcher.cancel()
            await asyncio.wait({fetcher}, timeout=1)

    async def _return_unstarted(self, entries: list[Entry]) -> None:
        for entry in entries:
            await self._broker.hand_back_unread(self.worker_id, entry)
        logger.info("handed back %d tasks that had not started", len(entries))

    # -- what others see -----------------------------------------------------------------------------------------

    def _set_state(self, state: str) -> None:
        self.state = state
        self._lease.kick()

    def _status_line(self) -> str:
        return f"STATUS={self.state}: {len(self._slots)} of {self.settings.concurrency} slots busy"

    def _describe(self) -> dict[str, str]:
        """Return the heartbeat's fields: those of 0.1, then ours."""
        if self.state == "running":
            notify(self._status_line())
        running = [slot.claim.task.task_id for slot in self._slots.values()]
        return {
            "status": "running",
            "tasks_processed": str(self.tasks_processed),
            "tasks_failed": str(self.tasks_failed),
            "current_task_id": running[-1] if running else "",
            "concurrency": str(self.settings.concurrency),
            "hostname": socket.gethostname(),
            "version": self._version,
            "queue": self.settings.queue,
            "executor": self.settings.executor,
            "instance": self.settings.instance,
            "active": str(len(running)),
            "current_task_ids": json.dumps(running),
            "state": self.state,
            "pid": str(os.getpid()),
            "heartbeat_ttl": str(self.settings.heartbeat_ttl),
            "drain_deadline": str(self._drain_deadline or ""),
        }


def _named_task(text: str) -> str:
    """Return the task id that a payload names although it is no valid task, or an empty string."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    task_id = value.get("task_id") if isinstance(value, dict) else None
    return task_id if isinstance(task_id, str) and 0 < len(task_id) <= 200 else ""


def _refuse(error: Exception) -> Callable[..., Coroutine[Any, Any, dict[str, Any]]]:
    async def run(*_: object) -> dict[str, Any]:
        raise error

    return run


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def _first(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
