"""DelegatedTasks: the steps of tasks that Temporal owns. No entry on the queue stands for them any more.

What guards them is not a claim but the workflow's own order: (run of the workflow, number of the run in it). Every
script touches one key, so these steps are the same in a cluster; each is harmless when sent again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orbiter.distributed.broker.calls import core, temporal
from orbiter.distributed.broker.records import EVENT_STATUS
from orbiter.distributed.limits import TASK_TTL

if TYPE_CHECKING:
    from collections.abc import Callable

    from orbiter.distributed.broker.records import Alone
    from orbiter.distributed.broker.task_broker import TaskBroker
    from orbiter.distributed.models import TaskPayload


@dataclass(frozen=True, slots=True)
class DurableRun:
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
    """The reply of :meth:`DelegatedTasks.begin`: ``run``, ``over``, ``cancelled`` or ``lost``; which attempt it is."""

    verdict: str
    attempt: int
    retries: int
    status: str
    alone: Alone


class DelegatedTasks:
    """Records what becomes of tasks that Temporal owns.

    Args:
        broker: Reaches Redis.
        queue: The queue from which they came.
        recorded: Told the status and the agent's name whenever something is recorded that was not yet.
    """

    def __init__(self, broker: TaskBroker, queue: str, *, recorded: Callable[[str, str], None]) -> None:
        self._broker = broker
        self._keys = broker.keys.of_queue(queue)
        self._recorded = recorded

    async def queue_id(self, proposed: str) -> str:
        """Return the queue's own id: the one that Redis knows, or else the proposed one, which it knows from now on."""
        return await self._broker.run(temporal.queue_id(self._keys, proposed))

    async def begin(self, durable: DurableRun, task: TaskPayload, worker_id: str, *, crashed: bool) -> Begun:
        """Begin a run, unless the task has ended or was cancelled."""
        run = {"workflow_id": durable.workflow_id, "run_id": durable.run_id}
        call = temporal.begin(self._keys, task, worker_id, number=durable.number, crashed=crashed, **run)
        return Begun(*await self._broker.run(call))

    async def suspect(self, durable: DurableRun, task_id: str) -> None:
        """Record that the task's later runs are alone in their executor process, on whatever worker."""
        await self._broker.run(temporal.suspect(self._keys, task_id, run_id=durable.run_id, number=durable.number))

    async def look(self, durable: DurableRun, task_id: str) -> str:
        """Say ``ok``, ``cancelled`` or ``lost`` of a run, and keep the task's record and events while it lives."""
        async with self._broker.client.pipeline(transaction=False) as pipeline:
            pipeline.hmget(self._keys.task(task_id), "status", "fence", "cancel_requested_at")
            pipeline.expire(self._keys.task(task_id), TASK_TTL)
            pipeline.expire(self._keys.event_stream(task_id), self._broker.event_ttl)
            (status, fence, asked), *_ = await self._broker.within(pipeline.execute())
        if status == "cancelled" or asked:
            return "cancelled"
        return "ok" if fence == durable.fence and status not in EVENT_STATUS else "lost"

    async def status(self, task_id: str) -> str | None:
        """Return the task's status."""
        status: Any = await self._broker.within(self._broker.client.hget(self._keys.task(task_id), "status"))
        return None if status is None else str(status)

    async def again(
        self,
        durable: DurableRun,
        task_id: str,
        status: str,
        *,
        delay: float = 0.0,
        error: str = "",
        error_type: str = "",
    ) -> str:
        """Record that the task runs again: ``retrying`` after an error, ``pending`` where it was handed back."""
        why = {"error": error, "error_type": error_type}
        recorded = await self._broker.run(
            temporal.reschedule(
                self._keys, task_id, status, run_id=durable.run_id, number=durable.number, delay=delay, **why
            )
        )
        if recorded.new:
            self._recorded(status, "")
        if recorded.status == "retrying" and error:
            event = {"type": "error", "error": error, "error_type": error_type, "agent_name": "", "step_number": None}
            await self._append(task_id, recorded.attempt, event | {"recoverable": True})
        return recorded.status

    async def end(
        self, durable: DurableRun, task: TaskPayload, status: str, *, value: str, error_type: str = "", payload: str
    ) -> str:
        """Record how the task has ended, end its events, keep a failed one as a dead letter; return what stands."""
        fields = {"completed": ["result", value], "failed": ["error", value, "error_type", error_type]}.get(status, [])
        recorded = await self._broker.run(
            temporal.end(self._keys, task.task_id, status, fields, run_id=durable.run_id, number=durable.number)
        )
        stands = recorded.status
        if recorded.new:
            self._recorded(stands, task.agent_name)
        if stands not in EVENT_STATUS:
            return stands
        name = task.agent_name
        message = {
            "completed": f"Agent '{name}' completed execution",
            "cancelled": f"Task {task.task_id} cancelled",
        }.get(stands, value)
        event = {"type": "status", "status": EVENT_STATUS[stands]}
        event |= {"agent_name": "" if stands == "cancelled" else name, "message": message}
        await self._append(task.task_id, recorded.attempt, event, final=True)
        if stands == "failed" and recorded.ours:
            letter = {"error_type": error_type, "payload": payload, "attempt": str(recorded.attempt)}
            await self._broker.run(core.dead_letter_once(self._keys, task.task_id, reason=value, **letter))
        return stands

    async def _append(self, task_id: str, attempt: int, event: dict[str, Any], *, final: bool = False) -> None:
        head = json.dumps(event)[:-1]
        await self._broker.run(temporal.append_event(self._keys, task_id, attempt, head, final=final))
