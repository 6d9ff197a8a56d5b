"""Status: what a worker shows in its heartbeat, to systemd and at its health port."""

from __future__ import annotations

import json
import os
import socket
import time
from enum import StrEnum
from importlib.metadata import version
from typing import TYPE_CHECKING

from orbiter.distributed.telemetry import metrics
from orbiter.distributed.worker.incarnation import machine_id
from orbiter.distributed.worker.systemd import notify, unit

if TYPE_CHECKING:
    from orbiter.distributed.connection.connected import ClockSkew
    from orbiter.distributed.execution.interface import Executor, ExecutorHealth
    from orbiter.distributed.execution.metering import TaskMeter
    from orbiter.distributed.execution.running import RunTable
    from orbiter.distributed.settings import WorkerSettings
    from orbiter.distributed.worker.commands import Commands
    from orbiter.distributed.worker.flow import ClaimFlow


class State(StrEnum):
    """Where a worker is between its start and its end."""

    STARTING = "starting"
    RUNNING = "running"
    QUIET = "quiet"
    DRAINING = "draining"
    STOPPED = "stopped"
    # Shown in place of RUNNING while the executor cannot run tasks, or Redis does not let it claim, renew or settle.
    DEGRADED = "degraded"


class Status:
    """Describes the worker.

    Args:
        settings: The worker's.
        flow: What runs in its slots.
        executor: What runs besides.
        meter: What was counted lately.
        commands: Told to beat when the state changes.

    Attributes:
        state: The worker's state.
        drain_deadline: When a drain ends at the latest, epoch seconds by Redis' clock; 0 before.
        clock_skew: How far this machine's clock is ahead of Redis'; ``None`` before it was asked.
    """

    def __init__(
        self, settings: WorkerSettings, flow: ClaimFlow, executor: Executor, meter: TaskMeter, commands: Commands
    ) -> None:
        self.state = State.STARTING
        self.drain_deadline = 0.0
        self.clock_skew: ClockSkew | None = None
        self._settings = settings
        self._flow = flow
        self._executor = executor
        self._meter = meter
        self._commands = commands
        self._version = version("orbiter-distributed")

    def drain_for(self, seconds: float) -> None:
        """Note that the drain ends in so many seconds at the latest."""
        ahead = self.clock_skew.seconds if self.clock_skew else 0.0
        self.drain_deadline = time.time() - ahead + seconds

    def change(self, state: State) -> None:
        """Be in another state from now on, and say so."""
        self.state = state
        self._commands.beat.set()

    @property
    def tables(self) -> list[RunTable]:
        """What runs in this process: in the slots, and besides."""
        return [self._flow.runs, *self._executor.tables]

    @property
    def completed(self) -> int:
        """How many tasks have completed here."""
        return sum(table.completed for table in self.tables)

    @property
    def failed(self) -> int:
        """How many runs have failed here."""
        return sum(table.failed for table in self.tables)

    @property
    def running(self) -> list[str]:
        """The ids of the tasks that run here."""
        return [slot.claim.task.task_id for table in self.tables for slot in table.held.values()]

    @property
    def visible(self) -> State:
        """The state as others see it."""
        return State.DEGRADED if self.state is State.RUNNING and self._degraded else self.state

    @property
    def _degraded(self) -> bool:
        return self._executor.degraded or bool(self._flow.troubles.problem())

    @property
    def problem(self) -> str:
        """Why it is degraded, for people."""
        return self._flow.troubles.problem() or self._executor.health().problem

    @property
    def line(self) -> str:
        """One line for systemd."""
        return f"STATUS={self.visible}: {len(self.running)} of {self._settings.concurrency} slots busy"

    def _gauge(self, health: ExecutorHealth) -> None:
        """Take readings for the metrics: they count until the heartbeat would have run out."""
        queue, valid = self._settings.queue, self._settings.heartbeat_ttl
        metrics.PROCESSES.set(health.processes, queue, valid=valid)
        metrics.MEMORY.set(health.rss_bytes, queue, valid=valid)
        metrics.LOOP_LAG.set(health.loop_lag_ms / 1000, queue, valid=valid)
        metrics.ABANDONED_THREADS.set(health.threads, queue, valid=valid)
        metrics.DEGRADED.set(self.visible is State.DEGRADED, queue, valid=valid)

    def heartbeat(self) -> dict[str, str]:
        """Return the heartbeat's fields: those of 0.1, then ours. Tell systemd the same."""
        if self.state in {State.RUNNING, State.QUIET}:
            notify(self.line)
        settings, running, health = self._settings, self.running, self._executor.health()
        self._gauge(health)
        return {
            "status": "running",
            "tasks_processed": str(self.completed),
            "tasks_failed": str(self.failed),
            "current_task_id": running[-1] if running else "",
            "concurrency": str(settings.concurrency),
            "hostname": socket.gethostname(),
            "machine_id": machine_id(),
            "unit": unit(),
            "version": self._version,
            "queue": settings.queue,
            "executor": settings.executor,
            "instance": settings.instance,
            "active": str(len(running)),
            "state": self.visible.value,
            "pid": str(os.getpid()),
            "heartbeat_ttl": str(settings.heartbeat_ttl),
            "drain_deadline": str(self.drain_deadline or ""),
            "isolation": settings.isolation,
            "processes": str(health.processes),
            "rss_bytes": str(health.rss_bytes),
            "loop_lag_ms": f"{health.loop_lag_ms:.1f}",
            "blocked_by": health.blocked_by,
            "abandoned_threads": str(health.threads),
            "problem": self._flow.troubles.problem() or health.problem,
            "failed_imports": json.dumps(health.failed_imports),
            "clock_skew_ms": f"{self.clock_skew.seconds * 1000:.1f}" if self.clock_skew else "",
            **{f"recent_{name}": f"{count:g}" for name, count in self._meter.recently()._asdict().items()},
        }
