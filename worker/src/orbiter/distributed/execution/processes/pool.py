"""ProcessExecutor: runs tasks in executor processes.

It is made of those beside it: demand (who waits), fitness (whether this host can run tasks), keeper (starts processes
and lets them end), watch (what must end now, and memory), losses (what becomes of runs whose process died).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any

from orbiter.distributed.connection.deadlines import Deadlines
from orbiter.distributed.errors import RunError
from orbiter.distributed.execution.endings import Died, Failed, Requeued, StopReason
from orbiter.distributed.execution.interface import ExecutorHealth
from orbiter.distributed.execution.processes.cgroups import hard_limit
from orbiter.distributed.execution.processes.demand import Demand
from orbiter.distributed.execution.processes.executor_process import Run
from orbiter.distributed.execution.processes.fitness import Fitness
from orbiter.distributed.execution.processes.keeper import TRACEBACKS, Keeper
from orbiter.distributed.execution.processes.losses import Losses
from orbiter.distributed.execution.processes.memory import resident
from orbiter.distributed.execution.processes.watch import TICK, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from orbiter.distributed.broker.records import Claim
    from orbiter.distributed.execution.endings import Execution
    from orbiter.distributed.execution.interface import Intake, Log
    from orbiter.distributed.execution.processes.executor_process import ExecutorProcess
    from orbiter.distributed.execution.running import RunTable
    from orbiter.distributed.execution.slot import Slot
    from orbiter.distributed.runtimes import Journal
    from orbiter.distributed.settings import WorkerSettings

logger = logging.getLogger(__name__)

MOST_THREADS = 16
# A process that nothing ran in for so long waits for the next run.
SLEEPS_AFTER = 0.005
SLOW_IMPORT = 10.0
# Logged once new tasks run with the code as it is now.
REPLACED = "executor processes were replaced"
# Logged for `orbiter dev` only: what tasks may ask for is imported, or it has been logged why not.
IMPORTED = "an executor process has done its imports"


class ProcessExecutor:
    """Runs tasks in executor processes.

    Args:
        settings: The worker's.
        intake: Told whether tasks may be claimed.
        secrets: Passwords and the like, which no task may find in its environment.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        intake: Intake,
        secrets: tuple[str, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._limit = settings.max_rss_per_process
        self._demand = Demand(clock)
        self._fitness = Fitness(intake, settings.concurrency, self._demand)
        self._keeper = Keeper(
            settings, owner=self, secrets=secrets, demand=self._demand, fitness=self._fitness, clock=clock
        )
        self._watch = Watch(settings, self._keeper, self._demand, clock=clock)
        self._losses = Losses(settings.queue, self._keeper, self._fitness)
        self._run_numbers = count(1)
        self._deadlines = Deadlines(clock)
        self._failed_imports: dict[str, str] = {}
        self._suspects = asyncio.Lock()
        self._noting = 0

    # -- what the worker asks --------------------------------------------------------------------------------------

    @property
    def abandon_after(self) -> float:
        """Never: what does not stop is killed."""
        return inf

    @property
    def tables(self) -> Sequence[RunTable]:
        """None: all runs are in the worker's slots."""
        return ()

    @property
    def degraded(self) -> bool:
        """Whether no task can run here at present."""
        return bool(self._fitness.problem)

    def time_limit(self, claim: Claim) -> float | None:
        """Return the seconds that a run may take; ``None`` where it may have to wait for its turn first."""
        return None if claim.alone else claim.task.timeout_seconds

    def cancel(self, task_id: str) -> None:
        """Do nothing: what runs here is in the worker's slots."""

    def health(self) -> ExecutorHealth:
        """Return what the heartbeat says of execution."""
        alive = [process for process in self._keeper.processes if process.status is None]
        blocked = next((process for process in alive if process.blocked_run in process.runs), None)
        now = self._clock()
        silent = max((now - process.heard - TICK for process in alive if process.up), default=0.0)
        lag = max([silent * 1000 if silent > TICK else 0.0, *(process.lag for process in alive)])
        return ExecutorHealth(
            processes=len(alive),
            rss_bytes=resident(os.getpid()) + sum(process.resident for process in alive),
            loop_lag_ms=round(lag, 1),
            blocked_by=blocked.runs[blocked.blocked_run].slot.claim.task.task_id if blocked else "",
            threads=sum(process.threads for process in alive),
            problem=self._fitness.problem,
            failed_imports=tuple(f"{module}: {reason}" for module, reason in sorted(self._imports(alive).items())),
        )

    def _imports(self, alive: Sequence[ExecutorProcess]) -> dict[str, str]:
        """Return what cannot be imported, or hangs, with what is known of it."""
        now = self._clock()
        hanging = {
            module: f"is still being imported after {now - since:.0f} s"
            for process in alive
            for module, since in process.importing.items()
            if now - since > SLOW_IMPORT
        }
        return hanging | self._keeper.bad_imports | self._failed_imports

    # -- one run ---------------------------------------------------------------------------------------------------

    def execute(
        self, slot: Slot, *, log: Log | None = None, journal: Journal | None = None
    ) -> Coroutine[Any, Any, Execution]:
        """Return the run of one task.

        Args:
            slot: The task.
            log: Takes its events in place of the slot's log.
            journal: What outlives this run, where something does.
        """
        if slot.claim.alone == "worker":
            return self._run_as_suspect(slot, log or slot.log, journal)
        return self._run(slot, log or slot.log, journal)

    async def _run(self, slot: Slot, log: Log, journal: Journal | None) -> Execution:
        claim = slot.claim
        process = self._keeper.for_run(claim) or await self._wait_for_process(claim)
        if process is None:
            # Kept waiting here it would keep others from running it.
            return Died(self._fitness.problem, "ExecutorDiedError", guilty=False, host=True)
        run = Run(next(self._run_numbers), slot, log, journal)
        slot.log.on_sent = lambda size: process.give_credit(run, size)
        process.lease_no_longer(min(self._clock() + self._settings.heartbeat_ttl, slot.leased_until))
        process.begin(run, claim.payload.encode() if claim.payload else claim.task.to_json().encode())
        if len(process.runs) == 1 and self._clock() - process.ended_last > SLEEPS_AFTER:
            # It sleeps: where it has this core it runs before what this process does next.
            process.flush()
            os.sched_yield()
        if claim.alone:
            self._deadlines.add(slot, claim.task.timeout_seconds)
        try:
            ending = await run.end
        except asyncio.CancelledError:
            ending = await self._stopped(process, run)
        if claim.alone:
            self._deadlines.remove(slot)
        if ending is None:
            raise asyncio.CancelledError
        return ending

    async def _wait_for_process(self, claim: Claim) -> ExecutorProcess | None:
        """Return a process once there is one for this claim, or ``None`` where none can be had here."""
        with self._demand.counted_alone() if claim.alone else contextlib.nullcontext():
            while not self._fitness.problem:
                await self._demand.woken()
                if process := self._keeper.for_run(claim):
                    return process
        return None

    async def _stopped(self, process: ExecutorProcess, run: Run) -> Execution | None:
        """Ask a run to stop, and return how it ended once it has, or once nobody needs to wait for it."""
        if run.number not in process.runs:
            # It has ended in this very turn of the loop.
            return run.end.result() if run.end.done() and not run.end.cancelled() else None
        run.end = asyncio.get_running_loop().create_future()
        process.cancel(run)
        self._watch.soon()
        ending = await run.end
        if ending is None and run.importing and run.slot.reason is StopReason.TIMED_OUT:
            limit = run.slot.claim.task.timeout_seconds
            text = f"importing {run.importing} took longer than timeout_seconds={limit:g}"
            return Failed(RunError(text, "ConfigurationError", final=True))
        return ending

    async def _run_as_suspect(self, slot: Slot, log: Log, journal: Journal | None) -> Execution:
        """Run a task whose workers were lost again and again beside no other such task: it alone is to blame then.

        Tasks of an hour must not wait for each other: after two leases it runs all the same.
        """
        acquired, waits = False, self._suspects.locked()
        if waits:
            await self._note_waiting(slot, waits=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * self._settings.heartbeat_ttl):
                acquired = await self._suspects.acquire()
        try:
            # What was claimed with it comes first: it says that it waits. This one may end the worker.
            await asyncio.sleep(0)
            while self._noting:
                await self._demand.woken()
            if waits and not await self._note_waiting(slot, waits=False):
                return Requeued("what Redis keeps of it could not be changed")
            return await self._run(slot, log, journal)
        finally:
            if acquired:
                self._suspects.release()

    async def _note_waiting(self, slot: Slot, *, waits: bool) -> bool:
        """Record that a run waits for its turn, or no longer does; tell whether that is recorded."""
        if slot.note_waiting is None:
            return True
        self._noting += 1
        try:
            return await slot.note_waiting(waits)
        finally:
            self._noting -= 1
            self._demand.wake()

    # -- what processes say ----------------------------------------------------------------------------------------

    def ready(self, process: ExecutorProcess) -> None:
        """Take note that a process can run tasks."""
        self._fitness.started()
        logger.debug("ready: executor process %d", process.number)
        if self._keeper.reloading:
            self._keeper.reloading = False
            logger.warning(REPLACED)  # at a level that `orbiter dev` shows
        self._demand.wake()

    def ended(self, process: ExecutorProcess, run: Run, ending: Execution | None) -> None:
        """Take note that a run has ended in its process."""
        if ending is not None:
            self._fitness.task_ended()
        elif run.instead is not None:
            ending = run.instead
        run.over(ending)
        keeper, settings = self._keeper, self._settings
        if (settings.max_tasks_per_process and process.started >= settings.max_tasks_per_process) or (
            keeper.tasks_alone
        ):
            keeper.retire(process)
        if process.retired:
            keeper.end_if_idle(process)
        elif process.threads > MOST_THREADS:
            keeper.retire(process)
        elif process.single and not self._demand.waiting_alone:
            keeper.retire(process)
            keeper.end_if_idle(process)
        if self._demand.waiting:
            self._demand.wake()

    def died(self, process: ExecutorProcess) -> None:
        """Settle what ran in a process that is dead."""
        self._keeper.forget(process)
        self._losses.settle(process)
        self._demand.wake()

    def blocked(self, process: ExecutorProcess, seconds: float, run: int, where: str) -> None:
        """Log what blocks a loop."""
        found = process.runs.get(run)
        who = f"task {found.slot.claim.task.task_id}" if found else "what belongs to no task"
        extra = {"executor": process.number}
        logger.warning("loop blocked for %.0f s by %s at %s", seconds, who, where or "an unknown place", extra=extra)

    def imported(self, process: ExecutorProcess, module: str, reason: str) -> None:
        """Take note of an import at the start of a process."""
        process.baseline = max(process.baseline, resident(process.pid))
        if process.cgroup is not None and self._limit:
            with contextlib.suppress(OSError):
                process.cgroup.limit_memory(hard_limit(self._watch.limit_of(process)))
        if reason and self._failed_imports.get(module) != reason:
            logger.warning("cannot import %s, which tasks may ask for: %s", module, reason)
        if reason:
            self._failed_imports[module] = reason
        else:
            self._failed_imports.pop(module, None)
        if not process.not_imported and TRACEBACKS in os.environ:
            logger.warning(IMPORTED)  # at a level that it shows

    def spoiled(self, process: ExecutorProcess, reason: str) -> None:
        """Replace a process that is no good for more tasks; what runs in it may end there."""
        self._keeper.replace(process, reason)

    # -- from start to end --------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Start the processes that will be needed."""
        await self._keeper.prepare()

    async def run(self) -> None:
        """Keep executor processes running and runs within their limits, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keeper.keep())
                await self._watch.run()
        finally:
            self._keeper.kill_all()

    def reload(self) -> bool:
        """Replace all processes; what runs in them gets the time of a drain to end, and runs again after that."""
        self._keeper.reload()
        return True

    async def drain(self, deadline: float, hurry: asyncio.Event) -> int:  # noqa: ARG002
        """End all processes; what ran in them has ended. Returns 0."""
        await self._keeper.drain()
        return 0

    async def close(self) -> None:
        """Kill what is left of them, and wait for their ends."""
        await self._keeper.close()
