"""Losses: what becomes of runs whose executor process has died."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from orbiter.distributed.errors import RunError
from orbiter.distributed.execution.endings import Died, Failed, Requeued
from orbiter.distributed.telemetry import metrics

if TYPE_CHECKING:
    from orbiter.distributed.execution.processes.executor_process import ExecutorProcess, Run
    from orbiter.distributed.execution.processes.fitness import Fitness
    from orbiter.distributed.execution.processes.keeper import Keeper

logger = logging.getLogger(__name__)


class Losses:
    """Settles what ran in processes that are dead.

    Args:
        queue: The worker's, for metrics.
        keeper: Told which modules no process is to import.
        fitness: Judges.
    """

    def __init__(self, queue: str, keeper: Keeper, fitness: Fitness) -> None:
        self._queue = queue
        self._keeper = keeper
        self._fitness = fitness

    def settle(self, process: ExecutorProcess) -> None:
        """End what ran in a process, for whoever waits."""
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
            run.instead is not None or (run.asked and run.number == process.guilty) for run in runs
        ):
            for run in victims:
                run.over(Requeued(f"its executor process {how}, by another task's fault"))
        elif victims:
            self._victims(process, victims, how)

    def _victims(self, process: ExecutorProcess, victims: list[Run], how: str) -> None:
        """Settle runs that died with their process and were not to stop."""
        guilty = next((run for run in victims if run.number == process.guilty), None)
        if process.killed_for and guilty is None and process.replaced:
            for run in victims:
                run.over(Requeued(f"its executor process {how}"))
            return
        ids = [run.slot.claim.task.task_id for run in victims]
        verdict = self._fitness.died([guilty.slot.claim.task.task_id] if guilty else ids)
        metrics.EXECUTOR_LOSSES.add(1, self._queue, "memory" if process.too_large else "blocked" if guilty else "died")
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
            self._fitness.unwell(f"executor processes die here, whatever runs in them: the last one {how}")

    def _failed_start(self, process: ExecutorProcess, how: str) -> None:
        lines = "; ".join(line for line in process.last_lines[-3:] if line)
        for module in process.importing:
            self._keeper.bad_imports[module] = f"a process that imported it {how}"
        text = f"executor process {how} at its start" + (f": {lines}" if lines else "")
        logger.error("%s", text)
        self._fitness.start_failed(text)
