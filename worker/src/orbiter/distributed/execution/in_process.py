"""In-process execution: runs a task on the worker's own event loop."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from orbiter.distributed.broker.keys import group
from orbiter.distributed.execution.endings import Completed
from orbiter.distributed.execution.interface import ExecutorHealth
from orbiter.distributed.execution.loop_lag import LoopLag
from orbiter.distributed.execution.results import result_text
from orbiter.distributed.runtimes import CancellationToken, RunContext, runtime_for
from orbiter.distributed.runtimes.threads import in_thread
from orbiter.distributed.runtimes.user_code import IN_RUN
from orbiter.distributed.telemetry.tracing import active, traced

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine

    from orbiter.distributed.broker.records import Claim
    from orbiter.distributed.execution.interface import Log
    from orbiter.distributed.execution.running import RunTable
    from orbiter.distributed.execution.slot import Slot
    from orbiter.distributed.models import TaskPayload
    from orbiter.distributed.runtimes import Journal, Runtime
    from orbiter.distributed.runtimes.imports import ImportGuard


# A run that does not react to its cancellation is left behind after this, seconds.
ABANDON_AFTER = 1.0
RUNTIMES_CACHED = 200
LARGEST_CONFIG_CACHED = 20_000


def _resident() -> int:
    """Return the memory of this process, bytes; 0 where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


class InProcessExecutor:
    """Runs agents and callables on the worker's own event loop.

    Args:
        guard: What tasks may import.
        queue: The queue that they come from, for spans.
        worker_id: The worker, for spans.
        max_result_bytes: Largest result, bytes of JSON.
    """

    def __init__(self, guard: ImportGuard, *, queue: str, worker_id: str, max_result_bytes: int) -> None:
        self._guard = guard
        self._max_result_bytes = max_result_bytes
        self._queue = queue
        self._worker_id = worker_id
        self._runtimes: OrderedDict[bytes, Runtime] = OrderedDict()
        self._lag = LoopLag()

    def execute(
        self, slot: Slot, *, log: Log | None = None, journal: Journal | None = None
    ) -> Coroutine[Any, Any, Completed]:
        """Return the run of one task, as :meth:`run_task` has it.

        Args:
            slot: The task.
            log: Takes its events in place of the slot's log.
            journal: What outlives this run, where something does.
        """
        claim = slot.claim
        return self.run_task(claim.task, claim.attempt, log or slot.log, slot.token, journal)

    def run_task(
        self, task: TaskPayload, attempt: int, log: Log, token: CancellationToken, journal: Journal | None
    ) -> Coroutine[Any, Any, Completed]:
        """Return the run of one task.

        Args:
            task: The task.
            attempt: Which run of it this is, from 1.
            log: Takes its events.
            token: Tells it to stop.
            journal: What outlives this run, where something does.

        Raises:
            ConfigurationError: The task can never succeed.
            Exception: Whatever the agent raised.
        """
        if not active():
            return self._run(task, attempt, log, token, journal)
        return traced(
            lambda: self._run(task, attempt, log, token, journal),
            task,
            attempt=attempt,
            queue=self._queue,
            group=group(self._queue),
            worker_id=self._worker_id,
        )

    async def _run(
        self, task: TaskPayload, attempt: int, log: Log, token: CancellationToken, journal: Journal | None
    ) -> Completed:
        IN_RUN.set(True)
        config = to_json(task.agent_config)
        runtime = self._runtimes.get(config)
        if runtime is None:
            runtime = await self._loaded(config, task)
        else:
            self._runtimes.move_to_end(config)
        context = RunContext(
            payload=task,
            attempt=attempt,
            emit=log.emit,
            pace=log.pace,
            spend=log.spend,
            guard=self._guard,
            deadline=time.time() + task.timeout_seconds,
            token=token,
            journal=journal,
        )
        return Completed(result_text(await runtime.run(context), self._max_result_bytes))

    @property
    def abandon_after(self) -> float:
        """A synchronous tool in a thread is left behind after this, seconds."""
        return ABANDON_AFTER

    @property
    def tables(self) -> tuple[RunTable, ...]:
        """None: all runs are in the worker's slots."""
        return ()

    @property
    def degraded(self) -> bool:
        """Never."""
        return False

    def health(self) -> ExecutorHealth:
        """Return the memory of this process, where Linux tells it, and the lag of its loop, which runs the tasks."""
        return ExecutorHealth(rss_bytes=_resident(), loop_lag_ms=self._lag.lately() * 1000)

    def cancel(self, task_id: str) -> None:
        """Do nothing: what runs here is in the worker's slots."""

    def reload(self) -> bool:
        """Return ``False``: what this process has imported stays."""
        return False

    async def prepare(self) -> None:
        """Do nothing: tasks can run."""

    async def close(self) -> None:
        """Do nothing: there is nothing besides."""

    async def run(self) -> None:
        """Watch the loop until cancelled."""
        await self._lag.watch()

    async def drain(self, deadline: float, hurry: asyncio.Event) -> int:  # noqa: ARG002
        """Return 0: what runs here is in the worker's slots."""
        return 0

    def time_limit(self, claim: Claim) -> float | None:
        """Return the seconds that a run here may take."""
        return claim.task.timeout_seconds

    async def _loaded(self, config: bytes, task: TaskPayload) -> Runtime:
        """Return a runtime for the task, which all tasks of this configuration share from now on.

        What a runtime needs is imported in a thread: heartbeats must go on meanwhile. It keeps nobody from
        ending the worker.
        """
        runtime = await in_thread(lambda: runtime_for(task, self._guard))
        self._runtimes[config] = runtime
        if len(self._runtimes) > RUNTIMES_CACHED or len(config) > LARGEST_CONFIG_CACHED:
            self._runtimes.popitem(last=len(config) > LARGEST_CONFIG_CACHED)
        return runtime
