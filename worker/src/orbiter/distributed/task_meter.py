"""TaskMeter: counts what becomes of the tasks of one worker, for the metrics and for the heartbeat."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from orbiter.distributed import metrics
from orbiter.distributed.instruments import SERIES_LIMIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orbiter.distributed.claims import Started
    from orbiter.distributed.instruments import Cell, Distribution
    from orbiter.distributed.slot import Slot

# What "recently" means, seconds: to the heartbeat, and so to the alerts.
RECENT = 300.0
_NOTED_EVERY = 5.0


class Tally(NamedTuple):
    """Tasks that completed and that failed for good; starts of tasks, and how long these had waited, in all."""

    completed: int = 0
    failed: int = 0
    starts: int = 0
    waited: float = 0.0


class _Agent(NamedTuple):
    """What an agent's tasks are counted in: looked up once, as it is needed twice a task."""

    completed: Cell
    failed: Cell
    duration: Distribution
    waited: Distribution


class TaskMeter:
    """Told of every start and end.

    Args:
        queue: The queue.
        worker_id: The worker.
    """

    def __init__(self, queue: str, worker_id: str) -> None:
        self.queue = queue
        self.worker_id = worker_id
        self._completed = self._failed = self._starts = 0
        self._waited = 0.0
        self._notes = deque([(time.monotonic(), Tally())])
        self._agents: dict[str, _Agent] = {}
        self._running = metrics.RUNNING.cell(queue)
        for instrument in metrics.OF_A_WORKER:
            instrument.cell(queue)

    def started(self, slots: Sequence[Slot]) -> None:
        """Count starts; a task has waited since it was put on the queue, which its entry id tells by Redis' clock."""
        now = time.time()
        waits: dict[str, list[float]] = {}
        for slot in slots:
            claim = slot.claim
            # A task of a worker that died has not waited: it ran, elsewhere.
            if claim.deliveries == 1:
                waited = now - int(claim.entry_id.partition("-")[0]) / 1000
                # Below 0 where the clocks differ.
                waits.setdefault(slot.agent_name, []).append(waited if waited > 0 else 0.0)
        self._running.add(len(slots))
        for name, waited_by in waits.items():
            self._agent(name).waited.record_all(waited_by)
            self._starts += len(waited_by)
            self._waited += sum(waited_by)

    def ended(self, slot: Slot, recorded: str) -> None:
        """Count an end: ``completed``, ``failed``, ``cancelled``, ``retrying``, ``pending`` or ``lost``."""
        name, duration = slot.agent_name, time.monotonic() - slot.started
        if recorded == "completed":
            self._completed += 1
            agent = self._agent(name)
            agent.duration.record(duration, self._running, -1, agent.completed)
            return
        self._running.add(-1)
        if recorded == "transferred":
            return  # to Temporal, whose runs are counted where they are: run_began, run_ended, recorded
        if recorded == "failed":
            self._failed += 1
            self._agent(name).failed.add(1)
            metrics.DURATION.record(duration, self.queue, name, recorded, _error_of(slot))
            metrics.DEAD_LETTERED.add(1, self.queue)
        elif recorded == "cancelled":
            metrics.CANCELLED.add(1, self.queue, name)
            metrics.DURATION.record(duration, self.queue, name, recorded, "")
        elif recorded == "retrying":
            metrics.RETRIED.add(1, self.queue)
            metrics.DURATION.record(duration, self.queue, name, recorded, _error_of(slot))
        else:
            (metrics.LEASES_LOST if recorded == "lost" else metrics.HANDED_BACK).add(1, self.queue)

    # -- where Temporal gives the runs: any worker's may run here, and be recorded at a third one ---------------------

    def run_began(self, agent_name: str, waited: float | None, *, taken_over: bool) -> None:
        """Count the start of a run, which has waited so long since it was due if it is a task's second or later one."""
        self._running.add(1)
        if taken_over:
            metrics.RECLAIMED.add(1, self.queue)
        elif waited is not None:
            self._agent(agent_name).waited.record(max(0.0, waited))

    def run_ended(self, slot: Slot, kind: str, error_type: str) -> None:
        """Count the end of a run: by itself, ``cancelled``, ``handed back`` or ``lost``."""
        self._running.add(-1)
        duration, name = time.monotonic() - slot.started, slot.claim.task.agent_name
        if kind == "completed":
            self._agent(name).duration.record(duration)
        elif kind in {"failed", "retrying", "cancelled"}:
            metrics.DURATION.record(duration, self.queue, name, kind, error_type)
        elif kind == "lost":
            metrics.LEASES_LOST.add(1, self.queue)

    def recorded(self, status: str, agent_name: str) -> None:
        """Count what was recorded of a task: its end, or that it runs again (``retrying``, ``pending``)."""
        if status == "completed":
            self._completed += 1
            self._agent(agent_name).completed.add(1)
        elif status == "failed":
            self._failed += 1
            self._agent(agent_name).failed.add(1)
            metrics.DEAD_LETTERED.add(1, self.queue)
        elif status == "cancelled":
            metrics.CANCELLED.add(1, self.queue, agent_name)
        elif status in {"retrying", "pending"}:
            (metrics.RETRIED if status == "retrying" else metrics.HANDED_BACK).add(1, self.queue)

    def not_run(self, started: Started) -> None:
        """Count a task that failed without a run here: it had lost too many workers, or is too large."""
        if started.verdict == "dead":
            self._failed += 1
            metrics.FAILED.add(1, self.queue, "")
            metrics.DEAD_LETTERED.add(1, self.queue)

    def recently(self) -> Tally:
        """Return what was counted during the last five minutes, or since the start."""
        now = time.monotonic()
        total = Tally(self._completed, self._failed, self._starts, self._waited)
        notes = self._notes
        while len(notes) > 1 and now - notes[1][0] >= RECENT:
            notes.popleft()
        before = notes[0][1]
        if now - notes[-1][0] >= _NOTED_EVERY:
            notes.append((now, total))
        return Tally(
            total.completed - before.completed,
            total.failed - before.failed,
            total.starts - before.starts,
            total.waited - before.waited,
        )

    def _agent(self, name: str) -> _Agent:
        found = self._agents.get(name)
        if found is None:
            found = _Agent(
                completed=metrics.COMPLETED.cell(self.queue, name),
                failed=metrics.FAILED.cell(self.queue, name),
                duration=metrics.DURATION.cell(self.queue, name, "completed", ""),
                waited=metrics.WAIT_TIME.cell(self.queue, name),
            )
            if len(self._agents) < SERIES_LIMIT:
                self._agents[name] = found
        return found


def _error_of(slot: Slot) -> str:
    error = slot.ended().error
    return type(error).__name__ if error is not None else "ConfigurationError"
