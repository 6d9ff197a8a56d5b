"""Runs: the tasks of Temporal's that run in this process, each one activity."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from redis.exceptions import RedisError
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.service import RPCError

from orbiter.distributed import faults, metrics
from orbiter.distributed.claims import Claim
from orbiter.distributed.deadlines import Deadlines
from orbiter.distributed.errors import ConfigurationError
from orbiter.distributed.models import Event, TaskPayload
from orbiter.distributed.settling import delay_before_retry, describe, never_again, result_text
from orbiter.distributed.slot import Ended, Slot
from orbiter.distributed.temporal.memory import HistoryMemory
from orbiter.distributed.temporal.wire import Ending, Record, Run
from orbiter.distributed.tracing import traced
from orbiter.distributed.transferred import Begun, TransferredTasks, Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from temporalio.client import Client

    from orbiter.distributed.events import EventLog, EventPublisher
    from orbiter.distributed.executors.local import LocalExecutor
    from orbiter.distributed.settings import WorkerSettings
    from orbiter.distributed.task_meter import TaskMeter

logger = logging.getLogger(__name__)

AGAIN_AFTER = 0.2
REDIS_PATIENCE = 10.0
HAND_BACK_DELAY = 2.0
EVENTS_A_BEAT = 10


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What runs need of their process.

    Attributes:
        settings: The worker's.
        tasks: Records of tasks, by queue.
        publisher: Takes events.
        local: Runs agents and callables.
        silent_for: Tells for how many seconds Temporal has not answered.
        changed: Called whenever a run has begun or ended.
        meter: Counts them.
    """

    settings: WorkerSettings
    tasks: Callable[[str], TransferredTasks]
    publisher: EventPublisher
    local: LocalExecutor
    silent_for: Callable[[], float]
    changed: Callable[[], None]
    meter: TaskMeter


