"""TransferredTasks: the steps of tasks that Temporal owns. No entry on the queue stands for them any more.

What guards them is not a claim but the workflow's own order: (run of the workflow, number of the run in it). Every
script touches one key, so these steps are the same in a cluster; each is harmless when sent again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orbiter.distributed import keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from orbiter.distributed.broker import TaskBroker
    from orbiter.distributed.models import TaskPayload

TASK_TTL = 86400
TERMINAL = {"completed": "completed", "failed": "error", "cancelled": "cancelled"}


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of a task under a workflow.

    Attributes:
        workflow_id: The workflow.
        run_id: The run of it.
        number: Which run of the task in it, from 1.
    """

    workflow_id: str
    run_id: str
    number: int

    @property
    def fence(self) -> str:
        """What the task's record holds while this run is the last one."""
        return f"temporal {self.run_id} {self.number}"


@dataclass(frozen=True, slots=True)
class Begun:
    """What :meth:`TransferredTasks.begin` said: ``run``, ``over``, ``cancelled`` or ``lost``; which attempt it is."""

    verdict: str
    attempt: int
    retries: int
    status: str


class TransferredTasks:
    """Records what becomes of tasks that Temporal owns.

    Args:
        broker: Reaches Redis.
        queue: The queue from which they came.
        recorded: Told the status and the agent's name whenever something is recorded that was not yet.
    """

    def __init__(self, broker: TaskBroker, queue: str, *, recorded: Callable[[str, str], None]) -> None:
        self._broker = broker
        self._queue = queue
        self._recorded = recorded

    async def queue_id(self, proposed: str) -> str:
        """Return the queue's own id: the one that Redis knows, or else the proposed one, which it knows from now on."""
        return str(await self._broker.call("temporal_queue_id", [keys.tagged(self._queue, "id")], [proposed]))

    async def begin(self, turn: Turn, task: TaskPayload, worker_id: str, *, crashed: bool) -> Begun:
        """Begin a run, unless the task has ended or was cancelled."""
        said = await self._broker.call(
            "temporal_begin",
            [keys.task(task.task_id)],
            [
                *(turn.run_id, turn.number, worker_id, turn.workflow_id, "crashes" if crashed else ""),
                *(task.task_id, self._queue, task.agent_name, str(task.created_at)),
            ],
        )
        return Begun(*said)

    async def look(self, turn: Turn, task_id: str) -> str:
        """Say ``ok``, ``cancelled`` or ``lost`` of a run, and keep the task's record and events while it lives."""
        async with self._broker.client.pipeline(transaction=False) as pipeline:
            pipeline.hmget(keys.task(task_id), "status", "fence", "cancel_requested_at")
            pipeline.expire(keys.task(task_id), TASK_TTL)
            pipeline.expire(keys.stream(task_id), self._broker.event_ttl)
            (status, fence, asked), *_ = await self._broker.within(pipeline.execute())
        if status == "cancelled" or asked:
            return "cancelled"
        return "ok" if fence == turn.fence and status not in TERMINAL else "lost"

    async def status(self, task_id: str) -> str | None:
        """Return the task's status."""
        status: Any = await self._broker.within(self._broker.client.hget(keys.task(task_id), "status"))
        return None if status is None else str(status)

    async def again(
        self, turn: Turn, task_id: str, status: str, *, delay: float = 0.0, error: str = "", error_type: str = ""
    ) -> str:
        """Record that the task runs again: ``retrying`` after an error, ``pending`` where it was handed back."""
        counter = "retries" if status == "retrying" else "handoffs"
        stands, attempt, new = await self._broker.call(
            "temporal_again",
            [keys.task(task_id)],
            [turn.run_id, turn.number, status, counter, int(delay * 1000), error, error_type],
        )
        if new:
            self._recorded(status, "")
        if stands == "retrying" and error:
            event = {"type": "error", "error": error, "error_type": error_type, "agent_name": "", "step_number": None}
            await self._say(task_id, attempt, event | {"recoverable": True})
        return str(stands)

    async def end(
        self, turn: Turn, task: TaskPayload, status: str, *, value: str, error_type: str = "", payload: str
    ) -> str:
        """Record how the task has ended, end its events, keep a failed one as a dead letter; return what stands."""
        fields = {"completed": ["result", value], "failed": ["error", value, "error_type", error_type]}.get(status, [])
        stands, attempt, ours, new = await self._broker.call(
            "temporal_end", [keys.task(task.task_id)], [turn.run_id, turn.number, status, task.task_id, *fields]
        )
        if new:
            self._recorded(str(stands), task.agent_name)
        if stands not in TERMINAL:
            return str(stands)
        name = task.agent_name
        message = {
            "completed": f"Agent '{name}' completed execution",
            "cancelled": f"Task {task.task_id} cancelled",
        }.get(stands, value)
        event = {"type": "status", "status": TERMINAL[stands]}
        event |= {"agent_name": "" if stands == "cancelled" else name, "message": message}
        await self._say(task.task_id, attempt, event, final=True)
        if stands == "failed" and ours:
            letter = [task.task_id, value, error_type, payload, str(attempt)]
            await self._broker.call("temporal_bury", [keys.tagged(self._queue, "dead")], letter)
        return str(stands)

    async def _say(self, task_id: str, attempt: int, event: dict[str, Any], *, final: bool = False) -> None:
        head = json.dumps(event)[:-1]
        await self._broker.call(
            "temporal_say", [keys.stream(task_id)], [keys.events(task_id), attempt, "!" if final else "", head]
        )
