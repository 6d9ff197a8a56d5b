"""Worker: claims tasks, runs them in slots, and leaves without losing one.

Reads top to bottom as the life of a task: fetch, start, run, settle; then how a worker drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from redis.exceptions import RedisError

from orbiter.distributed.alerts import alert_manager
from orbiter.distributed.broker_cluster import broker_for
from orbiter.distributed.events import EventPublisher
from orbiter.distributed.executors.local import LocalExecutor
from orbiter.distributed.fetcher import Fetcher
from orbiter.distributed.health_server import HealthServer
from orbiter.distributed.introduction import reach
from orbiter.distributed.lease import LeaseKeeper
from orbiter.distributed.listener import Listener
from orbiter.distributed.metrics import INSTRUMENTS
from orbiter.distributed.models import DEFAULT_QUEUE
from orbiter.distributed.prometheus import CONTENT_TYPE, prometheus_text
from orbiter.distributed.redis_url import check, connect
from orbiter.distributed.runtimes.imports import ImportGuard
from orbiter.distributed.settings import WorkerSettings
from orbiter.distributed.settling import Settler
from orbiter.distributed.slots import Slots
from orbiter.distributed.sweeper import Sweeper
from orbiter.distributed.systemd import notify
from orbiter.distributed.task_meter import TaskMeter
from orbiter.distributed.telemetry import exporting
from orbiter.distributed.temporal import require_temporal
from orbiter.distributed.vitals import Vitals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orbiter.distributed.temporal.executor import TemporalExecutor
    from orbiter.distributed.temporal.runs import Runs


logger = logging.getLogger(__name__)

PATIENCE = 6.0
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
        ImportError: Temporal execution is wanted, and temporalio is not installed.
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
        if self.settings.executor == "temporal":
            require_temporal()
        self.worker_id = self.settings.worker_id
        self.state = "starting"
        self._version = version("orbiter-distributed")
        self._slots: Slots | None = None
        self._temporal: TemporalExecutor | None = None
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._quieting: asyncio.Task[None] | None = None
        self._drain_deadline = 0.0

    @property
    def tasks_processed(self) -> int:
        """How many tasks have completed here."""
        return sum(runs.processed for runs in self._runners)

    @property
    def tasks_failed(self) -> int:
        """How many runs have failed here."""
        return sum(runs.failed for runs in self._runners)

    @property
    def _runners(self) -> list[Slots | Runs]:
        """What runs tasks here: the slots, and where Temporal gives them, its runs."""
        parts = (self._slots, self._temporal.runs if self._temporal else None)
        return [part for part in parts if part is not None]

    @property
    def _running(self) -> list[str]:
        return [slot.claim.task.task_id for runs in self._runners for slot in runs.held.values()]

    # -- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Work until :meth:`stop`, SIGTERM or SIGINT; then drain and return.

        Raises:
            RedisUnavailableError: Redis did not answer within ``connect_timeout``.
            PortTakenError: The health port cannot be opened.
        """
        settings, name = self.settings, self.worker_id
        # Four connections, whatever the concurrency: commands, the blocking read, the lease, what others announce.
        clients = [connect(self.redis_url, max_connections=1, retries=0, name=name) for _ in range(4)]
        commands, reader, leasing, listening = clients
        self._vitals = Vitals(max(PATIENCE * 2, settings.heartbeat_ttl))
        self._broker = broker_for(
            self.redis_url,
            queue_name=settings.queue,
            max_retries=settings.max_retries,
            max_crashes=settings.max_crashes,
            max_payload_bytes=settings.max_payload_bytes,
            task_ttl=settings.task_ttl,
            event_ttl=settings.event_ttl,
            patience=PATIENCE,
            client=commands,
        )
        self._publisher = EventPublisher(self._broker.say, max_event_bytes=settings.max_event_bytes)
        self._settler = Settler(self._broker, self._publisher, settings)
        self._meter = TaskMeter(settings.queue, name)
        local = LocalExecutor(ImportGuard(settings.allow_import))
        self._temporal = temporal = self._temporal_executor(local) if settings.executor == "temporal" else None
        self._slots = slots = Slots(
            settings.concurrency,
            lease=settings.heartbeat_ttl,
            executor=temporal or local,
            publisher=self._publisher,
            settler=self._settler,
            meter=self._meter,
            changed=self._slots_changed,
            lost=self._run_lost,
        )
        self._lease = LeaseKeeper(
            self._broker,
            leasing,
            worker_id=name,
            ttl=settings.heartbeat_ttl,
            holders=slots.held,
            describe=self._describe,
            control=self._control,
        )
        self._fetcher = Fetcher(
            self._broker,
            reader,
            Sweeper(self._broker, name, lease=settings.heartbeat_ttl),
            worker_id=name,
            lease=settings.heartbeat_ttl,
            room=lambda: temporal.room(slots.room) if temporal else slots.room,
            held=slots.held,
            begin=slots.begin,
            meter=self._meter,
            vitals=self._vitals,
        )
        if temporal is None:
            self._settler.carry(self._fetcher)
        listener = Listener(
            listening,
            name,
            queue=settings.queue,
            cancel=self._cancel,
            control=self._control,
            patience=settings.heartbeat_ttl / 3,
        )
        try:
            with self._signals(), self._health_port(), exporting(name):
                if await reach(self._introduce, self.redis_url, settings.connect_timeout, self._stopping):
                    await self._serve(listener, slots)
        finally:
            for client in clients:
                with contextlib.suppress(RedisError, OSError):
                    async with asyncio.timeout(1):
                        await client.aclose()

    def _temporal_executor(self, local: LocalExecutor) -> TemporalExecutor:
        from orbiter.distributed.temporal.executor import TemporalExecutor  # noqa: PLC0415 - an extra

        executor = TemporalExecutor()
        meter = self._meter
        executor.serve(self.settings, self._broker, self._publisher, local, changed=self._slots_changed, meter=meter)
        return executor

    def _cancel(self, task_id: str) -> None:
        for part in (self._slots, self._temporal):
            if part is not None:
                part.cancel(task_id)

    async def stop(self) -> None:
        """Begin to drain; :meth:`start` returns once that is done. A second call ends the wait for running tasks."""
        self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        (self._hurry if self._stopping.is_set() else self._stopping).set()

    def quiet(self) -> None:
        """Claim nothing more, but stay and finish what runs, until :meth:`resume`."""
        if self.state == "running" and self._quieting is None:
            self._quieting = asyncio.ensure_future(self._become_quiet())

    async def _become_quiet(self) -> None:
        await self._fetcher.pause()
        if self.state == "running":
            logger.info("quiet: %d running", len(self._running))
            self._set_state("quiet")

    def resume(self) -> None:
        """Claim again, after :meth:`quiet`."""
        if self._quieting is None or self._stopping.is_set():
            return
        self._quieting.cancel()
        self._quieting = None
        self._fetcher.resume()
        logger.info("resumed")
        self._set_state("running")

    def _control(self, wish: str) -> None:
        """Do what an operator wants: ``orbiter worker drain|quiet|resume``."""
        wishes = {"drain": self._stopping.set, "quiet": self.quiet, "resume": self.resume}
        if wish in wishes:
            wishes[wish]()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: self._ask_to_stop,
            signal.SIGINT: self._ask_to_stop,
            signal.SIGUSR1: self.quiet,
            signal.SIGUSR2: self.resume,
        }
        with contextlib.ExitStack() as undo:
            for number, handler in handlers.items():
                # Only the main thread may; elsewhere whoever embeds the worker calls stop().
                with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                    loop.add_signal_handler(number, handler)
                    undo.callback(loop.remove_signal_handler, number)
            yield

    @contextlib.contextmanager
    def _health_port(self) -> Iterator[None]:
        if not self.settings.health_port:
            yield
            return
        checks = {"/livez": self._vitals.complaint, "/readyz": self._not_ready}
        pages = {"/metrics": (CONTENT_TYPE, lambda: prometheus_text(INSTRUMENTS))}
        server = HealthServer(self.settings.health_host, self.settings.health_port, checks, pages)
        try:
            yield
        finally:
            server.close()

    def _not_ready(self) -> str | None:
        if self._shown_state != "running":
            return f"the worker is {self._shown_state}"
        if self._lease.silent_for() > self.settings.heartbeat_ttl:
            return f"Redis has not been reached for {self._lease.silent_for():.0f} s"
        return self._vitals.complaint()

    async def _introduce(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._broker.ensure_group()
            await self._lease.beat()

    async def _serve(self, listener: Listener, slots: Slots) -> None:
        """Run every part until told to stop, then stop them in order: fetcher, tasks, listener, events, lease."""
        async with asyncio.TaskGroup() as group:
            parts = [
                group.create_task(work, name=name)
                for name, work in {
                    "listener": listener.run(),
                    "settler": self._settler.run(),
                    "events": self._publisher.run(),
                    "lease": self._lease.run(),
                    "vitals": self._vitals.run(),
                }.items()
            ]
            if self._temporal is not None:
                parts.append(group.create_task(self._temporal.start_temporal_worker(), name="temporal"))
            self._set_state("running")
            if alert_manager.rules:
                watching = alert_manager.watch(self.redis_url, self.settings.queue, client=self._broker.client)
                parts.append(group.create_task(watching, name="alerts"))
            notify("READY=1", self._status_line())
            logger.info("ready: queue %s, %d slots", self.settings.queue, self.settings.concurrency)
            fetching = group.create_task(self._fetcher.run(), name="fetcher")
            await self._stopping.wait()
            await self._drain(fetching, slots)
            for part in parts:
                part.cancel()
        with contextlib.suppress(RedisError, OSError):
            async with asyncio.timeout(SETTLE_GRACE):
                await self._broker.leave(self.worker_id)
        self.state = "stopped"

    # -- drain ---------------------------------------------------------------------------------------------------

    async def _drain(self, fetching: asyncio.Task[None], slots: Slots) -> None:
        """Stop fetching at once; let running tasks end, up to the deadline; hand back the rest."""
        began = time.monotonic()
        running, timeout = len(self._running), self.settings.drain_timeout
        self._drain_deadline = time.time() + timeout
        notify("STOPPING=1", f"STATUS=draining, {running} running")
        logger.info("draining: %d running, deadline in %g s", running, timeout)
        self._set_state("draining")
        await self._fetcher.stop(fetching)
        finished_before = self.tasks_processed + self.tasks_failed
        handed_back = await slots.drain(began + timeout, self._hurry)
        if self._temporal is not None:
            handed_back += await self._temporal.stop_temporal_worker(began + timeout, self._hurry)
        finished = self.tasks_processed + self.tasks_failed - finished_before
        logger.info("drained in %.1f s: %d finished, %d handed back", time.monotonic() - began, finished, handed_back)

    def _run_lost(self, entry_id: str) -> None:
        self._fetcher.give_up(entry_id)

    def _slots_changed(self) -> None:
        self._fetcher.look()
        self._lease.tell()

    # -- what others see -----------------------------------------------------------------------------------------

    def _set_state(self, state: str) -> None:
        self.state = state
        self._lease.kick()

    @property
    def _shown_state(self) -> str:
        return "degraded" if self.state == "running" and self._temporal and self._temporal.degraded else self.state

    def _status_line(self) -> str:
        return f"STATUS={self._shown_state}: {len(self._running)} of {self.settings.concurrency} slots busy"

    def _describe(self) -> dict[str, str]:
        """Return the heartbeat's fields: those of 0.1, then ours."""
        if self.state in {"running", "quiet"}:
            notify(self._status_line())
        running = self._running
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
            "state": self._shown_state,
            "pid": str(os.getpid()),
            "heartbeat_ttl": str(self.settings.heartbeat_ttl),
            "drain_deadline": str(self._drain_deadline or ""),
            **{f"recent_{name}": f"{count:g}" for name, count in self._meter.recently()._asdict().items()},
        }
