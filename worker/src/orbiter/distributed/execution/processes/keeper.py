"""Keeper: the executor processes of a worker: how many there are, which may be given runs, and when each ends."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from orbiter.distributed.execution.processes.cgroups import cgroups_of_this_process, hard_limit
from orbiter.distributed.execution.processes.executor_process import ExecutorProcess, environment_of_tasks
from orbiter.distributed.runtimes.imports import EVERYTHING
from orbiter.distributed.runtimes.task_limits import TaskLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from orbiter.distributed.broker.records import Claim
    from orbiter.distributed.execution.processes.demand import Demand
    from orbiter.distributed.execution.processes.executor_process import Owner, Run
    from orbiter.distributed.execution.processes.fitness import Fitness
    from orbiter.distributed.settings import WorkerSettings

logger = logging.getLogger(__name__)

SWEEP_EVERY, SWEEPS = 0.01, 200
FINISH_WITHIN = 2.0
ALONE_AT_ONCE = 2
# While claims wait that must run alone, one more of them may every so often, seconds.
ONE_MORE_EVERY = 5.0
# A variable of `orbiter dev`, whose user wrote the code that raises: the worker shows where.
TRACEBACKS = "ORBITER_TRACEBACKS"


class Keeper:
    """Starts processes as they are needed, and lets them end.

    Args:
        settings: The worker's.
        owner: Told what becomes of each process.
        secrets: Passwords and the like, which no task may find in its environment.
        demand: Who waits for a process.
        fitness: Told of processes that do not come up.
        clock: Monotonic seconds.

    Attributes:
        processes: Those that live, and those whose end nobody has been told of yet.
        bad_imports: Modules that no process is to import at its start, with the reason.
        tasks_alone: Whether each task has a process of its own.
        cgroups: What makes one for each process, where there are any.
        reloading: Processes have been replaced, and no new one is ready yet.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        owner: Owner,
        secrets: tuple[str, ...],
        demand: Demand,
        fitness: Fitness,
        clock: Callable[[], float],
    ) -> None:
        self.processes: list[ExecutorProcess] = []
        self.bad_imports: dict[str, str] = {}
        self.tasks_alone = settings.isolation == "task"
        self.cgroups = cgroups_of_this_process()
        self.reloading = False
        self._settings = settings
        self._owner = owner
        self._env = environment_of_tasks(os.environ, secrets)
        self._demand = demand
        self._fitness = fitness
        self._clock = clock
        self._slots_each = 1 if self.tasks_alone else -(-settings.concurrency // settings.processes)
        self._limit = settings.max_rss_per_process
        self._numbers = count(1)

    def for_run(self, claim: Claim) -> ExecutorProcess | None:
        """Return a process for a run, or ``None`` while there is none."""
        single = self.tasks_alone or bool(claim.alone)
        best, load = None, self._slots_each
        for process in self.processes:
            if not process.up or process.retired or process.single is not single:
                continue
            if single:
                if not process.runs:
                    return process
            elif len(process.runs) < load:
                best, load = process, len(process.runs)
        if best is None:
            self._demand.wanted.set()
        return best

    # -- starts ----------------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Start processes as they are needed, until cancelled."""
        while True:
            self._demand.wanted.clear()
            if not self._fitness.ending:
                await self.prepare()
            if pause := self._fitness.pause_before_start():
                await asyncio.sleep(pause)
            await self._demand.wanted.wait()

    async def prepare(self) -> None:
        """Start the processes that will be needed."""
        for single, wanted in self._missing():
            for _ in range(wanted):
                await self._start(single=single)

    def _missing(self) -> list[tuple[bool, int]]:
        """Return how many processes to start: whether for single runs, and the number."""
        usable = [process for process in self.processes if not process.retired]
        singles = sum(process.single for process in usable)
        free = sum(process.single and not process.runs for process in usable)
        settings, demand = self._settings, self._demand
        if self.tasks_alone:
            # Warm spares, and one for whoever waits.
            wanted = min(
                settings.concurrency + settings.processes - singles, max(demand.waiting, settings.processes) - free
            )
            return [(True, max(0, wanted))]
        alone = max(0, min(self._alone_at_once - singles, demand.waiting_alone - free))
        return [(False, max(0, settings.processes - (len(usable) - singles))), (True, alone)]

    @property
    def _alone_at_once(self) -> int:
        """How many tasks may run alone at once: few, but tasks of an hour must not wait for each other."""
        few = max(ALONE_AT_ONCE, self._settings.processes)
        if any(process.single and not process.up for process in self.processes):
            # It is not for them that somebody waits: more that start at once would make a slow host slower.
            return few
        return few + int(self._demand.longest_alone() // ONE_MORE_EVERY)

    async def _start(self, *, single: bool) -> None:
        settings, number = self._settings, next(self._numbers)
        allow = [module for module in settings.allow_import if module != EVERYTHING]
        config = {
            "path": [entry or str(Path.cwd()) for entry in sys.path],
            "allow_import": list(settings.allow_import),
            "allow_models": list(settings.allow_models),
            "limits": asdict(TaskLimits.of(settings)),
            "preload": [module for module in allow if module not in self.bad_imports],
            "bad_imports": self.bad_imports,
            "queue": settings.queue,
            "worker_id": settings.worker_id,
            "max_result_bytes": settings.max_result_bytes,
            "max_event_bytes": settings.max_event_bytes,
            "log_level": logging.getLogger().getEffectiveLevel(),
            "tracebacks": TRACEBACKS in os.environ,
            "weigh_above": self._limit // 2,
            "number": number,
        }
        slots = 1 if single else self._slots_each
        process = ExecutorProcess(
            number,
            single=single,
            config=config,
            env=self._env,
            owner=self._owner,
            cgroup=self.cgroups.create(memory=hard_limit(self._limit), slots=slots) if self.cgroups else None,
            clock=self._clock,
        )
        try:
            await process.start()
        except OSError as error:
            self._discard(process)
            logger.error("no executor process could be started: %s", error)  # noqa: TRY400 - the system's answer
            self._fitness.start_failed(f"no executor process could be started: {error}")
            return
        if not process.gone.is_set():
            self.processes.append(process)

    # -- ends ------------------------------------------------------------------------------------------------------

    def retire(self, process: ExecutorProcess) -> None:
        """Give a process nothing new; what runs in it may end there."""
        if process.retired:
            return
        process.retired = True
        self._demand.wanted.set()
        retired = [other for other in self.processes if other.retired and other.runs and other.status is None]
        if len(retired) > self._settings.processes and not self.tasks_alone:
            oldest = min(retired, key=lambda other: other.number)
            oldest.replaced = True
            oldest.kill("was replaced")

    def end_if_idle(self, process: ExecutorProcess) -> None:
        """End a process, unless a run that somebody waits for may still end in it by itself."""
        if self._live(process) or process.status is not None or process.killed_for:
            return
        if process.runs:
            process.replaced = True
            process.kill("was ended: what ran in it did not stop")
        elif not process.finishing:
            process.finish()
            process.finish_by = self._clock() + FINISH_WITHIN

    def replace(self, process: ExecutorProcess, reason: str) -> None:
        """Replace a process that is no good for more tasks; what runs in it may end there."""
        logger.warning("executor process %d is replaced: %s", process.number, reason)
        self.retire(process)
        self.end_if_idle(process)

    def reload(self) -> None:
        """Replace all processes; what runs in them gets the time of a drain to end, and runs again after that."""
        self.reloading = True
        for process in list(self.processes):
            process.end_by = self._clock() + self._settings.drain_timeout
            if not process.retired:
                process.retired = True
                self.end_if_idle(process)
        self._demand.wanted.set()

    def forget(self, process: ExecutorProcess) -> None:
        """Take note that a process is dead."""
        # It may have died before its start was over.
        if process in self.processes:
            self.processes.remove(process)
        self._discard(process)
        self._demand.wanted.set()

    def kill_all(self) -> None:
        """Kill them, as the worker ends."""
        for process in self.processes:
            process.kill("was ended with the worker")

    async def close(self) -> None:
        """Kill what is left of them, and wait for their ends."""
        self._fitness.ending = True
        self.kill_all()
        await self._all_gone()

    async def drain(self) -> None:
        """End all processes; what ran in them has ended."""
        self._fitness.ending = True
        for process in self.processes:
            if process.up and not process.runs:
                process.finish()
                process.finish_by = self._clock() + FINISH_WITHIN
            else:
                process.kill("was ended with the worker")
        await self._all_gone()

    @staticmethod
    def _live(process: ExecutorProcess) -> list[Run]:
        """Return the runs that somebody waits for and that may still end by themselves."""
        return [run for run in process.runs.values() if not run.deaf and not run.released]

    def _discard(self, process: ExecutorProcess) -> None:
        """Give up the cgroup of a process that is no more, with what its tasks have left in it."""
        if self.cgroups is not None and process.cgroup is not None:
            self.cgroups.discard(process.cgroup)

    async def _all_gone(self) -> None:
        ends = [asyncio.ensure_future(process.gone.wait()) for process in self.processes]
        if ends:
            _, left = await asyncio.wait(ends, timeout=FINISH_WITHIN)
            for end in left:
                end.cancel()
        # What their tasks have left was killed with them, and is gone in a moment.
        for _ in range(SWEEPS):
            if self.cgroups is None or self.cgroups.sweep():
                break
            await asyncio.sleep(SWEEP_EVERY)
