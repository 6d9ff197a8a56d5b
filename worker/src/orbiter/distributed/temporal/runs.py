"""Runs: the tasks of Temporal's that run in this process, each one activity."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, assert_never

from redis.exceptions import RedisError
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.service import RPCError

from orbiter.distributed import failpoints
from orbiter.distributed.broker.records import Claim
from orbiter.distributed.connection.deadlines import Deadlines
from orbiter.distributed.errors import ResultTooLargeError, describe, kind_of
from orbiter.distributed.execution.endings import (
    Cancelled,
    Completed,
    Delegated,
    Died,
    Failed,
    Lost,
    Requeued,
    StopReason,
)
from orbiter.distributed.execution.retry import delay_before_retry, never_again
from orbiter.distributed.execution.slot import Slot
from orbiter.distributed.limits import LARGEST_DURABLE
from orbiter.distributed.models import Event, TaskPayload
from orbiter.distributed.plain_json import quoted_size
from orbiter.distributed.telemetry import metrics
from orbiter.distributed.temporal.delegated import Begun, DelegatedTasks, DurableRun
from orbiter.distributed.temporal.journal import HistoryJournal
from orbiter.distributed.temporal.wire import Ending, Record, Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from temporalio.client import Client

    from orbiter.distributed.broker.events import EventLog, EventPublisher
    from orbiter.distributed.execution.interface import LocalExecutor
    from orbiter.distributed.execution.metering import TaskMeter
    from orbiter.distributed.execution.running import RunTable
    from orbiter.distributed.settings import WorkerSettings

logger = logging.getLogger(__name__)

AGAIN_AFTER = 0.2
REDIS_PATIENCE = 10.0
HAND_BACK_DELAY = 2.0
EVENTS_A_BEAT = 10
_STOPPED = {Cancelled: StopReason.CANCELLED, Requeued: StopReason.REQUEUED, Lost: StopReason.LOST}


@dataclass(frozen=True, slots=True)
class Host:
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
    tasks: Callable[[str], DelegatedTasks]
    publisher: EventPublisher
    local: LocalExecutor
    silent_for: Callable[[], float]
    changed: Callable[[], None]
    meter: TaskMeter


class Runs:
    """Runs tasks as activities.

    Args:
        host: The process.
        client: Reaches Temporal.
        table: Holds what runs here.
    """

    def __init__(self, host: Host, client: Client, table: RunTable) -> None:
        self.client = client
        self._host = host
        self._table = table
        self._deadlines = Deadlines()

    async def record(self, payload: str, record: Record) -> str:
        """Record the end of a task, or that it runs again; return the status that stands."""
        failpoints.reach("before record")
        task, info = TaskPayload.from_json(payload), activity.info()
        durable = DurableRun(str(info.workflow_id), str(info.workflow_run_id), record.number)
        tasks = self._host.tasks(record.queue)
        error: dict[str, str] = {"error_type": record.error_type}
        try:
            if record.status in {"retrying", "pending"}:
                error["error"] = record.value
                stands = await tasks.again(durable, task.task_id, record.status, delay=record.delay, **error)
            else:
                stands = await tasks.end(durable, task, record.status, value=record.value, payload=payload, **error)
        except (RedisError, OSError):
            metrics.DISRUPTIONS.add(1, self._host.meter.queue)
            raise
        failpoints.reach("after record")
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
            if reason is StopReason.CANCELLED:
                raise
            raise _closing(Ending(reason.value, checkpoint=run.checkpoint)) from None

    async def _execute(self, payload: str, run: Run) -> str:
        task, info = TaskPayload.from_json(payload), activity.info()
        durable = DurableRun(str(info.workflow_id), str(info.workflow_run_id), run.number)
        tasks = self._host.tasks(run.queue)
        begun = await self._begin(tasks, durable, task, run)
        if begun.verdict != "run":
            raise _closing(Ending(begun.verdict, begun.status))
        failpoints.reach("after begin")
        claim = Claim(durable.fence, task, 0, begun.attempt, begun.retries, begun.alone)
        log = self._host.publisher.log(task.task_id, begun.attempt)
        slot = Slot(claim, log, float("inf"))
        pulse = _Pulse(slot, tasks, durable, self._host.silent_for)
        journal = HistoryJournal(self.client, durable, run.checkpoint, pulse.soon)
        pulse.journal = journal
        if run.number > 1:
            await self._load(journal)
        waited = (info.started_time - info.current_attempt_scheduled_time).total_seconds() if run.number > 1 else None
        self._host.meter.run_began(task.agent_name, waited, taken_over=run.crashed)
        return await self._held(slot, pulse, journal, last=run.last)

    async def _begin(self, tasks: DelegatedTasks, durable: DurableRun, task: TaskPayload, run: Run) -> Begun:
        until = time.monotonic() + REDIS_PATIENCE
        while True:
            try:
                return await tasks.begin(durable, task, self._host.settings.worker_id, crashed=run.crashed)
            except (RedisError, OSError) as error:
                metrics.DISRUPTIONS.add(1, self._host.meter.queue)
                if time.monotonic() > until:
                    ending = Ending("handed back", delay=HAND_BACK_DELAY, checkpoint=run.checkpoint)
                    raise _closing(ending) from error
                activity.heartbeat("waits for Redis", run.checkpoint)
                await asyncio.sleep(AGAIN_AFTER)

    async def _load(self, journal: HistoryJournal) -> None:
        while True:
            try:
                return await journal.load()
            except RPCError as error:
                logger.warning("the journal cannot be read yet: %s", error)
                activity.heartbeat("waits for Temporal", journal.checkpoint)
                await asyncio.sleep(AGAIN_AFTER)

    async def _held(self, slot: Slot, pulse: _Pulse, journal: HistoryJournal, *, last: bool) -> str:
        task = slot.claim.task
        over = asyncio.Event()
        self._table.add(slot)
        self._host.changed()
        logger.info("started", extra={"task_id": task.task_id, "attempt": slot.claim.attempt})
        log = _CountingLog(slot.log, pulse)
        local = self._host.local
        work = local.execute(slot, log=log, journal=journal)
        limit = local.time_limit(slot.claim)
        slot.begin(work, deadlines=self._deadlines, on_over=lambda _: over.set(), abandon_after=local.abandon_after)
        if limit is not None:
            self._deadlines.add(slot, limit)
        beating = asyncio.ensure_future(pulse.run())
        ending = Ending("lost")
        try:
            await _until(over, slot)
            if isinstance(ended := slot.ending(), Died) and not ended.host:
                await pulse.suspect()
            ending = await self._behind_events(slot, self._ending(slot, journal), journal)
        finally:
            beating.cancel()
            self._table.remove(slot)
            self._table.completed += ending.kind == "completed"
            self._table.failed += ending.kind in {"failed", "error"}
            self._host.changed()
            again = ending.kind == "error" and not last
            kind = "retrying" if again else {"error": "failed"}.get(ending.kind, ending.kind)
            self._host.meter.run_ended(slot, kind, ending.error_type)
            took = time.monotonic() - slot.started
            extra = {"task_id": task.task_id, "attempt": slot.claim.attempt}
            logger.info("%s after %.1f s", ending.kind, took, extra=extra)
        failpoints.reach("after run")
        if ending.kind == "completed":
            return ending.value
        raise _closing(ending)

    def _ending(self, slot: Slot, journal: HistoryJournal) -> Ending:
        settings, ended = self._host.settings, slot.ending()
        match ended:
            case Completed(text):
                return _completed(text)
            case Failed(failure):
                error = failure
            case Cancelled() | Requeued() | Lost():
                return Ending(_STOPPED[type(ended)].value, checkpoint=journal.checkpoint)
            case Died(reason, error_type, _, host):
                return self._died(slot, reason, error_type, journal, host=host)
            case Delegated():
                raise TypeError("an activity cannot be delegated once more")
            case _:
                assert_never(ended)
        text, kind = describe(error), kind_of(error)
        if never_again(error):
            return Ending("failed", text, kind)
        delay = delay_before_retry(error, slot.claim.retries, settings.retry_backoff)
        return Ending("error", text, kind, delay, journal.checkpoint)

    def _died(self, slot: Slot, reason: str, error_type: str, journal: HistoryJournal, *, host: bool) -> Ending:
        """Return how a run ends whose process died: as an error where it was alone in it, else to run again, alone."""
        claim = slot.claim
        if claim.alone and not host:
            delay = delay_before_retry(RuntimeError(reason), claim.retries, self._host.settings.retry_backoff)
            return Ending("error", reason, error_type, delay, journal.checkpoint)
        return Ending(StopReason.REQUEUED.value, delay=HAND_BACK_DELAY, checkpoint=journal.checkpoint)

    async def _behind_events(self, slot: Slot, ending: Ending, journal: HistoryJournal) -> Ending:
        """Publish all events of a run, then return how it ended; requeue it where Redis stays away for too long."""
        slot.log.close(discard=ending.kind == "lost")
        left = slot.claim.task.timeout_seconds - (time.monotonic() - slot.started) - 1
        until = time.monotonic() + max(1.0, left)
        while ending.kind not in {"lost", "cancelled"}:
            try:
                await self._host.publisher.flush()
            except (RedisError, OSError):
                if time.monotonic() > until:
                    slot.log.close(discard=True)
                    return Ending("handed back", delay=HAND_BACK_DELAY, checkpoint=journal.checkpoint)
                await asyncio.sleep(AGAIN_AFTER)
            else:
                break
        return Ending("lost") if slot.reason is StopReason.LOST else ending


class _Pulse:
    """Tells Temporal that a run lives, and looks whether it is still wanted."""

    def __init__(self, slot: Slot, tasks: DelegatedTasks, durable: DurableRun, silent_for: Callable[[], float]) -> None:
        self.journal: HistoryJournal | None = None
        self._slot = slot
        self._tasks = tasks
        self._durable = durable
        self._silent_for = silent_for
        self._events = 0
        self._due = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def count(self) -> None:
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
            activity.heartbeat(f"step:{self._events}", self.journal.checkpoint if self.journal else None)
            # Temporal gives the run to another worker then, and may have done so already.
            if self._silent_for() > limit * 0.9:
                self._slot.stop(StopReason.LOST)
            if time.monotonic() - looked > limit / 4:
                looked = time.monotonic()
                await self._look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit / 3):
                    await self._due.wait()
            self._due.clear()

    async def suspect(self) -> None:
        """Have later runs of the task be alone in their executor process, on whatever worker."""
        task_id = self._slot.claim.task.task_id
        try:
            await self._tasks.suspect(self._durable, task_id)
        except (RedisError, OSError) as error:
            # Then it is beside others once more.
            logger.warning("suspect task may run beside others again: %s", error, extra={"task_id": task_id})

    async def _look(self) -> None:
        with contextlib.suppress(RedisError, OSError):
            verdict = await self._tasks.look(self._durable, self._slot.claim.task.task_id)
            if verdict != "ok":
                self._slot.stop(StopReason(verdict))


class _CountingLog:
    """An event log that tells the pulse of every event."""

    def __init__(self, log: EventLog, pulse: _Pulse) -> None:
        self._log = log
        self._pulse = pulse

    def emit(self, event: Event | str) -> None:
        """Pass an event on."""
        self._log.emit(event)
        self._pulse.count()

    def spend(self, model: str, agent: str, tokens_in: int, tokens_out: int) -> None:
        """As the log has it."""
        self._log.spend(model, agent, tokens_in, tokens_out)

    async def pace(self) -> None:
        """As the log has it."""
        await self._log.pace()

    @property
    def on_sent(self) -> Callable[[int], None] | None:
        """As the log's own."""
        return self._log.on_sent

    @on_sent.setter
    def on_sent(self, callback: Callable[[int], None] | None) -> None:
        self._log.on_sent = callback