class Runs:
    """Runs tasks as activities.

    Args:
        around: The process.
        client: Reaches Temporal.
    """

    def __init__(self, around: Surroundings, client: Client) -> None:
        self.held: dict[str, Slot] = {}
        self.processed = 0
        self.failed = 0
        self.empty = asyncio.Event()
        self.empty.set()
        self.client = client
        self._around = around
        self._deadlines = Deadlines()

    def stop(self, reason: str, task_id: str | None = None) -> None:
        """Stop the run of one task, or all runs."""
        for slot in list(self.held.values()):
            if task_id in {None, slot.claim.task.task_id}:
                slot.stop(reason)

    async def record(self, payload: str, record: Record) -> str:
        """Record the end of a task, or that it runs again; return the status that stands."""
        faults.reach("before record")
        task, info = TaskPayload.from_json(payload), activity.info()
        turn = Turn(str(info.workflow_id), str(info.workflow_run_id), record.number)
        tasks = self._around.tasks(record.queue)
        error: dict[str, str] = {"error_type": record.error_type}
        try:
            if record.status in {"retrying", "pending"}:
                error["error"] = record.value
                stands = await tasks.again(turn, task.task_id, record.status, delay=record.delay, **error)
            else:
                stands = await tasks.end(turn, task, record.status, value=record.value, payload=payload, **error)
        except (RedisError, OSError):
            metrics.DISRUPTIONS.add(1, self._around.meter.queue)
            raise
        faults.reach("after record")
        return stands

    async def execute(self, payload: str, run: Run) -> str:
        """Run a task once; return its result as JSON.

        Raises:
            ApplicationError: It did not end with a result; its details are an :class:`Ending`.
        """
        try:
            return await self._execute(payload, run)
        except asyncio.CancelledError:
            # Before the agent began, or after it had ended.
            reason = _reason()
            if reason == "cancelled":
                raise
            raise _closing(Ending(reason, checkpoint=run.checkpoint)) from None

    async def _execute(self, payload: str, run: Run) -> str:
        task, info = TaskPayload.from_json(payload), activity.info()
        turn = Turn(str(info.workflow_id), str(info.workflow_run_id), run.number)
        tasks = self._around.tasks(run.queue)
        begun = await self._begin(tasks, turn, task, run)
        if begun.verdict != "run":
            raise _closing(Ending(begun.verdict, begun.status))
        faults.reach("after begin")
        claim = Claim(turn.fence, task, 0, begun.attempt, begun.retries)
        log = self._around.publisher.log(task.task_id, begun.attempt)
        slot = Slot(claim, log, float("inf"))
        pulse = _Pulse(slot, tasks, turn, self._around.silent_for)
        memory = HistoryMemory(self.client, turn, run.checkpoint, pulse.soon)
        pulse.memory = memory
        if run.number > 1:
            await self._load(memory)
        waited = (info.started_time - info.current_attempt_scheduled_time).total_seconds() if run.number > 1 else None
        self._around.meter.run_began(task.agent_name, waited, taken_over=run.crashed)
        return await self._held(slot, pulse, memory, last=run.last)

    async def _begin(self, tasks: TransferredTasks, turn: Turn, task: TaskPayload, run: Run) -> Begun:
        until = time.monotonic() + REDIS_PATIENCE
        while True:
            try:
                return await tasks.begin(turn, task, self._around.settings.worker_id, crashed=run.crashed)
            except (RedisError, OSError) as error:
                metrics.DISRUPTIONS.add(1, self._around.meter.queue)
                if time.monotonic() > until:
                    ending = Ending("handed back", delay=HAND_BACK_DELAY, checkpoint=run.checkpoint)
                    raise _closing(ending) from error
                activity.heartbeat("waits for Redis", run.checkpoint)
                await asyncio.sleep(AGAIN_AFTER)

    async def _load(self, memory: HistoryMemory) -> None:
        while True:
            try:
                return await memory.load()
            except RPCError as error:
                logger.warning("what was finished before cannot be read yet: %s", error)
                activity.heartbeat("waits for Temporal", memory.checkpoint)
                await asyncio.sleep(AGAIN_AFTER)

    async def _held(self, slot: Slot, pulse: _Pulse, memory: HistoryMemory, *, last: bool) -> str:
        task = slot.claim.task
        over = asyncio.Event()
        self.held[slot.claim.entry_id] = slot
        self.empty.clear()
        self._around.changed()
        logger.info("started", extra={"task_id": task.task_id, "attempt": slot.claim.attempt})
        log: EventLog = _CountingLog(slot.log, pulse)  # type: ignore[assignment]
        execute = partial(self._around.local.execute, memory=memory)
        work = traced(execute, slot.claim, log, slot.token, by=self._around.meter)
        limit = self._around.local.time_limit(task)
        slot.begin(work, deadlines=self._deadlines, on_over=lambda _: over.set())
        if limit is not None:
            self._deadlines.add(slot, limit)
        beating = asyncio.ensure_future(pulse.run())
        ending = Ending("lost")
        try:
            await _until(over, slot)
            ending = self._ending(slot, slot.ended(), memory)
            await self._last_words(slot, ending)
        finally:
            beating.cancel()
            del self.held[slot.claim.entry_id]
            self.processed += ending.kind == "completed"
            self.failed += ending.kind in {"failed", "error"}
            if not self.held:
                self.empty.set()
            self._around.changed()
            again = ending.kind == "error" and not last
            kind = "retrying" if again else {"error": "failed"}.get(ending.kind, ending.kind)
            self._around.meter.run_ended(slot, kind, ending.error_type)
            took = time.monotonic() - slot.started
            extra = {"task_id": task.task_id, "attempt": slot.claim.attempt}
            logger.info("%s after %.1f s", ending.kind, took, extra=extra)
        faults.reach("after run")
        if ending.kind == "completed":
            return ending.value
        raise _closing(ending)

    def _ending(self, slot: Slot, ended: Ended, memory: HistoryMemory) -> Ending:
        settings, error = self._around.settings, ended.error
        if ended.stopped is not None:
            return Ending(ended.stopped, checkpoint=memory.checkpoint)
        if error is None:
            try:
                return Ending("completed", result_text(ended.result, settings.max_result_bytes))
            except ConfigurationError as refused:
                error = refused
        said, kind = describe(error), type(error).__name__
        if never_again(error):
            return Ending("failed", said, kind)
        delay = delay_before_retry(error, slot.claim.retries, settings.retry_backoff)
        return Ending("error", said, kind, delay, memory.checkpoint)

    async def _last_words(self, slot: Slot, ending: Ending) -> None:
        """Send what the run said before its end is known; while Redis is away the end waits as well."""
        slot.log.close(discard=ending.kind == "lost")
        left = slot.claim.task.timeout_seconds - (time.monotonic() - slot.started) - 1
        until = time.monotonic() + max(1.0, left)
        while ending.kind not in {"lost", "cancelled"} and time.monotonic() < until:
            try:
                await self._around.publisher.flush()
            except (RedisError, OSError):
                await asyncio.sleep(AGAIN_AFTER)
            else:
                break


