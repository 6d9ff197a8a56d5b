"""What the dashboard's pages cost workers while nobody looks: counts of what they do, and lists to find tasks by."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks import drain
from benchmarks.report import Measure
from orbiter.distributed.execution.counting import Counting

if TYPE_CHECKING:
    from benchmarks.machine import Machine

# Tasks that come at once, and how often they do before a heartbeat brings the counts.
BATCH = drain.SLOTS // 2
BATCHES = 500


def measure(machine: Machine, tasks: int) -> list[Measure]:
    """Drain by a worker that no dashboard looks at; count as for one task, again and again."""
    found = drain.drained(machine, tasks, tasks // 10, "--isolation", "none")
    return [
        Measure("overview: counting / all CPU", "µs/task", counted() * 1e6, found["cpu"] * 1e6, "≤ 0.05"),
        Measure(
            "overview: commands for lists / all",
            "per task",
            found["list commands"] / tasks,
            found["commands"] / tasks,
            "≤ 0.25",
        ),
    ]


def counted() -> float:
    """Return the seconds that it takes to count one task: its start, its end, and its part of a heartbeat."""
    counting, waits, took = Counting(), [0.01] * BATCH, []
    for _ in range(20):
        began = time.process_time()
        for _ in range(BATCHES):
            counting.start(BATCH, waits)
            for _ in range(BATCH):
                counting.end()
        counting.take().used()
        counting.delivered()
        took.append((time.process_time() - began) / BATCHES / BATCH)
    return min(took)
