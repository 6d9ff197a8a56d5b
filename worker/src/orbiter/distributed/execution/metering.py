"""TaskMeter: counts what becomes of the tasks of one worker, for the metrics and for the heartbeat."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, assert_never

from orbiter.distributed.broker.records import Recorded
from orbiter.distributed.errors import kind_of
from orbiter.distributed.execution.counting import Counting
from orbiter.distributed.execution.endings import Died, Failed
from orbiter.distributed.telemetry import metrics
from orbiter.distributed.telemetry.instruments import SERIES_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orbiter.distributed.broker.records import StartResult
    from orbiter.distributed.execution.slot import Slot
    from orbiter.distributed.telemetry.instruments import Cell, Distribution

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
        clock: Monotonic seconds.
        now: Epoch seconds.

    Attributes:
        counting: What the queue's rates are made of.
    """

    def __init__(
        self,
        queue: str,
        worker_id: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._now = now
        self.queue = queue
        self.worker_id = worker_id
        self.counting = Counting()
        self._completed = self._failed = self._starts = 0
        self._waited = 0.0
        self._notes = deque([(clock(), Tally())])
        self._agents: dict[str, _Agent] = {}
        self._running = metrics.RUNNING.cell(queue)
        for instrument in metrics.OF_A_WORKER:
            instrument.cell(queue)

    def started(self, slots: Sequence[Slot]) -> None:
        """Count starts; a task has waited since it was put on the queue, which its entry id tells by Redis' clock."""
        now = self._now()
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
        self.counting.start(len(slots), [waited for waited_by in waits.values() for waited in waited_by])

    def ended(self, slot: Slot, recorded: Recorded) -> None:
        """Count the end of a run in a slot, by what stands of its task then."""
        name, duration = slot.agent_name, self._clock() - slot.started
        if recorded is Recorded.COMPLETED:
            self._completed += 1
            self.counting.end()
            agent = self._agent(name)
            agent.duration.record(duration, self._running, -1, agent.completed)
            return
        self._running.add(-1)
        match recorded:
            case Recorded.FAILED:
                self._failed += 1
                self.counting.end(failed=True)
                self._agent(name).failed.add(1)
                metrics.DURATION.record(duration, self.queue, name, recorded.value, _error_of(slot))
                metrics.DEAD_LETTERED.add(1, self.queue)
            case Recorded.CANCELLED:
                self.counting.end()
                metrics.CANCELLED.add(1, self.queue, name)
                metrics.DURATION.record(duration, self.queue, name, recorded.value, "")
            case Recorded.RETRYING:
                metrics.RETRIED.add(1, self.queue)
                metrics.DURATION.record(duration, self.queue, name, recorded.value, _error_of(slot))
            case Recorded.LOST:
                metrics.LEASES_LOST.add(1, self.queue)
            case Recorded.PENDING:
                metrics.HANDED_BACK.add(1, self.queue)
            case Recorded.DELEGATED:
                pass  # counted where it runs: run_began, run_ended, recorded
            case _:
                assert_never(recorded)

    # -- where Temporal gives the runs: any worker's may run here, and be recorded at a third one ---------------------

    def run_began(self, agent_name: str, waited: float | None, *, taken_over: bool) -> None:
        """Count the start of a run, which has waited so long since it was due if it is a task's second or later one."""
        self._running.add(1)
        if taken_over:
            metrics.RECLAIMED.add(1, self.queue)
        elif waited is not None:
            self._agent(agent_name).waited.record(max(0.0, waited))
        # The first run of a task was counted when it was delegated.
        if taken_over or waited is not None:
            self.counting.start(1)

    def run_ended(self, slot: Slot, kind: str, error_type: str) -> None:
        """Count the end of a run: by itself, ``cancelled``, ``handed back`` or ``lost``."""
        self._running.add(-1)
        duration, name = self._clock() - slot.started, slot.claim.task.agent_name
        if kind == "completed":
            self._agent(name).duration.record(duration)
        elif kind in {"failed", "retrying", "cancelled"}:
            metrics.DURATION.record(duration, self.queue, name, kind, error_type)
        elif kind == "lost":
            metrics.LEASES_LOST.add(1, self.queue)

    def recorded(self, status: str, agent_name: str) -> None:
        """Count what was recorded of a task: its end, or that it runs again (``retrying``, ``pending``)."""
        if status in {"completed", "failed", "cancelled"}:
            self.counting.end(failed=status == "failed")
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

    def not_run(self, started: StartResult) -> None:
        """Count a task that failed without a run here: it had lost too many workers, or is too large."""
        if started.verdict == "dead":
            self._failed += 1
            self.counting.end(failed=True)
            metrics.FAILED.add(1, self.queue, "")
            metrics.DEAD_LETTERED.add(1, self.queue)

    def recently(self) -> Tally:
        """Return what was counted during the last five minutes, or since the start."""
        now = self._clock()
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
    ending = slot.ending()
    if isinstance(ending, Died):
        return ending.error_type
    return kind_of(ending.error) if isinstance(ending, Failed) else "ConfigurationError"
