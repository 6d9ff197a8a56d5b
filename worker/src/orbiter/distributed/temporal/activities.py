"""The activities: a run of a task, and the record of what became of it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from temporalio import activity

from orbiter.distributed.temporal.wire import EXECUTE, RECORD, Record, Run

if TYPE_CHECKING:
    from orbiter.distributed.temporal.runs import Runs

# Two workers of one process have each their own; activities inherit the context in which their worker was started.
RUNS: ContextVar[Runs] = ContextVar("orbiter_temporal_runs")


@activity.defn(name=EXECUTE)
async def execute_agent_activity(payload: str, run: Run) -> str:
    """Run a task once; return its result as JSON.

    Raises:
        ApplicationError: It did not end with a result; the details say how it ended.
    """
    return await RUNS.get().execute(payload, run)


@activity.defn(name=RECORD)
async def record_activity(payload: str, record: Record) -> str:
    """Record the end of a task, or that it runs again; return the status that stands."""
    return await RUNS.get().record(payload, record)
