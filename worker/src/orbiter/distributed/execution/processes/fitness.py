"""Fitness: whether this host can run tasks. Where it cannot, none are claimed for a while."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from orbiter.distributed.connection.backoff import Backoff
from orbiter.distributed.execution.processes.blame import Blame

if TYPE_CHECKING:
    from collections.abc import Collection

    from orbiter.distributed.execution.interface import Intake
    from orbiter.distributed.execution.processes.blame import Verdict
    from orbiter.distributed.execution.processes.demand import Demand

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
# After so many processes in a row that did not come up the worker says that it takes no tasks.
FAILED_STARTS = 3
PROBE_AFTER, PROBE_AT_THE_LATEST = 5.0, 120.0


class Fitness:
    """Judges by how processes start and die.

    Args:
        intake: Told whether tasks may be claimed.
        concurrency: How many tasks this worker runs at once.
        demand: Woken where nothing can be had here.

    Attributes:
        problem: Why no task can run here at present, for people; ``""`` where they can.
        ending: The worker ends: nothing is tried again.
    """

    def __init__(self, intake: Intake, concurrency: int, demand: Demand) -> None:
        self.problem = ""
        self.ending = False
        self._intake = intake
        self._concurrency = concurrency
        self._demand = demand
        self._blame = Blame()
        self._failed_starts = 0
        self._restart = Backoff(FIRST_PAUSE, LONGEST_PAUSE, jitter=0)
        self._probe = Backoff(PROBE_AFTER, PROBE_AT_THE_LATEST, jitter=0)
        self._probing = False

    # -- how processes start ---------------------------------------------------------------------------------------

    def started(self) -> None:
        """Take note that a process can run tasks."""
        self._failed_starts = 0
        self._restart.reset()
        if self.problem and not self._blame.bad_host:
            self._well()

    def start_failed(self, text: str) -> None:
        """Take note that a process did not come up."""
        self._failed_starts += 1
        if self._failed_starts >= FAILED_STARTS:
            self.unwell(text)

    def pause_before_start(self) -> float:
        """Return the seconds to wait before another process is started."""
        return self._restart.pause() if self._failed_starts else 0.0

    # -- how tasks end, and processes die --------------------------------------------------------------------------

    def task_ended(self) -> None:
        """Take note that a task has ended here by itself, well or not."""
        self._blame.ended()
        if self.problem or self._probing:
            self._well()

    def died(self, tasks: Collection[str]) -> Verdict:
        """Take note that a process has died in which these tasks ran, and judge."""
        return self._blame.died(tasks)

    # -- well or not -----------------------------------------------------------------------------------------------

    def unwell(self, problem: str) -> None:
        """Claim nothing for a while: this host fails its tasks."""
        pause = self._probe.pause()
        logger.error("no tasks are claimed for %.0f s: %s", pause, problem)
        self.problem = problem
        self._probing = False
        self._open()
        self._demand.wake()
        asyncio.get_running_loop().call_later(pause, self._try_again)

    def _try_again(self) -> None:
        """Claim one task, to see whether it ends."""
        if not self.problem or self.ending:
            return
        if self._failed_starts >= FAILED_STARTS:
            self._demand.wanted.set()
            asyncio.get_running_loop().call_later(self._probe.pause(), self._try_again)
            return
        self.problem, self._probing = "", True
        self._intake.delegated = max(0, self._concurrency - 1)
        self._open()

    def _well(self) -> None:
        if self.problem or self._probing:
            logger.info("tasks run again")
        self.problem, self._probing = "", False
        self._intake.delegated = 0
        self._probe.reset()
        self._open()

    def _open(self) -> None:
        """Say whether tasks may be claimed, and how many."""
        self._intake.available = not self.problem
        self._intake.changed()
