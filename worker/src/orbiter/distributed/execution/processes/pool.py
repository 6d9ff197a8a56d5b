"""ProcessExecutor: runs tasks in executor processes, and sees to it that each run ends when it must."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections import deque
from dataclasses import asdict
from itertools import count
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orbiter.distributed.connection.backoff import Backoff
from orbiter.distributed.connection.deadlines import Deadlines
from orbiter.distributed.errors import RunError
from orbiter.distributed.execution.endings import Died, Failed, Requeued, StopReason
from orbiter.distributed.execution.interface import ExecutorHealth
from orbiter.distributed.execution.processes.blame import Blame
from orbiter.distributed.execution.processes.cgroups import cgroups_of_this_process, hard_limit
from orbiter.distributed.execution.processes.executor_process import ExecutorProcess, Run, environment_of_tasks
from orbiter.distributed.execution.processes.memory import resident, resident_by_session
from orbiter.distributed.execution.retry import worth_another_run
from orbiter.distributed.execution.slot import TaskTimeoutError
from orbiter.distributed.runtimes.imports import EVERYTHING
from orbiter.distributed.runtimes.task_limits import TaskLimits
from orbiter.distributed.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from orbiter.distributed.broker.records import Claim
    from orbiter.distributed.execution.endings import Execution
    from orbiter.distributed.execution.interface import Intake, Log
    from orbiter.distributed.execution.running import RunTable
    from orbiter.distributed.execution.slot import Slot
    from orbiter.distributed.runtimes import Journal
    from orbiter.distributed.settings import WorkerSettings

logger = logging.getLogger(__name__)

LONGEST_GRACE = 2.0
# A drained worker has little time left.
DRAIN_GRACE = 1.0
LOOK_EVERY, LOOK_SOON = 0.25, 0.05
SCAN_EVERY = 2.0
SWEEP_EVERY, SWEEPS = 0.01, 200
# A loop says so often that it turns, at least.
TICK = 0.5
START_WITHIN = 30.0
FINISH_WITHIN = 2.0
MOST_THREADS = 16
# A process that nothing ran in for so long waits for the next run.
SLEEPS_AFTER = 0.005
ALONE_AT_ONCE = 2
# While claims wait that must run alone, one more of them may every so often, seconds.
ONE_MORE_EVERY = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
# After so many processes in a row that did not come up the worker says that it takes no tasks.
FAILED_STARTS = 3
SLOW_IMPORT = 10.0
PROBE_AFTER, PROBE_AT_THE_LATEST = 5.0, 120.0
# Beyond the limit by this factor a process is killed: nobody could be asked to stop.
TOO_LARGE = 1.25
# Logged once new tasks run with the code as it is now.
REPLACED = "executor processes were replaced"


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
        self._intake = intake
        self._clock = clock
        self._grace = min(LONGEST_GRACE, settings.heartbeat_ttl / 4)
        self._env = environment_of_tasks(os.environ, secrets)
        self._tasks_alone = settings.isolation == "task"
        self._slots_each = 1 if self._tasks_alone else -(-settings.concurrency // settings.processes)
        # A long lease is for a slow host.
        self._start_within = max(START_WITHIN, settings.heartbeat_ttl)
        self._limit = settings.max_rss_per_process
        self._cgroups = cgroups_of_this_process()
        self._processes: list[ExecutorProcess] = []
        self._numbers, self._run_numbers = count(1), count(1)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._deadlines = Deadlines(clock)
        self._blame = Blame()
        self._failed_starts = 0
        self._restart = Backoff(FIRST_PAUSE, LONGEST_PAUSE, jitter=0)
        self._probe = Backoff(PROBE_AFTER, PROBE_AT_THE_LATEST, jitter=0)
        self._problem = ""
        self._failed_imports: dict[str, str] = {}
        self._bad_imports: dict[str, str] = {}
        # Since when claims wait that must run alone (monotonic).
        self._alone_waiting: list[float] = []
        self._suspects = asyncio.Lock()
        self._noting = 0
        self._wanted = asyncio.Event()
        self._look = asyncio.Event()
        self._ending = self._probing = self._reloading = False
        self._scanned = 0.0

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
        return bool(self._problem)

    def time_limit(self, claim: Claim) -> float | None:
        """Return the seconds that a run may take; ``None`` where it may have to wait for its turn first."""
        return None if claim.alone else claim.task.timeout_seconds

    def cancel(self, task_id: str) -> None:
        """Do nothing: what runs here is in the worker's slots."""

    def health(self) -> ExecutorHealth:
        """Return what the heartbeat says of execution."""
        alive = [process for process in self._processes if process.status is None]
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
            problem=self._problem,
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
        return hanging | self._bad_imports | self._failed_imports

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
        process = self._process_for(claim) or await self._wait_for_process(claim)
        if process is None:
            # Kept waiting here it would keep others from running it.
            return Died(self._problem, "ExecutorDiedError", guilty=False, host=True)
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
        since = self._clock()
        if claim.alone:
            self._alone_waiting.append(since)
        try:
            while not self._problem:
                await self._woken()
                if process := self._process_for(claim):
                    return process
            return None
        finally:
            if claim.alone:
                self._alone_waiting.remove(since)

    async def _stopped(self, process: ExecutorProcess, run: Run) -> Execution | None:
        """Ask a run to stop, and return how it ended once it has, or once nobody needs to wait for it."""
        if run.number not in process.runs:
            # It has ended in this very turn of the loop.
            return run.end.result() if run.end.done() and not run.end.cancelled() else None
        run.end = asyncio.get_running_loop().create_future()
        process.cancel(run)
        self._look.set()
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
                await self._woken()
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
            self._wake()

    # -- who runs where --------------------------------------------------------------------------------------------

    def _process_for(self, claim: Claim) -> ExecutorProcess | None:
        """Return a process for a run, or ``None`` while there is none."""
        single = self._tasks_alone or bool(claim.alone)
        best, load = None, self._slots_each
        for process in self._processes:
            if not process.up or process.retired or process.single is not single:
                continue
            if single:
                if not process.runs:
                    return process
            elif len(process.runs) < load:
                best, load = process, len(process.runs)
        if best is None:
            self._wanted.set()
        return best

    async def _woken(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiter)

    def _wake(self) -> None:
        """Let those who wait look again."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    def _open(self) -> None:
        """Say whether tasks may be claimed, and how many."""
        self._intake.available = not self._problem
        self._intake.changed()

    # -- what processes say ----------------------------------------------------------------------------------------

    def ready(self, process: ExecutorProcess) -> None:
        """Take note that a process can run tasks."""
        self._failed_starts = 0
        self._restart.reset()
        if self._problem and not self._blame.bad_host:
            self._well()
        logger.debug("ready: executor process %d", process.number)
        if self._reloading:
            self._reloading = False
            logger.warning(REPLACED)  # at a level that `orbiter dev` shows
        self._wake()

    def ended(self, process: ExecutorProcess, run: Run, ending: Execution | None) -> None:
        """Take note that a run has ended in its process."""
        if ending is not None:
            self._blame.ended()
            if self._problem or self._probing:
                self._well()
        elif run.instead is not None:
            ending = run.instead
        run.over(ending)
        settings = self._settings
        if (settings.max_tasks_per_process and process.started >= settings.max_tasks_per_process) or (
            self._tasks_alone
        ):
            self._retire(process)
        if process.retired:
            self._end_if_idle(process)
        elif process.threads > MOST_THREADS:
            self._retire(process)
        elif process.single and not self._alone_waiting:
            self._retire(process)
            self._end_if_idle(process)
        if self._waiting:
            self._wake()

    def died(self, process: ExecutorProcess) -> None:
        """Settle what ran in a process that is dead."""
        # It may have died before its start was over.
        with contextlib.suppress(ValueError):
            self._processes.remove(process)
        self._discard(process)
        self._wanted.set()
        runs = [run for run in process.runs.values() if not run.released]
        process.runs.clear()
        how = process.how()
        if not process.up and not runs and not process.finishing and process.started == 0:
            self._failed_start(process, how)
        victims = [run for run in runs if not run.asked and run.instead is None]
        for run in runs:
            if run.asked or run.instead is not None:
                run.over(run.instead)
        if (process.too_large and process.grower_known) or any(
            run.asked and run.number == process.guilty for run in runs
        ):
            for run in victims:
                run.over(Requeued(f"its executor process {how}, by another task's fault"))
        elif victims:
            self._victims(process, victims, how)
        self._wake()

    def _victims(self, process: ExecutorProcess, victims: list[Run], how: str) -> None:
        """Settle runs that died with their process and were not to stop."""
        guilty = next((run for run in victims if run.number == process.guilty), None)
        if process.killed_for and guilty is None and process.replaced:
            for run in victims:
                run.over(Requeued(f"its executor process {how}"))
            return
        ids = [run.slot.claim.task.task_id for run in victims]
        verdict = self._blame.died([guilty.slot.claim.task.task_id] if guilty else ids)
        metrics.EXECUTOR_LOSSES.add(
            1, self._settings.queue, "memory" if process.too_large else "blocked" if guilty else "died"
        )
        logger.error(
            "executor process %d (pid %d) %s; %d tasks ran in it",
            *(process.number, process.pid, how, len(victims)),
            extra={"task_id": ids[0] if len(ids) == 1 else None},
        )
        reason = f"its executor process {how}"
        for run in victims:
            if process.too_large and len(victims) == 1:
                run.over(Failed(RunError(how, "MemoryLimitError", final=True)))
            elif guilty is None:
                run.over(Died(reason, "ExecutorDiedError", guilty=verdict.works_well, host=verdict.host))
            elif run is guilty:
                # Seen, not suspected: as if it had been alone.
                run.slot.claim.alone = run.slot.claim.alone or "child"
                run.over(Died(reason, "ExecutorDiedError", guilty=True, host=False))
            else:
                run.over(Requeued(f"{reason}, by another task's fault"))
        if verdict.host:
            self._unwell(f"executor processes die here, whatever runs in them: the last one {how}")

    def _failed_start(self, process: ExecutorProcess, how: str) -> None:
        lines = "; ".join(line for line in process.last_lines[-3:] if line)
        for module in process.importing:
            self._bad_imports[module] = f"a process that imported it {how}"
        self._failed_starts += 1
        text = f"executor process {how} at its start" + (f": {lines}" if lines else "")
        logger.error("%s", text)
        if self._failed_starts >= FAILED_STARTS:
            self._unwell(text)

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
                process.cgroup.limit_memory(hard_limit(self._limit_of(process)))
        if reason and self._failed_imports.get(module) != reason:
            logger.warning("cannot import %s, which tasks may ask for: %s", module, reason)
        if reason:
            self._failed_imports[module] = reason
        else:
            self._failed_imports.pop(module, None)

    def spoiled(self, process: ExecutorProcess, reason: str) -> None:
        """Replace a process that is no good for more tasks; what runs in it may end there."""
        logger.warning("executor process %d is replaced: %s", process.number, reason)
        self._retire(process)
        self._end_if_idle(process)

    # -- well or not -----------------------------------------------------------------------------------------------

    def _unwell(self, problem: str) -> None:
        """Claim nothing for a while: this host fails its tasks."""
        pause = self._probe.pause()
        logger.error("no tasks are claimed for %.0f s: %s", pause, problem)
        self._problem = problem
        self._probing = False
        self._open()
        self._wake()
        asyncio.get_running_loop().call_later(pause, self._try_again)

    def _try_again(self) -> None:
        """Claim one task, to see whether it ends."""
        if not self._problem or self._ending:
            return
        if self._failed_starts >= FAILED_STARTS:
            self._wanted.set()
            asyncio.get_running_loop().call_later(self._probe.pause(), self._try_again)
            return
        self._problem, self._probing = "", True
        self._intake.delegated = max(0, self._settings.concurrency - 1)
        self._open()

    def _well(self) -> None:
        if self._problem or self._probing:
            logger.info("tasks run again")
        self._problem, self._probing = "", False
        self._intake.delegated = 0
        self._probe.reset()
        self._open()

    # -- keeping processes -----------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Start the processes that will be needed."""
        for single, wanted in self._missing():
            for _ in range(wanted):
                await self._start(single=single)

    async def close(self) -> None:
        """Kill what is left of them, and wait for their ends."""
        self._ending = True
        self._kill_all()
        await self._all_gone()

    async def _all_gone(self) -> None:
        ends = [asyncio.ensure_future(process.gone.wait()) for process in self._processes]
        if ends:
            _, left = await asyncio.wait(ends, timeout=FINISH_WITHIN)
            for end in left:
                end.cancel()
        # What their tasks have left was killed with them, and is gone in a moment.
        for _ in range(SWEEPS):
            if self._cgroups is None or self._cgroups.sweep():
                break
            await asyncio.sleep(SWEEP_EVERY)

    def _kill_all(self) -> None:
        for process in self._processes:
            process.kill("was ended with the worker")

    async def run(self) -> None:
        """Keep executor processes running and runs within their limits, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep())
                await self._watch()
        finally:
            self._kill_all()

    async def _keep(self) -> None:
        """Start processes as they are needed."""
        while True:
            self._wanted.clear()
            if not self._ending:
                await self.prepare()
            if self._failed_starts:
                await asyncio.sleep(self._restart.pause())
            await self._wanted.wait()

    def _missing(self) -> list[tuple[bool, int]]:
        """Return how many processes to start: whether for single runs, and the number."""
        usable = [process for process in self._processes if not process.retired]
        singles = sum(process.single for process in usable)
        free = sum(process.single and not process.runs for process in usable)
        waiting = len(self._waiting)
        settings = self._settings
        if self._tasks_alone:
            # Warm spares, and one for whoever waits.
            wanted = min(settings.concurrency + settings.processes - singles, max(waiting, settings.processes) - free)
            return [(True, max(0, wanted))]
        alone = max(0, min(self._alone_at_once - singles, len(self._alone_waiting) - free))
        return [(False, max(0, settings.processes - (len(usable) - singles))), (True, alone)]

    @property
    def _alone_at_once(self) -> int:
        """How many tasks may run alone at once: few, but tasks of an hour must not wait for each other."""
        longest = self._clock() - min(self._alone_waiting, default=self._clock())
        return max(ALONE_AT_ONCE, self._settings.processes) + int(longest // ONE_MORE_EVERY)

    @staticmethod
    def _live(process: ExecutorProcess) -> list[Run]:
        """Return the runs that somebody waits for and that may still end by themselves."""
        return [run for run in process.runs.values() if not run.deaf and not run.released]

    async def _start(self, *, single: bool) -> None:
        settings, number = self._settings, next(self._numbers)
        allow = [module for module in settings.allow_import if module != EVERYTHING]
        config = {
            "path": [entry or str(Path.cwd()) for entry in sys.path],
            "allow_import": list(settings.allow_import),
            "allow_models": list(settings.allow_models),
            "limits": asdict(TaskLimits.of(settings)),
            "preload": [module for module in allow if module not in self._bad_imports],
            "bad_imports": self._bad_imports,
            "queue": settings.queue,
            "worker_id": settings.worker_id,
            "max_result_bytes": settings.max_result_bytes,
            "max_event_bytes": settings.max_event_bytes,
            "log_level": logging.getLogger().getEffectiveLevel(),
            "weigh_above": self._limit // 2,
            "number": number,
        }
        slots = 1 if single else self._slots_each
        process = ExecutorProcess(
            number,
            single=single,
            config=config,
            env=self._env,
            owner=self,
            cgroup=self._cgroups.create(memory=hard_limit(self._limit), slots=slots) if self._cgroups else None,
            clock=self._clock,
        )
        try:
            await process.start()
        except OSError as error:
            self._discard(process)
            self._failed_starts += 1
            logger.error("no executor process could be started: %s", error)  # noqa: TRY400 - the system's answer
            if self._failed_starts >= FAILED_STARTS:
                self._unwell(f"no executor process could be started: {error}")
            return
        if not process.gone.is_set():
            self._processes.append(process)

    def _discard(self, process: ExecutorProcess) -> None:
        """Give up the cgroup of a process that is no more, with what its tasks have left in it."""
        if self._cgroups is not None and process.cgroup is not None:
            self._cgroups.discard(process.cgroup)

    def _retire(self, process: ExecutorProcess) -> None:
        """Give a process nothing new; what runs in it may end there."""
        if process.retired:
            return
        process.retired = True
        self._wanted.set()
        retired = [other for other in self._processes if other.retired and other.runs and other.status is None]
        if len(retired) > self._settings.processes and not self._tasks_alone:
            oldest = min(retired, key=lambda other: other.number)
            oldest.replaced = True
            oldest.kill("was replaced")

    def _end_if_idle(self, process: ExecutorProcess) -> None:
        if self._live(process) or process.status is not None or process.killed_for:
            return
        if process.runs:
            process.replaced = True
            process.kill("was ended: what ran in it did not stop")
        elif not process.finishing:
            process.finish()
            process.finish_by = self._clock() + FINISH_WITHIN

    def reload(self) -> bool:
        """Replace all processes; what runs in them gets the time of a drain to end, and runs again after that."""
        self._reloading = True
        for process in list(self._processes):
            process.end_by = self._clock() + self._settings.drain_timeout
            if not process.retired:
                process.retired = True
                self._end_if_idle(process)
        self._wanted.set()
        return True

    # -- watching --------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        last = self._clock()
        while True:
            soon = any(run.asked for process in self._processes for run in process.runs.values())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SOON if soon else LOOK_EVERY):
                    await self._look.wait()
            self._look.clear()
            now = self._clock()
            late, last = now - last > 1.0, now
            if late:
                # This process was stopped or starved: what the others have said comes first.
                await asyncio.sleep(0.01)
                continue
            for process in list(self._processes):
                if process.status is None:
                    self._watch_process(process, now)
            if now - self._scanned >= SCAN_EVERY:
                self._scanned = now
                self._scan()
                if self._cgroups is not None:
                    self._cgroups.sweep()
                if self._alone_waiting:
                    # By now one more may be allowed.
                    self._wanted.set()

    def _watch_process(self, process: ExecutorProcess, now: float) -> None:
        if not process.up:
            if now - process.born > self._start_within:
                process.kill(f"was not ready within {self._start_within:g} s")
            return
        if process.finishing:
            if now > process.finish_by:
                process.kill("did not end by itself")
            return
        if process.end_by and now > process.end_by and not process.killed_for:
            process.replaced = True
            process.kill("was replaced by one with newer code")
        slots = [run.slot for run in process.runs.values() if not run.released]
        # A durable run has no lease of its own: others run it once nothing was heard of this process for as long.
        until = now + self._settings.heartbeat_ttl
        process.lease(min(until, *(slot.leased_until for slot in slots)) if slots else 0.0)
        silent = now - process.heard - TICK
        asked = [run for run in process.runs.values() if run.asked and not run.released]
        for run in asked:
            self._watch_asked(process, run, now, silent)
        if not asked and silent > self._settings.stall_timeout:
            process.guilty = process.blocked_run
            where = f" at {process.blocked_at}" if process.blocked_at else ""
            process.kill(f"was killed: its loop was blocked for {silent + TICK:.0f} s{where}")
        if self._limit:
            self._weigh(process)
            self._watch_memory(process, now)

    def _watch_asked(self, process: ExecutorProcess, run: Run, now: float, silent: float) -> None:
        reason = run.slot.reason
        grace = min(self._grace, DRAIN_GRACE) if reason is StopReason.REQUEUED else self._grace
        if reason is StopReason.LOST:
            # Until the lease ends, a tenth of which was left.
            grace = min(grace, self._settings.heartbeat_ttl * 0.08)
        if now - run.asked < grace or process.killed_for:
            return
        if silent > grace:
            where = f" at {process.blocked_at}" if process.blocked_at else ""
            process.guilty = process.blocked_run
            process.kill(f"was killed: its loop was blocked{where}")
        elif reason in {StopReason.LOST, StopReason.REQUEUED} or run.instead is not None:
            process.replaced = True
            process.kill("was ended: what ran in it did not stop")
        else:
            if not run.deaf:
                logger.warning("does not stop", extra={"task_id": run.slot.claim.task.task_id})
            run.deaf = True
            if reason in {StopReason.CANCELLED, StopReason.OVER_LIMIT} or not self._runs_again(run):
                run.released = True
                run.over(None)
            self._retire(process)
            self._end_if_idle(process)

    def _runs_again(self, run: Run) -> bool:
        """Tell whether a run that took too long will be repeated, which must not be beside this one."""
        task, claim = run.slot.claim.task, run.slot.claim
        if run.importing:
            return False
        if claim.deliveries == 0:
            return True  # a durable run: its workflow knows
        return worth_another_run(TaskTimeoutError(), claim.retries, task.max_retries, self._settings.max_retries)

    # -- memory ----------------------------------------------------------------------------------------------------

    def _limit_of(self, process: ExecutorProcess) -> int:
        """Return the bytes that a process may hold: what it imports at its start may be much already."""
        return max(self._limit, process.baseline * 3 // 2)

    @staticmethod
    def _weigh(process: ExecutorProcess) -> None:
        """Weigh a process: what its tasks have started is known by its cgroup, or from the last scan."""
        size = process.cgroup.weigh() if process.cgroup is not None else 0
        process.resident = size or max(process.resident if process.scanned_large else 0, resident(process.pid))

    def _scan(self) -> None:
        """Weigh processes with what their tasks have started."""
        alive = {process.pid: process for process in self._processes if process.status is None}
        for pid, size in resident_by_session(alive).items():
            process = alive[pid]
            process.resident = size
            process.scanned_large = bool(self._limit) and size > self._limit
            if process.cgroup is not None:
                self._weigh(process)
                if process.cgroup.refused_processes() and process.up and not process.retired:
                    self.spoiled(process, "its tasks have started as many processes and threads as they may (pids.max)")

    def _watch_memory(self, process: ExecutorProcess, now: float) -> None:
        limit = self._limit_of(process)
        if process.resident <= limit:
            process.large_since = 0.0
        if process.resident <= limit or process.killed_for:
            return
        megabytes = f"{process.resident / 1e6:.0f} MB, more than the {limit / 1e6:.0f} MB of --max-rss-per-process"
        number, grown = process.grown
        run = process.runs.get(number)
        if not process.retired:
            logger.warning(
                "executor process %d has %s (ORBITER_MAX_RSS_PER_PROCESS): it is replaced", process.number, megabytes
            )
        if run is not None and grown >= limit / 4 and run.instead is None and not run.asked:
            text = f"out of memory: it made its executor process grow to {megabytes} (ORBITER_MAX_RSS_PER_PROCESS)"
            run.instead = Failed(RunError(text, "MemoryLimitError", final=True))
            logger.error("%s", text, extra={"task_id": run.slot.claim.task.task_id})
            process.cancel(run)
            process.grower_known = True
            # It has its time to stop, however long it was not known who grows.
            process.large_since = now
        first = process.large_since or now
        process.large_since = first
        self._retire(process)
        self._end_if_idle(process)
        if process.resident > limit * TOO_LARGE and now - first > self._grace and not process.killed_for:
            # What was weighed with its children is old by now: who made it grow may have ended meanwhile.
            self._scan()
            if process.resident <= limit * TOO_LARGE:
                return
            process.too_large = True
            process.kill(f"ran out of memory: it had {megabytes} (ORBITER_MAX_RSS_PER_PROCESS)")

    # -- the end ---------------------------------------------------------------------------------------------------

    async def drain(self, deadline: float, hurry: asyncio.Event) -> int:  # noqa: ARG002
        """End all processes; what ran in them has ended. Returns 0."""
        self._ending = True
        for process in self._processes:
            if process.up and not process.runs:
                process.finish()
                process.finish_by = self._clock() + FINISH_WITHIN
            else:
                process.kill("was ended with the worker")
        await self._all_gone()
        return 0
