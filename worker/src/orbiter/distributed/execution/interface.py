"""The interface of execution: how a claimed task is run, and how that ended.

An executor gets a claim and returns one of :data:`~orbiter.distributed.execution.endings.Execution`; what it raises is
a failed run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine, Sequence

    from orbiter.distributed.broker.records import Claim
    from orbiter.distributed.execution.endings import Execution
    from orbiter.distributed.execution.running import RunTable
    from orbiter.distributed.execution.slot import Slot
    from orbiter.distributed.models import Event
    from orbiter.distributed.runtimes import Journal


class Intake(Protocol):
    """Where an executor says whether more tasks may be claimed for it.

    Attributes:
        available: Whether it can take tasks at all.
        delegated: Slots that are taken although no claim is held for them.
    """

    available: bool
    delegated: int

    def changed(self) -> None:
        """Look at both again."""


@dataclass(slots=True)
class ExecutorHealth:
    """How an executor is.

    Attributes:
        processes: Executor processes that live.
        rss_bytes: Memory of supervisor and executor processes together.
        loop_lag_ms: The longest that one of the loops that run tasks has been silent, lately.
        blocked_by: The task that blocks a loop now.
        threads: Abandoned threads: they run code of tasks that have been given up.
        problem: Why it takes no tasks, for people.
        failed_imports: What could not be imported, as ``module: reason``.
    """

    processes: int = 0
    rss_bytes: int = 0
    loop_lag_ms: float = 0
    blocked_by: str = ""
    threads: int = 0
    problem: str = ""
    failed_imports: tuple[str, ...] = ()


class Log(Protocol):
    """Takes the events of a run."""

    def emit(self, event: Event | str) -> None:
        """Add an event; a string is text. Callable from any thread."""

    def spend(self, model: str, agent: str, tokens_in: int, tokens_out: int) -> None:
        """Count an answer of a model. Callable from any thread."""

    async def pace(self) -> None:
        """Return when more may be emitted; let others have their turn."""


class Executor(Protocol):
    """Runs claimed tasks."""

    @property
    def tables(self) -> Sequence[RunTable]:
        """Runs in this process beside those in the worker's slots."""

    @property
    def degraded(self) -> bool:
        """Whether it cannot run tasks at present, although the worker lives."""

    def health(self) -> ExecutorHealth:
        """Return how it is; cheap, as every heartbeat asks."""

    @property
    def abandon_after(self) -> float:
        """Seconds after which a run that does not react to its cancellation is left behind; infinite where none is."""

    def execute(self, slot: Slot) -> Coroutine[Any, Any, Execution]:
        """Return the run of one task; what the run raises is a failure of the task.

        Args:
            slot: The claim, the log that takes its events, and the token that tells it to stop.
        """

    def time_limit(self, claim: Claim) -> float | None:
        """Return the seconds after which a run is stopped from here, or ``None`` where that is not done here."""

    def cancel(self, task_id: str) -> None:
        """Stop a task that does not run in the worker's slots, if it is this executor's."""

    def reload(self) -> bool:
        """Run new tasks with the code as it is now; return whether that is possible here."""

    async def prepare(self) -> None:
        """Begin what takes its time, before tasks can come."""

    async def close(self) -> None:
        """Leave nothing behind, however the worker ends."""

    async def run(self) -> None:
        """Do what execution needs besides, until cancelled or drained."""

    async def drain(self, deadline: float, hurry: asyncio.Event) -> int:
        """Let runs of its own end until ``deadline`` (monotonic) or ``hurry``; return how many were given back."""


class LocalExecutor(Executor, Protocol):
    """Runs tasks on this host, also as somebody else's: with another log, and a journal that outlives the run."""

    def execute(
        self, slot: Slot, *, log: Log | None = None, journal: Journal | None = None
    ) -> Coroutine[Any, Any, Execution]:
        """Return the run of one task; what the run raises is a failure of the task.

        Args:
            slot: The task.
            log: Takes its events in place of the slot's log.
            journal: What outlives this run, where something does.
        """