class _Pulse:
    """Tells Temporal that a run lives, and looks whether it is still wanted."""

    def __init__(self, slot: Slot, tasks: TransferredTasks, turn: Turn, silent_for: Callable[[], float]) -> None:
        self.memory: HistoryMemory | None = None
        self._slot = slot
        self._tasks = tasks
        self._turn = turn
        self._silent_for = silent_for
        self._events = 0
        self._due = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def said(self) -> None:
        """Count an event; callable from any thread."""
        self._events += 1
        if self._events % EVENTS_A_BEAT == 0:
            self.soon()

    def soon(self) -> None:
        """Beat now; callable from any thread."""
        self._loop.call_soon_threadsafe(self._due.set)

    async def run(self) -> None:
        """Beat until cancelled: after every tenth event, and three times before silence would count as a loss."""
        silence = activity.info().heartbeat_timeout
        limit = silence.total_seconds() if silence else 30.0
        looked = 0.0
        while True:
            activity.heartbeat(f"step:{self._events}", self.memory.checkpoint if self.memory else None)
            # Temporal gives the run to another worker then, and may have done so already.
            if self._silent_for() > limit * 0.9:
                self._slot.stop("lost")
            if time.monotonic() - looked > limit / 4:
                looked = time.monotonic()
                await self._look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit / 3):
                    await self._due.wait()
            self._due.clear()

    async def _look(self) -> None:
        with contextlib.suppress(RedisError, OSError):
            verdict = await self._tasks.look(self._turn, self._slot.claim.task.task_id)
            if verdict != "ok":
                self._slot.stop(verdict)


class _CountingLog:
    """An event log that tells the pulse of every event."""

    def __init__(self, log: EventLog, pulse: _Pulse) -> None:
        self._log = log
        self._pulse = pulse

    def emit(self, event: Event | str) -> None:
        """Pass an event on."""
        self._log.emit(event)
        self._pulse.said()


async def _until(over: asyncio.Event, slot: Slot) -> None:
    """Wait for the end of a run; where Temporal cancels the activity, stop it for Temporal's reason and wait on."""
    while not over.is_set():
        try:
            await over.wait()
        except asyncio.CancelledError:
            slot.stop(_reason())


def _reason() -> str:
    """Return why Temporal cancels this activity."""
    details = activity.cancellation_details()
    if details is not None and details.cancel_requested:
        return "cancelled"
    return "lost" if details is not None and (details.not_found or details.timed_out) else "handed back"


def _closing(ending: Ending) -> ApplicationError:
    return ApplicationError(
        ending.value or ending.kind,
        asdict(ending),
        type=ending.error_type or ending.kind,
        non_retryable=True,
        category=ApplicationErrorCategory.BENIGN,
    )
