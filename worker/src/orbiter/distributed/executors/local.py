"""The local executor: runs a task in this process."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from orbiter.distributed.runtimes import CancellationToken, RunContext, runtime_for

if TYPE_CHECKING:
    from orbiter.distributed.claims import Claim
    from orbiter.distributed.events import EventLog
    from orbiter.distributed.models import TaskPayload
    from orbiter.distributed.runtimes import Memory, Runtime
    from orbiter.distributed.runtimes.imports import ImportGuard


REMEMBERED = 200
LARGEST_REMEMBERED = 20_000


class LocalExecutor:
    """Runs agents and callables on the worker's own event loop.

    Args:
        guard: What tasks may import.
    """

    def __init__(self, guard: ImportGuard) -> None:
        self._guard = guard
        self._runtimes: OrderedDict[bytes, Runtime] = OrderedDict()

    async def execute(
        self, claim: Claim, log: EventLog, token: CancellationToken, memory: Memory | None = None
    ) -> dict[str, Any]:
        """Run one task to its end and return its result.

        Args:
            claim: The task.
            log: Takes its events.
            token: Tells it to stop.
            memory: What outlives this run, where something does.

        Raises:
            ConfigurationError: The task can never succeed.
            Exception: Whatever the agent raised.
        """
        task = claim.task
        config = to_json(task.agent_config)
        runtime = self._runtimes.get(config)
        if runtime is None:
            runtime = await self._loaded(config, task)
        else:
            self._runtimes.move_to_end(config)
        context = RunContext(
            payload=task,
            attempt=claim.attempt,
            emit=log.emit,
            guard=self._guard,
            deadline=time.time() + task.timeout_seconds,
            token=token,
            memory=memory,
        )
        return await runtime.run(context)

    def time_limit(self, task: TaskPayload) -> float | None:
        """Return the seconds that a run here may take."""
        return task.timeout_seconds

    async def _loaded(self, config: bytes, task: TaskPayload) -> Runtime:
        """Return a runtime for the task, which all tasks of this configuration share from now on.

        What a runtime needs is imported in a thread: heartbeats must go on meanwhile.
        """
        runtime = await asyncio.to_thread(runtime_for, task, self._guard)
        self._runtimes[config] = runtime
        if len(self._runtimes) > REMEMBERED or len(config) > LARGEST_REMEMBERED:
            self._runtimes.popitem(last=len(config) > LARGEST_REMEMBERED)
        return runtime