async def _until(over: asyncio.Event, slot: Slot) -> None:
    """Wait for the end of a run; where Temporal cancels the activity, stop it for Temporal's reason and wait on."""
    while not over.is_set():
        try:
            await over.wait()
        except asyncio.CancelledError:
            slot.stop(_reason())


def _reason() -> StopReason:
    """Return why Temporal cancels this activity."""
    details = activity.cancellation_details()
    if details is not None and details.cancel_requested:
        return StopReason.CANCELLED
    gone = details is not None and (details.not_found or details.timed_out)
    return StopReason.LOST if gone else StopReason.REQUEUED


def _completed(text: str) -> Ending:
    """Return how a run ends with this result; one that Temporal does not take fails, as another run would."""
    size = quoted_size(text)
    if size <= LARGEST_DURABLE:
        return Ending("completed", text)
    error = (
        f"result: {size} bytes for Temporal are more than the {LARGEST_DURABLE} that it takes at once;"
        " store it elsewhere and return where"
    )
    return Ending("failed", error, ResultTooLargeError.__name__)


def _closing(ending: Ending) -> ApplicationError:
    return ApplicationError(
        ending.value or ending.kind,
        asdict(ending),
        type=ending.error_type or ending.kind,
        non_retryable=True,
        category=ApplicationErrorCategory.BENIGN,
    )
