"""HistoryJournal: what a run has finished, kept in its workflow's history by one signal a step."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

from temporalio.service import RPCError, RPCStatusCode

from orbiter.distributed import failpoints
from orbiter.distributed.temporal.wire import STEP

if TYPE_CHECKING:
    from collections.abc import Callable

    from temporalio.client import Client, WorkflowHandle

    from orbiter.distributed.temporal.delegated import DurableRun

logger = logging.getLogger(__name__)

AGAIN_AFTER = 0.5
# Temporal takes two megabytes at once, and ends a workflow whose history has fifty.
LARGEST_STEP = 1_500_000
LARGEST_HISTORY = 20_000_000
# Refusals that another try does not mend; all others are Temporal being away.
_FINAL = {RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.PERMISSION_DENIED}


class HistoryJournal:
    """Keeps finished steps of a task for its later runs.

    Args:
        client: Reaches Temporal.
        durable: The run.
        checkpoint: What the run before saved.
        saved: Called when there is a new checkpoint, from any thread.
    """

    def __init__(self, client: Client, durable: DurableRun, checkpoint: Any, saved: Callable[[], None]) -> None:
        self.checkpoint = checkpoint
        self._client = client
        self._durable = durable
        self._saved = saved
        self._steps: dict[str, Any] = {}
        self._size = 0
        self._scopes: dict[str, int] = {}

    @property
    def _handle(self) -> WorkflowHandle[Any, Any]:
        return self._client.get_workflow_handle(self._durable.workflow_id, run_id=self._durable.run_id)

    async def load(self) -> None:
        """Read what earlier runs have finished; of a step that was finished twice the first counts."""
        async for event in self._handle.fetch_history_events():
            if not event.HasField("workflow_execution_signaled_event_attributes"):
                continue
            signal = event.workflow_execution_signaled_event_attributes
            if signal.signal_name == STEP:
                self._size += signal.input.ByteSize()
                _, key, value = await self._client.data_converter.decode(signal.input.payloads)
                self._steps.setdefault(key, value)

    def kept(self) -> tuple[Any, dict[str, Any]]:
        """Return the checkpoint, and the steps that earlier runs have finished, by key."""
        return self.checkpoint, self._steps

    def scope(self, name: str) -> str:
        """Return a name for steps, another one at each call: agents run in the same order each time."""
        self._scopes[name] = self._scopes.get(name, 0) + 1
        return f"{name} {self._scopes[name]}"

    def replay(self, key: str) -> Any:
        """Return what was kept of a step, or ``None``."""
        return self._steps.get(key)

    async def append(self, key: str, value: Any) -> None:
        """Keep what a step gave; returns once Temporal has it. What is too large is not kept, and runs again."""
        size = len(json.dumps(value))
        if size > LARGEST_STEP or self._size + size > LARGEST_HISTORY:
            logger.warning("step not journaled: %s has %d bytes, too many for its workflow", key, size)
            return
        self._size += size
        failpoints.reach("before step")
        while True:
            try:
                await self._handle.signal(STEP, args=[self._durable.number, key, value])
            except RPCError as error:
                if error.status in _FINAL:
                    # The workflow has ended: whoever ended it stops this run as well.
                    logger.warning("step not journaled, its workflow has ended: %s: %s", key, error)
                    return
                logger.warning("a finished step waits for Temporal: %s", error)
                await asyncio.sleep(AGAIN_AFTER)
            else:
                failpoints.reach("after step")
                return

    def save(self, checkpoint: Any) -> None:
        """Keep a callable's checkpoint: JSON that its next run is given."""
        self.checkpoint = checkpoint
        self._saved()
