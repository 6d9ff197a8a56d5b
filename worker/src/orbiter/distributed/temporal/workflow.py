"""AgentExecutionWorkflow: a task from the moment Temporal has accepted it to its recorded end.

Workflow code is replayed from histories that older releases wrote. Whoever changes what it does, or in which order,
puts the change behind ``workflow.patched()`` and adds a history: see docs/temporal-workflows.md.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ApplicationErrorCategory,
    TimeoutError,  # noqa: A004 - Temporal's own
    TimeoutType,
    is_cancelled_exception,
)

from orbiter.distributed.temporal.wire import EXECUTE, RECORD, STEP, WORKFLOW, Ending, Plan, Record, Run

BACKOFF_CAP = 60.0
RECORD_WITHIN = timedelta(seconds=10)
RECORD_RETRIES = RetryPolicy(initial_interval=timedelta(seconds=0.2), maximum_interval=timedelta(seconds=5))
ONCE = RetryPolicy(maximum_attempts=1)


@workflow.defn(name=WORKFLOW, sandboxed=False)
class AgentExecutionWorkflow:
    """Runs a task until it has ended: every run is one activity.

    Budgets are counted here and not by Temporal's own retries, which know one limit for all: errors, lost workers and
    runs handed back by a drain are three different things.
    """

    def __init__(self) -> None:
        self._crashes = 0
        self._retries = 0

    @workflow.signal(name=STEP)
    def step(self, number: int, key: str, value: Any) -> None:
        """Take note of a finished step of a run; the history is where the next run finds it."""

    @workflow.run
    async def run(self, payload: str, plan: Plan) -> str:
        """Run the task; return its result as JSON."""
        self._retries = plan.retries
        run = Run(queue=plan.queue, last=plan.retries >= plan.max_retries)
        while True:
            try:
                ending = await self._attempt(payload, plan, run)
                if ending.delay:
                    await asyncio.sleep(ending.delay)
            except (asyncio.CancelledError, ActivityError) as error:
                if not is_cancelled_exception(error):
                    raise
                ending = Ending("cancelled")
            if ending.kind in {"completed", "failed", "cancelled"}:
                record = Record(run.queue, run.number, ending.kind, ending.value, ending.error_type)
                return _closed(ending, await self._record(payload, record))
            if ending.kind == "over":
                return _closed(ending, ending.value)
            crashed = ending.kind == "lost"
            last = self._retries >= plan.max_retries
            run = Run(run.queue, run.number + 1, crashed=crashed, checkpoint=ending.checkpoint, last=last)

    async def _attempt(self, payload: str, plan: Plan, run: Run) -> Ending:
        """Run the task once, and record it where that was not the last time."""
        ending = await self._execute(payload, plan, run)
        if ending.kind == "lost":
            self._crashes += 1
            if self._crashes > plan.max_crashes:
                return Ending("failed", f"lost its worker {self._crashes} times", "WorkerLostError")
        elif ending.kind == "error":
            if self._retries >= plan.max_retries:
                return Ending("failed", ending.value, ending.error_type)
            self._retries += 1
            record = Record(run.queue, run.number, "retrying", ending.value, ending.error_type, ending.delay)
            await self._record(payload, record)
        elif ending.kind == "handed back":
            await self._record(payload, Record(run.queue, run.number, "pending"))
        return ending

    async def _execute(self, payload: str, plan: Plan, run: Run) -> Ending:
        try:
            result: str = await workflow.execute_activity(
                EXECUTE,
                args=[payload, run],
                result_type=str,
                start_to_close_timeout=timedelta(seconds=plan.timeout),
                heartbeat_timeout=timedelta(seconds=plan.heartbeat),
                retry_policy=ONCE,
            )
        except ActivityError as error:
            if is_cancelled_exception(error) and workflow.cancellation_reason() is not None:
                raise
            return self._ended(error, plan, run)
        return Ending("completed", result)

    def _ended(self, error: ActivityError, plan: Plan, run: Run) -> Ending:
        cause = error.cause
        if isinstance(cause, ApplicationError) and cause.details:
            return Ending(**cause.details[0])
        if isinstance(cause, TimeoutError):
            saved = cause.last_heartbeat_details
            checkpoint = saved[1] if len(saved) > 1 else run.checkpoint
            if cause.type is TimeoutType.START_TO_CLOSE:
                text = f"run took longer than timeout_seconds={plan.timeout:g}"
                return Ending("error", text, "TaskTimeoutError", self._delay(plan), checkpoint)
            return Ending("lost", checkpoint=checkpoint)
        # Temporal itself refused something, a result that is too long for instance.
        return Ending("error", str(cause or error), type(cause or error).__name__, self._delay(plan), run.checkpoint)

    def _delay(self, plan: Plan) -> float:
        cap: float = min(BACKOFF_CAP, plan.backoff * 2.0**self._retries)
        return workflow.random().uniform(0, cap)

    async def _record(self, payload: str, record: Record) -> str:
        """Record, for as long as Redis is away; a cancellation that comes meanwhile is too late or comes back later."""
        recording: workflow.ActivityHandle[str] = workflow.start_local_activity(
            RECORD,
            args=[payload, record],
            result_type=str,
            start_to_close_timeout=RECORD_WITHIN,
            retry_policy=RECORD_RETRIES,
        )
        cancelled = False
        while not recording.done():
            try:
                await asyncio.shield(recording)
            except asyncio.CancelledError:
                if recording.done():
                    raise
                cancelled = True
        if cancelled and record.status in {"retrying", "pending"}:
            raise asyncio.CancelledError
        return recording.result()


def _closed(ending: Ending, stands: str) -> str:
    """End the workflow as the task has ended, which whoever looks at Temporal sees as well."""
    if stands == "completed" and ending.kind == "completed":
        return ending.value
    if stands == "completed":
        return ""
    text = ending.value if ending.kind == "failed" else stands
    raise ApplicationError(
        text, type=ending.error_type or stands, non_retryable=True, category=ApplicationErrorCategory.BENIGN
    )
