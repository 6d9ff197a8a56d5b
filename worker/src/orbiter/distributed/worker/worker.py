"""Worker: claims tasks, runs them in slots, and leaves without losing one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING, Any, Literal

from redis.exceptions import RedisError, ResponseError

from orbiter.distributed import signals
from orbiter.distributed.alerts import alert_manager
from orbiter.distributed.broker.records import BEAT
from orbiter.distributed.broker.spoilt import is_spoilt
from orbiter.distributed.connection.redis_url import check
from orbiter.distributed.errors import WorkerIdTakenError
from orbiter.distributed.execution.endings import StopReason
from orbiter.distributed.models import DEFAULT_QUEUE
from orbiter.distributed.names import DEFAULT_NAMESPACE
from orbiter.distributed.runtimes.user_code import containing
from orbiter.distributed.settings import WorkerSettings
from orbiter.distributed.telemetry.metrics import INSTRUMENTS
from orbiter.distributed.telemetry.otel import exporting
from orbiter.distributed.telemetry.prometheus import CONTENT_TYPE, prometheus_text
from orbiter.distributed.worker.registration import register
from orbiter.distributed.worker.status import State
from orbiter.distributed.worker.systemd import notify
from orbiter.distributed.worker.wiring import PATIENCE, build_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

DEREGISTER_WITHIN = 2.0


class Worker:
    """A process that runs tasks.

    Made in a program, it runs them there, on that program's event loop; with ``isolation="process"`` it starts executor
    processes for them, as the command does.

    Args:
        redis_url: Where Redis is.
        worker_id: Unique name; ``{hostname}-{pid}-{random}`` by default.
        concurrency: How many tasks run at the same time.
        queue_name: The queue.
        namespace: The first word of all keys and channels; of the queue's name, too, given or not.
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
        namespace: str = DEFAULT_NAMESPACE,
        heartbeat_ttl: int = 30,
        executor: Literal["local", "temporal"] = "local",
        **options: Any,
    ) -> None:
        check(redis_url)
        self.redis_url = redis_url
        self.settings = WorkerSettings.of(
            worker_id=worker_id,
            concurrency=concurrency,
            namespace=namespace,
            queue=queue_name,
            heartbeat_ttl=heartbeat_ttl,
            executor=executor,
            **options,
        )
        self.worker_id = self.settings.worker_id
        self._parts = build_parts(redis_url, self.settings)
        self._commands = self._parts.commands
        self._status = self._parts.status

    @property
    def state(self) -> str:
        """``starting``, ``running``, ``quiet``, ``draining`` or ``stopped``."""
        return self._status.state

    @property
    def tasks_processed(self) -> int:
        """How many tasks have completed here."""
        return self._status.completed

    @property
    def tasks_failed(self) -> int:
        """How many runs have failed here."""
        return self._status.failed

    # -- what is asked of it ---------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Begin to drain; :meth:`start` returns once that is done. A second call ends the wait for running tasks."""
        self._commands.stop()

    def quiet(self) -> None:
        """Claim nothing more, but stay and finish what runs, until :meth:`resume`."""
        self._commands.be_quiet(True)

    def resume(self) -> None:
        """Claim again, after :meth:`quiet`."""
        self._commands.be_quiet(False)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Obey signals; in another thread than the main one, whoever embeds the worker calls :meth:`stop`."""
        commands = self._commands
        actions: dict[int, Callable[[], None]] = {
            signal.SIGTERM: commands.stop,
            signal.SIGINT: commands.stop,
            # Both kernel and shell may tell of one terminal's end: a second one does not ask to hurry.
            signal.SIGHUP: commands.drain if signals.has_terminal() else self._reload,
            signal.SIGUSR1: self.quiet,
            signal.SIGUSR2: self.resume,
        }
        loop = asyncio.get_running_loop()
        with signals.handled(loop, actions), containing(loop):
            yield

    def _reload(self) -> None:
        if not self._parts.executor.reload():
            logger.warning("SIGHUP: nothing is reloaded, settings are read at the start; SIGTERM drains the worker")

    # -- from start to end -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Work until :meth:`stop`, SIGTERM or SIGINT; then drain and return. A worker starts once.

        Raises:
            RedisUnavailableError: Redis did not answer within ``connect_timeout``.
            PortTakenError: The health port cannot be opened.
            WorkerIdTakenError: Another process works under the same id, or came to do so while Redis heard nothing of
                this one for longer than its lease.
        """
        stopping, patience = self._commands.stopping, self.settings.connect_timeout
        try:
            with self._signals(), self._health_port(), exporting(self.worker_id):
                # It takes longer than to be registered, and runs beside it.
                await self._parts.executor.prepare()
                if await register(self._register_once, self.redis_url, patience, stopping, clock=self._parts.clock):
                    await self._serve()
        except BaseExceptionGroup:
            # A fault of this worker, not of its tasks: they are left to others, as after a crash.
            for table in self._status.tables:
                table.stop(StopReason.LOST)
            raise
        finally:
            await self._parts.executor.close()
            for client in self._parts.clients:
                with contextlib.suppress(RedisError, OSError):
                    async with asyncio.timeout(1):
                        await client.aclose()

    async def _register_once(self, replace: str) -> None:
        broker = self._parts.broker
        async with asyncio.timeout(PATIENCE):
            try:
                await broker.ensure_group()
            except ResponseError as error:
                if not (is_spoilt(error) and await self._parts.flow.troubles.mends()):
                    raise
            await self._parts.redis_watch.compare_clocks()
            try:
                await self._parts.lease.beat(replace=replace)
            except WorkerIdTakenError:
                # A process that lives answers at once, not at its next beat.
                with contextlib.suppress(RedisError, OSError):
                    await broker.client.publish(broker.keys.control(self.worker_id), BEAT)
                raise

    async def _serve(self) -> None:
        """Run every part until told to stop, then stop them in order: fetcher, tasks, listener, events, lease."""
        parts, commands = self._parts, self._commands
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(work, name=name)
                for name, work in {
                    "listener": parts.listener.run(),
                    "settler": parts.settler.run(),
                    "events": parts.publisher.run(),
                    "lease": parts.lease.run(),
                    "watchdog": parts.watchdog.run(),
                    "redis watch": parts.redis_watch.run(),
                    "executor": parts.executor.run(),
                    "commands": self._obey(),
                    "scripts": parts.broker.keep_client_scripts(),
                }.items()
            ]
            self._status.change(State.RUNNING)
            parts.flow.open = not commands.quiet
            if alert_manager.rules:
                watching = alert_manager.watch(
                    self.redis_url,
                    self.settings.queue,
                    namespace=self.settings.namespace,
                    client=parts.broker.client,
                )
                running.append(group.create_task(watching, name="alerts"))
            notify("READY=1", self._status.line)
            logger.info("ready: queue %s, %d slots", self.settings.queue, self.settings.concurrency)
            fetching = group.create_task(parts.fetcher.run(), name="fetcher")
            await commands.stopping.wait()
            await self._drain(fetching)
            left = set(running)
            while left:
                # On Python 3.11 a cancellation can be lost in asyncio.wait_for, by which redis-py talks to sentinels.
                for part in left:
                    part.cancel()
                _, left = await asyncio.wait(left, timeout=0.2)
        if commands.taken is None:
            with contextlib.suppress(RedisError, OSError):
                async with asyncio.timeout(DEREGISTER_WITHIN):
                    counts = parts.lease.counting.take()
                    await parts.broker.deregister(self.worker_id, life=parts.lease.life, counts=counts)
        self._status.state = State.STOPPED
        if commands.taken is not None:
            raise commands.taken

    async def _obey(self) -> None:
        """Be quiet, and resume, whenever that is asked for, until cancelled."""
        commands, status = self._commands, self._status
        while True:
            commands.changed.clear()
            if commands.quiet and status.state is State.RUNNING:
                await self._become_quiet()
            elif not commands.quiet and not commands.stopping.is_set() and not self._parts.flow.open:
                self._parts.fetcher.resume()
                logger.info("resumed")
                status.change(State.RUNNING)
            await commands.changed.wait()

    async def _become_quiet(self) -> None:
        """Wait until nothing is claimed any more, or until the worker is to resume."""
        commands, status = self._commands, self._status
        pausing = asyncio.ensure_future(self._parts.fetcher.pause())
        try:
            while commands.quiet and not pausing.done():
                commands.changed.clear()
                changed = asyncio.ensure_future(commands.changed.wait())
                try:
                    await asyncio.wait({pausing, changed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
        finally:
            pausing.cancel()
        if commands.quiet and status.state is State.RUNNING:
            logger.info("quiet: %d running", len(status.running))
            status.change(State.QUIET)

    async def _drain(self, fetching: asyncio.Task[None]) -> None:
        """Stop fetching at once; let running tasks end, up to the deadline; requeue the rest."""
        parts, status, timeout = self._parts, self._status, self.settings.drain_timeout
        began, running = parts.clock(), len(status.running)
        status.drain_for(timeout)
        notify("STOPPING=1", f"STATUS=draining, {running} running")
        logger.info("draining: %d running, deadline in %g s", running, timeout)
        status.change(State.DRAINING)
        before, hurry = status.completed + status.failed, self._commands.hurry
        await parts.fetcher.stop(fetching, by=began + timeout, hurry=hurry)
        requeued = await parts.slots.drain(began + timeout, hurry)
        requeued += await parts.executor.drain(began + timeout, hurry)
        finished = status.completed + status.failed - before
        logger.info("drained in %.1f s: %d finished, %d handed back", parts.clock() - began, finished, requeued)

    # -- the health port -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _health_port(self) -> Iterator[None]:
        if not self.settings.health_port:
            yield
            return
        # A megabyte, by the library that it is made of.
        from orbiter.distributed.worker.health_server import HealthServer  # noqa: PLC0415

        checks = {"/livez": self._parts.watchdog.complaint, "/readyz": self._not_ready}
        pages = {"/metrics": (CONTENT_TYPE, lambda: prometheus_text(INSTRUMENTS))}
        server = HealthServer(self.settings.health_host, self.settings.health_port, checks, pages)
        try:
            yield
        finally:
            server.close()

    def _not_ready(self) -> str | None:
        if (visible := self._status.visible) is not State.RUNNING:
            problem = self._status.problem if visible is State.DEGRADED else ""
            return f"the worker is {visible}{problem and f': {problem}'}"
        silent = self._parts.lease.silent_for()
        if silent > self.settings.heartbeat_ttl:
            return f"Redis has not been reached for {silent:.0f} s"
        return self._parts.watchdog.complaint()
