"""TemporalExecutor: gives claimed tasks to Temporal, and runs what Temporal gives back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from datetime import timedelta
from math import inf
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError
from temporalio.client import WorkflowFailureError
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from orbiter.distributed import failpoints
from orbiter.distributed.connection.backoff import Backoff
from orbiter.distributed.errors import ConfigurationError, describe
from orbiter.distributed.execution.endings import Delegated, Requeued, StopReason
from orbiter.distributed.execution.interface import ExecutorHealth
from orbiter.distributed.execution.running import RunTable
from orbiter.distributed.limits import LARGEST_DURABLE_TASK
from orbiter.distributed.models import TERMINAL
from orbiter.distributed.plain_json import quoted_size
from orbiter.distributed.temporal.activities import RUNS, execute_agent_activity, record_activity
from orbiter.distributed.temporal.connection import connect, connect_options
from orbiter.distributed.temporal.delegated import DelegatedTasks
from orbiter.distributed.temporal.queue_id import QueueId, QueueIdError
from orbiter.distributed.temporal.runs import Host, Runs
from orbiter.distributed.temporal.wire import TASK_QUEUE, Plan, task_queue, workflow_id
from orbiter.distributed.temporal.workflow import AgentExecutionWorkflow

if TYPE_CHECKING:
    from temporalio.client import Client, WorkflowHandle

    from orbiter.distributed.broker.events import EventPublisher
    from orbiter.distributed.broker.records import Claim
    from orbiter.distributed.broker.task_broker import TaskBroker
    from orbiter.distributed.execution.interface import Intake, LocalExecutor
    from orbiter.distributed.execution.metering import TaskMeter
    from orbiter.distributed.execution.slot import Slot
    from orbiter.distributed.models import TaskPayload
    from orbiter.distributed.settings import WorkerSettings

logger = logging.getLogger(__name__)

ANSWER_WITHIN = timedelta(seconds=5)
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
WATCH_AGAIN = 1.0
# A run that has just ended is recorded by this worker's own workflow tasks, if it stays so long.
LINGER = 0.5
SETTLE_GRACE = 2.0
# From the deadline of a drain to its end: five seconds behind the deadline systemd kills the worker.
ENDS_WITHIN = 2.5
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
        self.table = RunTable()
        self._client: Client | None = None
        self._host: Host | None = None
        self._intake: Intake | None = None
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
            identity = self._host.settings.worker_id if self._host else None
            self._client = await connect(self._options, identity=identity)

    async def disconnect(self) -> None:
        """Let go of the connection."""
        self._client = None

    def attach(
        self,
        settings: WorkerSettings,
        broker: TaskBroker,
        publisher: EventPublisher,
        local: LocalExecutor,
        *,
        intake: Intake,
        meter: TaskMeter,
    ) -> None:
        """Say for which worker tasks are run; :meth:`run` does it.

        Args:
            settings: The worker's.
            broker: Reaches Redis.
            publisher: Takes events.
            local: Runs agents and callables.
            intake: Told how many tasks may be claimed.
            meter: Counts runs.
        """
        intake.available = False
        self._intake = intake
        self._host = Host(
            settings=settings,
            tasks=lambda queue: DelegatedTasks(broker, queue, recorded=meter.recorded),
            publisher=publisher,
            local=local,
            silent_for=self.silent_for,
            changed=self._changed,
            meter=meter,
        )

    def _changed(self) -> None:
        """Say how many more tasks can be claimed: a workflow that is open takes a slot."""
        if self._intake is not None:
            available = self._connected and not self._stopped and not self._queue_id.changed.is_set()
            self._intake.available, self._intake.delegated = available, len(self._open)
            self._intake.changed()

    # -- giving tasks to Temporal ----------------------------------------------------------------------------------

    async def execute(self, slot: Slot) -> Delegated | Requeued:
        """Start the task's workflow.

        Returns:
            Delegated: Temporal has accepted it.
            Requeued: Temporal is away, or another fleet's workers would run the task.

        Raises:
            ConfigurationError: It is larger than Temporal takes, or Temporal refuses it for good.
        """
        if self._client is None or self._host is None:
            return Requeued("Temporal has not been reached yet")
        claim = slot.claim
        # Temporal says of a message that is too large for gRPC what it says when it is away.
        size = quoted_size(claim.task.to_json())
        if size > LARGEST_DURABLE_TASK:
            raise ConfigurationError(
                f"task: {size} bytes for Temporal are more than the {LARGEST_DURABLE_TASK} that it takes at once;"
                " store what is large elsewhere and submit where"
            )
        settings, task = self._host.settings, claim.task
        plan = Plan(
            queue=settings.queue,
            timeout=task.timeout_seconds,
            max_retries=settings.max_retries if task.max_retries is None else task.max_retries,
            max_crashes=settings.max_crashes,
            retries=claim.retries,
            backoff=settings.retry_backoff,
            heartbeat=settings.heartbeat_ttl,
        )
        try:
            await self._queue_id.make_sure(self._host.tasks(settings.queue))
            name = workflow_id(task.task_id, self._queue_id.value)
            handle = await self._start(self._client, name, task, plan)
        except QueueIdError as error:
            return Requeued(str(error))
        except WorkflowAlreadyStartedError:
            return Delegated(name)
        except RPCError as error:
            if error.status is RPCStatusCode.INVALID_ARGUMENT:
                raise ConfigurationError(f"Temporal refuses the task: {describe(error)}") from error
            self._lost_sight(error)
            return Requeued(f"Temporal is away: {describe(error)}")
        failpoints.reach("after workflow start")
        watching = asyncio.create_task(self._watch(handle, task, plan))
        self._open[watching] = name
        watching.add_done_callback(self._closed)
        self._changed()
        return Delegated(name)

    def _closed(self, watching: asyncio.Task[None]) -> None:
        """Free the slot of a workflow that is no longer watched."""
        del self._open[watching]
        self._changed()

    async def _start(self, client: Client, name: str, task: TaskPayload, plan: Plan) -> WorkflowHandle[Any, Any]:
        return await client.start_workflow(
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

    def time_limit(self, claim: Claim) -> float | None:  # noqa: ARG002
        """Return no limit: the workflow has one."""
        return None

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
                if self._host is None or await self._host.tasks(plan.queue).status(task.task_id) != "running":
                    return
                if self._client is not None:
                    handle = await self._start(self._client, name, task, plan)
                    continue
            except WorkflowAlreadyStartedError:
                return
            except (RPCError, RedisError, OSError) as error:
                if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
                    return
            await asyncio.sleep(WATCH_AGAIN)

    def cancel(self, task_id: str) -> None:
        """Cancel a task's workflow, wherever it runs: at once where it is ours, else unless others have done so."""
        name = workflow_id(task_id, self._queue_id.value)
        here = self.table.stop(StopReason.CANCELLED, task_id)
        work = asyncio.create_task(self._cancel(task_id, name, ours=here or name in self._open.values()))
        self._asides.add(work)
        work.add_done_callback(self._asides.discard)

    async def _cancel(self, task_id: str, name: str, *, ours: bool) -> None:
        if self._client is None or self._host is None:
            return
        try:
            if not ours:
                await asyncio.sleep(OTHERS_FIRST * random.random())  # noqa: S311 - jitter
                if await self._host.tasks(self._host.settings.queue).status(task_id) in TERMINAL:
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
        """Whether Temporal cannot be reached, or nothing can run here."""
        return not self._connected or (self._host is not None and self._host.local.degraded)

    @property
    def abandon_after(self) -> float:
        """Never: what runs in a slot is the start of a workflow."""
        return inf

    def health(self) -> ExecutorHealth:
        """Return how what runs the tasks here is; its problem, too, where Temporal cannot be reached."""
        found = self._host.local.health() if self._host else ExecutorHealth()
        if self.degraded and not found.problem:
            waiting = "is not connected yet" if self._away_since is None else "cannot be reached"
            found.problem = f"Temporal at {self.host} {waiting}"
        return found

    async def prepare(self) -> None:
        """Prepare the local executor."""
        if self._host is not None:
            await self._host.local.prepare()

    async def close(self) -> None:
        """Close the local executor."""
        if self._host is not None:
            await self._host.local.close()

    def reload(self) -> bool:
        """Run new tasks with the code as it is now, if the local executor can."""
        return self._host is not None and self._host.local.reload()

    def silent_for(self) -> float:
        """Return for how many seconds Temporal has not answered."""
        return time.monotonic() - self._answered

    @property
    def tables(self) -> tuple[RunTable, ...]:
        """The runs that Temporal gives this process."""
        return (self.table,)

    async def run(self) -> None:
        """As :meth:`start_temporal_worker`, beside the local executor."""
        async with asyncio.TaskGroup() as group:
            if self._host is not None:
                group.create_task(self._host.local.run())
            await self.start_temporal_worker()

    async def drain(self, deadline: float, hurry: asyncio.Event) -> int:
        """As :meth:`stop_temporal_worker`; then the local executor's."""
        stopped = await self.stop_temporal_worker(deadline, hurry)
        if self._host is not None:
            await self._host.local.drain(deadline, hurry)
        return stopped

    async def start_temporal_worker(self) -> None:
        """Run what Temporal gives this process, until :meth:`stop_temporal_worker`, whatever becomes of Temporal."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while not self._stopped:
            try:
                await self.connect()
                await self._serve()
                backoff.reset()
            except (RuntimeError, RPCError, OSError) as error:
                self._lost_sight(error)
                self._client = None
                await asyncio.sleep(backoff.pause())

    async def _serve(self) -> None:
        """Poll until stopped: workflows and runs apart, so that a drain ends the one before the other.

        Raises:
            RuntimeError: Temporal does not accept these workers.
        """
        host, client = self._host, self._client
        if host is None or client is None:
            raise RuntimeError("TemporalExecutor: serve() has not been called")
        settings = host.settings
        await self._queue_id.learn(host.tasks(settings.queue))
        self._changed()
        RUNS.set(Runs(host, client, self.table))
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
        self._changed()
        for watching in self._open:
            watching.cancel()
        await asyncio.gather(*(worker.shutdown() for worker in self._workers))

    async def _keep_sight(self) -> None:
        """Ask Temporal from time to time whether it is there."""
        if self._client is None or self._host is None:
            return
        every = min(2.0, self._host.settings.heartbeat_ttl / 6)
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
                    self._changed()
            await asyncio.sleep(every)

    def _lost_sight(self, error: Exception) -> None:
        if self._away_since is not None:
            return
        self._away_since = time.monotonic()
        self._connected = False
        self._changed()
        logger.warning("Temporal at %s: %s; claiming nothing meanwhile", self.host, error)

    async def stop_temporal_worker(self, deadline: float | None = None, hurry: asyncio.Event | None = None) -> int:
        """Let runs end until ``deadline`` (monotonic) or ``hurry``; give Temporal the others back and say how many."""
        self._stopped = True
        self._changed()
        requeued = 0
        deadline = inf if deadline is None else deadline

        def left(grace: float) -> float:
            return max(0.1, min(grace, deadline + ENDS_WITHIN - time.monotonic()))

        if self._workers:
            running, deciding = self._workers
            had_some = bool(self.table.held)
            ending = asyncio.create_task(running.shutdown())
            requeued = await self.table.drain(deadline, hurry or asyncio.Event())
            await asyncio.wait({ending}, timeout=left(SETTLE_GRACE))
            if had_some and not self.degraded:
                await asyncio.sleep(left(LINGER))
            last = asyncio.create_task(deciding.shutdown())
            await asyncio.wait({last}, timeout=left(SETTLE_GRACE))
        for work in [*self._open, *self._asides]:
            work.cancel()
        return requeued
