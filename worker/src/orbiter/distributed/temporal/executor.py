"""TemporalExecutor: gives claimed tasks to Temporal, and runs what Temporal gives back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError
from temporalio.client import WorkflowFailureError
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from orbiter.distributed import faults
from orbiter.distributed.errors import ConfigurationError, HandedBackError, TransferredError
from orbiter.distributed.temporal.activities import RUNS, execute_agent_activity, record_activity
from orbiter.distributed.temporal.connection import connect, connect_options
from orbiter.distributed.temporal.queue_id import QueueId
from orbiter.distributed.temporal.runs import Runs, Surroundings
from orbiter.distributed.temporal.wire import TASK_QUEUE, Plan, task_queue, workflow_id
from orbiter.distributed.temporal.workflow import AgentExecutionWorkflow
from orbiter.distributed.tracing import passes_on
from orbiter.distributed.transferred import TERMINAL, TransferredTasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from temporalio.client import Client, WorkflowHandle

    from orbiter.distributed.broker import TaskBroker
    from orbiter.distributed.claims import Claim
    from orbiter.distributed.events import EventLog, EventPublisher
    from orbiter.distributed.executors.local import LocalExecutor
    from orbiter.distributed.models import TaskPayload
    from orbiter.distributed.runtimes import CancellationToken
    from orbiter.distributed.settings import WorkerSettings
    from orbiter.distributed.task_meter import TaskMeter

logger = logging.getLogger(__name__)

ANSWER_WITHIN = timedelta(seconds=5)
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
WATCH_AGAIN = 1.0
# A run that has just ended is recorded by this worker's own workflow tasks, if it stays so long.
LINGER = 0.5
SETTLE_GRACE = 2.0
DECIDE_WITHIN = 10
STICKY = timedelta(seconds=2)
OTHERS_FIRST = 1.0


class TemporalExecutor:
    """Runs tasks as workflows.

    A worker gives Temporal no more tasks than it has slots: a slot is taken until the workflow that was started from it
    has closed, wherever that runs. So tasks wait in Redis, where they can be seen, counted and cancelled at once.

    Several fleets may share a namespace. What tells them apart is an id of each queue, which its Redis keeps: the names
    of task queue and workflows end with it.

    Args:
        host: Temporal's address; ``TEMPORAL_HOST`` or ``localhost:7233`` by default.
        namespace: ``TEMPORAL_NAMESPACE`` or ``default`` by default.
        task_queue: Where workers poll, but for the queue's id behind it.

    Raises:
        ConfigurationError: Temporal's environment configuration cannot be read.
    """

    def __init__(self, *, host: str | None = None, namespace: str | None = None, task_queue: str = TASK_QUEUE) -> None:
        self._options = connect_options(host, namespace)
        self.host: str = self._options["target_host"]
        self.namespace: str = self._options["namespace"]
        self.task_queue = task_queue
        self.runs: Runs | None = None
        self._client: Client | None = None
        self._around: Surroundings | None = None
        self._answered = 0.0
        self._connected = False
        self._away_since: float | None = None
        self._queue_id = QueueId()
        self._open: dict[asyncio.Task[None], str] = {}
        self._asides: set[asyncio.Task[None]] = set()
        self._workers: list[Worker] = []
        self._stopped = False

    @property
    def _polled(self) -> str:
        return task_queue(self.task_queue, self._queue_id.value)

    async def connect(self) -> None:
        """Connect, if that has not happened yet.

        Raises:
            RuntimeError: Temporal cannot be reached.
        """
        if self._client is None:
            identity = self._around.settings.worker_id if self._around else None
            self._client = await connect(self._options, identity=identity)

    async def disconnect(self) -> None:
        """Let go of the connection."""
        self._client = None

    def serve(
        self,
        settings: WorkerSettings,
        broker: TaskBroker,
        publisher: EventPublisher,
        local: LocalExecutor,
        *,
        changed: Callable[[], None],
        meter: TaskMeter,
    ) -> None:
        """Say for whom tasks are run; :meth:`start_temporal_worker` does it."""
        self._around = Surroundings(
            settings=settings,
            tasks=lambda queue: TransferredTasks(broker, queue, recorded=meter.recorded),
            publisher=publisher,
            local=local,
            silent_for=self.silent_for,
            changed=changed,
            meter=meter,
        )

    # -- giving tasks to Temporal ----------------------------------------------------------------------------------

    @passes_on
    async def execute(self, claim: Claim, log: EventLog, token: CancellationToken) -> dict[str, Any]:  # noqa: ARG002
        """Start the task's workflow.

        Raises:
            TransferredError: Temporal has accepted it.
            HandedBackError: Temporal is away, or another fleet's workers would run the task.
            ConfigurationError: Temporal refuses it for good.
        """
        if self._client is None or self._around is None:
            raise HandedBackError("Temporal has not been reached yet")
        settings, task = self._around.settings, claim.task
        await self._queue_id.make_sure(self._around.tasks(settings.queue))
        plan = Plan(
            queue=settings.queue,
            timeout=task.timeout_seconds,
            max_retries=settings.max_retries if task.max_retries is None else task.max_retries,
            max_crashes=settings.max_crashes,
            retries=claim.retries,
            backoff=settings.retry_backoff,
            heartbeat=settings.heartbeat_ttl,
        )
        name = workflow_id(task.task_id, self._queue_id.value)
        try:
            handle = await self._start(name, task, plan)
        except WorkflowAlreadyStartedError:
            raise TransferredError(name) from None
        except RPCError as error:
            if error.status is RPCStatusCode.INVALID_ARGUMENT:
                raise ConfigurationError(f"Temporal refuses the task: {error}") from error
            self._lost_sight(error)
            raise HandedBackError(f"Temporal is away: {error}") from error
        faults.reach("after workflow start")
        watching = asyncio.create_task(self._watch(handle, task, plan))
        self._open[watching] = name
        watching.add_done_callback(self._closed)
        raise TransferredError(name)

    def _closed(self, watching: asyncio.Task[None]) -> None:
        """Free the slot of a workflow that is no longer watched."""
        del self._open[watching]
        if self._around is not None:
            self._around.changed()

    async def _start(self, name: str, task: TaskPayload, plan: Plan) -> WorkflowHandle[Any, Any]:
        if self._client is None:
            raise HandedBackError("Temporal has not been reached yet")
        return await self._client.start_workflow(
            AgentExecutionWorkflow.run,
            args=[task.to_json(), plan],
            id=name,
            task_queue=self._polled,
            # After this long others decide in place of a worker that was killed over it.
            task_timeout=timedelta(seconds=min(DECIDE_WITHIN, max(2, plan.heartbeat))),
            # A task that has ended well never runs again; one that failed may be retried by hand, under its id.
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            # The first decision comes with the answer, to this worker: a third less waiting.
            request_eager_start=True,
            rpc_timeout=ANSWER_WITHIN,
        )

    def time_limit(self, task: TaskPayload) -> float | None:  # noqa: ARG002
        """Return no limit: the workflow has one."""
        return None

    def room(self, free: int) -> int:
        """Return how many more tasks can be claimed, where that many slots hold no claim."""
        at_work = self._connected and not self._stopped and not self._queue_id.changed.is_set()
        return free - len(self._open) if at_work else 0

    async def _watch(self, handle: WorkflowHandle[Any, Any], task: TaskPayload, plan: Plan) -> None:
        """Wait until a workflow has closed; nothing but the slot waits with it.

        One that has closed without its task having ended is started anew: the task was retried by hand just before the
        workflow of its failure closed, or somebody terminated the workflow.
        """
        name = handle.id
        while True:
            try:
                with contextlib.suppress(WorkflowFailureError):
                    await handle.result(follow_runs=False)
                if self._around is None or await self._around.tasks(plan.queue).status(task.task_id) != "running":
                    return
                handle = await self._start(name, task, plan)
            except WorkflowAlreadyStartedError:
                return
            except (RPCError, RedisError, OSError, HandedBackError) as error:
                if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
                    return
                await asyncio.sleep(WATCH_AGAIN)

    def cancel(self, task_id: str) -> None:
        """Cancel a task's workflow, wherever it runs: at once where it is ours, else unless others have done so."""
        name = workflow_id(task_id, self._queue_id.value)
        held = self.runs.held.values() if self.runs else ()
        here = any(slot.claim.task.task_id == task_id for slot in held)
        if self.runs is not None and here:
            self.runs.stop("cancelled", task_id)
        work = asyncio.create_task(self._cancel(task_id, name, ours=here or name in self._open.values()))
        self._asides.add(work)
        work.add_done_callback(self._asides.discard)

    async def _cancel(self, task_id: str, name: str, *, ours: bool) -> None:
        if self._client is None or self._around is None:
            return
        try:
            if not ours:
                await asyncio.sleep(OTHERS_FIRST * random.random())  # noqa: S311 - jitter
                if await self._around.tasks(self._around.settings.queue).status(task_id) in TERMINAL:
                    return
            await self._client.get_workflow_handle(name).cancel(rpc_timeout=ANSWER_WITHIN)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                logger.warning("not cancelled in Temporal: %s", error, extra={"task_id": task_id})
        except Exception as error:  # noqa: BLE001 - nobody waits for this; the run looks for itself
            logger.warning("not cancelled: %s", error, extra={"task_id": task_id})

    # -- running what Temporal gives back --------------------------------------------------------------------------

    @property
    def degraded(self) -> bool:
        """Whether Temporal cannot be reached."""
        return not self._connected

    def silent_for(self) -> float:
        """Return for how many seconds Temporal has not answered."""
        return time.monotonic() - self._answered

    async def start_temporal_worker(self) -> None:
        """Run what Temporal gives this process, until :meth:`stop_temporal_worker`, whatever becomes of Temporal."""
        pause = FIRST_PAUSE
        while not self._stopped:
            try:
                await self.connect()
                await self._serve()
                pause = FIRST_PAUSE
            except (RuntimeError, RPCError, OSError) as error:
                self._lost_sight(error)
                self._client = None
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter
                pause = min(LONGEST_PAUSE, pause * 2)

    async def _serve(self) -> None:
        """Poll until stopped: workflows and runs apart, so that a drain ends the one before the other.

        Raises:
            RuntimeError: Temporal does not accept these workers.
        """
        around, client = self._around, self._client
        if around is None or client is None:
            raise RuntimeError("TemporalExecutor: serve() has not been called")
        settings = around.settings
        await self._queue_id.learn(around.tasks(settings.queue))
        if self.runs is None or self.runs.client is not client:
            before, self.runs = self.runs, Runs(around, client)
            self.runs.processed, self.runs.failed = (before.processed, before.failed) if before else (0, 0)
        RUNS.set(self.runs)
        running = Worker(
            client,
            task_queue=self._polled,
            activities=[execute_agent_activity],
            max_concurrent_activities=settings.concurrency,
            graceful_shutdown_timeout=timedelta(seconds=settings.drain_timeout),
            # Checkpoints travel with heartbeats.
            max_heartbeat_throttle_interval=timedelta(seconds=min(1.0, settings.heartbeat_ttl / 5)),
        )
        deciding = Worker(
            client,
            task_queue=self._polled,
            workflows=[AgentExecutionWorkflow],
            activities=[record_activity],
            no_remote_activities=True,
            max_cached_workflows=max(100, 4 * settings.concurrency),
            # A worker that was killed has others wait so long for what it had in its cache.
            sticky_queue_schedule_to_start_timeout=STICKY,
        )
        self._workers = [running, deciding]
        try:
            async with asyncio.TaskGroup() as group:
                polls = [group.create_task(worker.run()) for worker in self._workers]
                watching = [group.create_task(work) for work in (self._keep_sight(), self._move())]
                await asyncio.wait(polls)
                for work in watching:
                    work.cancel()
        except* (RuntimeError, RPCError) as errors:
            raise RuntimeError(str(errors.exceptions[0])) from errors
        finally:
            self._workers = []

    async def _move(self) -> None:
        """Stop polling once the queue has another id. What was given away under the old one is another fleet's now."""
        await self._queue_id.changed.wait()
        for watching in self._open:
            watching.cancel()
        await asyncio.gather(*(worker.shutdown() for worker in self._workers))

    async def _keep_sight(self) -> None:
        """Ask Temporal from time to time whether it is there."""
        if self._client is None or self._around is None:
            return
        every = min(2.0, self._around.settings.heartbeat_ttl / 6)
        while True:
            try:
                await self._client.service_client.check_health(timeout=timedelta(seconds=every))
            except (RPCError, RuntimeError) as error:
                self._lost_sight(error)
            else:
                self._answered = time.monotonic()
                if not self._connected:
                    self._connected, self._away_since = True, None
                    logger.info("Temporal at %s: namespace %s, %s", self.host, self.namespace, self._polled)
                    self._around.changed()
            await asyncio.sleep(every)

    def _lost_sight(self, error: Exception) -> None:
        if self._away_since is not None:
            return
        self._away_since = time.monotonic()
        self._connected = False
        if self._around is not None:
            self._around.changed()
        logger.warning("Temporal at %s: %s; claiming nothing meanwhile", self.host, error)

    async def stop_temporal_worker(self, deadline: float | None = None, hurry: asyncio.Event | None = None) -> int:
        """Let runs end until ``deadline`` (monotonic) or ``hurry``; give Temporal the others back and say how many."""
        self._stopped = True
        handed_back = 0
        if self._workers and self.runs is not None:
            running, deciding = self._workers
            had_some = bool(self.runs.held)
            ending = asyncio.create_task(running.shutdown())
            handed_back = await self._let_end(self.runs, deadline, hurry)
            await asyncio.wait({ending}, timeout=SETTLE_GRACE)
            if had_some and not self.degraded:
                await asyncio.sleep(LINGER)
            last = asyncio.create_task(deciding.shutdown())
            await asyncio.wait({last}, timeout=SETTLE_GRACE)
        for work in [*self._open, *self._asides]:
            work.cancel()
        return handed_back

    async def _let_end(self, runs: Runs, deadline: float | None, hurry: asyncio.Event | None) -> int:
        events = [runs.empty, *([hurry] if hurry else [])]
        ends = [asyncio.ensure_future(event.wait()) for event in events]
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        left = len(runs.held)
        runs.stop("handed back")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_GRACE):
                await runs.empty.wait()
        return left
