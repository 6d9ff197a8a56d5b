"""Watch: sees to it that each run ends when it must, and that each process stays within its limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from orbiter.distributed.errors import RunError
from orbiter.distributed.execution.endings import Failed, StopReason
from orbiter.distributed.execution.processes.cgroups import hard_limit
from orbiter.distributed.execution.processes.memory import resident, resident_by_session
from orbiter.distributed.execution.retry import worth_another_run
from orbiter.distributed.execution.slot import TaskTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from orbiter.distributed.execution.processes.demand import Demand
    from orbiter.distributed.execution.processes.executor_process import ExecutorProcess, Run
    from orbiter.distributed.execution.processes.keeper import Keeper
    from orbiter.distributed.settings import WorkerSettings

logger = logging.getLogger(__name__)

LONGEST_GRACE = 2.0
# Who is stopped for its memory: no lease ends meanwhile, and memory has a limit of its own.
MEMORY_GRACE = 10.0
# A drained worker has little time left.
DRAIN_GRACE = 1.0
LOOK_EVERY, LOOK_SOON = 0.25, 0.05
SCAN_EVERY = 2.0
# A loop says so often that it turns, at least.
TICK = 0.5
START_WITHIN = 30.0
# Beyond the limit by this factor a process is killed where nobody could be asked to stop.
TOO_LARGE = 1.25


class Watch:
    """Looks at all processes four times a second, more often while a run is to stop.

    Args:
        settings: The worker's.
        keeper: Has the processes, and lets them end.
        demand: Who waits for one.
        clock: Monotonic seconds.
    """

    def __init__(self, settings: WorkerSettings, keeper: Keeper, demand: Demand, *, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._keeper = keeper
        self._demand = demand
        self._clock = clock
        self._grace = min(LONGEST_GRACE, settings.heartbeat_ttl / 4)
        # A long lease is for a slow host.
        self._start_within = max(START_WITHIN, settings.heartbeat_ttl)
        self._limit = settings.max_rss_per_process
        self._look = asyncio.Event()
        self._scanned = 0.0

    def soon(self) -> None:
        """Look now: a run has been told to stop."""
        self._look.set()

    def limit_of(self, process: ExecutorProcess) -> int:
        """Return the bytes that a process may hold: what it imports at its start may be much already."""
        return max(self._limit, process.baseline * 3 // 2)

    async def run(self) -> None:
        """Watch, until cancelled."""
        last = self._clock()
        while True:
            soon = any(run.asked for process in self._keeper.processes for run in process.runs.values())
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
            for process in list(self._keeper.processes):
                if process.status is None:
                    self._watch_process(process, now)
            if now - self._scanned >= SCAN_EVERY:
                self._scanned = now
                self._scan()
                if self._keeper.cgroups is not None:
                    self._keeper.cgroups.sweep()
                if self._demand.waiting_alone:
                    # By now one more may be allowed.
                    self._demand.wanted.set()

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
        if run.instead is not None and reason is None:
            grace = MEMORY_GRACE
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
                logger.warning(
                    "task was told to stop and still runs, its executor process gets no new task",
                    extra={"task_id": run.slot.claim.task.task_id},
                )
            run.deaf = True
            if reason in {StopReason.CANCELLED, StopReason.OVER_LIMIT} or not self._runs_again(run):
                run.released = True
                run.over(None)
            self._keeper.retire(process)
            self._keeper.end_if_idle(process)

    def _runs_again(self, run: Run) -> bool:
        """Tell whether a run that took too long will be repeated, which must not be beside this one."""
        task, claim = run.slot.claim.task, run.slot.claim
        if run.importing:
            return False
        if claim.deliveries == 0:
            return True  # a durable run: its workflow knows
        return worth_another_run(TaskTimeoutError(), claim.retries, task.max_retries, self._settings.max_retries)

    # -- memory ----------------------------------------------------------------------------------------------------

    @staticmethod
    def _weigh(process: ExecutorProcess) -> None:
        """Weigh a process: what its tasks have started is known by its cgroup, or from the last scan."""
        size = process.cgroup.weigh() if process.cgroup is not None else 0
        process.resident = size or max(process.resident if process.scanned_large else 0, resident(process.pid))

    def _scan(self) -> None:
        """Weigh processes with what their tasks have started."""
        alive = {process.pid: process for process in self._keeper.processes if process.status is None}
        for pid, size in resident_by_session(alive).items():
            process = alive[pid]
            process.resident = size
            process.scanned_large = bool(self._limit) and size > self._limit
            if process.cgroup is not None:
                self._weigh(process)
                if process.cgroup.refused_processes() and process.up and not process.retired:
                    self._keeper.replace(
                        process, "its tasks have started as many processes and threads as they may (pids.max)"
                    )

    def _watch_memory(self, process: ExecutorProcess, now: float) -> None:
        limit = self.limit_of(process)
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
        self._keeper.retire(process)
        self._keeper.end_if_idle(process)
        # Whoever grew was stopped: it grows no more, and may keep what it has until those beside it have ended.
        most = hard_limit(limit) if process.grower_known else limit * TOO_LARGE
        if process.resident > most and now - first > self._grace and not process.killed_for:
            # What was weighed with its children is old by now: who made it grow may have ended meanwhile.
            self._scan()
            if process.resident <= most:
                return
            process.too_large = True
            process.kill(f"ran out of memory: it had {megabytes} (ORBITER_MAX_RSS_PER_PROCESS)")
