"""Wiring: makes every part of a worker once, complete, each from those before it.

Whether Redis is a cluster and whether Temporal runs the tasks is decided here, and nobody asks again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from orbiter.distributed.broker.announcements import Announcements
from orbiter.distributed.broker.cluster_broker import broker_for
from orbiter.distributed.broker.events import EventPublisher
from orbiter.distributed.broker.housekeeping import Housekeeping
from orbiter.distributed.connection.redis_url import check, connect
from orbiter.distributed.execution.in_process import InProcessExecutor
from orbiter.distributed.execution.metering import TaskMeter
from orbiter.distributed.execution.processes.pool import ProcessExecutor
from orbiter.distributed.runtimes.imports import ImportGuard
from orbiter.distributed.runtimes.model_guard import ModelGuard
from orbiter.distributed.runtimes.task_limits import TaskLimits
from orbiter.distributed.temporal import require_temporal
from orbiter.distributed.worker.commands import Commands
from orbiter.distributed.worker.fetcher import Fetcher
from orbiter.distributed.worker.flow import ClaimFlow
from orbiter.distributed.worker.lease import LeaseKeeper
from orbiter.distributed.worker.listener import Listener
from orbiter.distributed.worker.redis_watch import RedisLookout, RedisWatch
from orbiter.distributed.worker.settler import Settler
from orbiter.distributed.worker.slots import Slots
from orbiter.distributed.worker.status import Status
from orbiter.distributed.worker.sweeper import Sweeper
from orbiter.distributed.worker.troubles import Mender
from orbiter.distributed.worker.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

    from orbiter.distributed.broker.records import Claim
    from orbiter.distributed.broker.task_broker import TaskBroker
    from orbiter.distributed.execution.interface import Executor, Intake, LocalExecutor
    from orbiter.distributed.settings import WorkerSettings
    from orbiter.distributed.worker.listener import Announcer
    from orbiter.distributed.worker.redis_watch import Lookout
    from orbiter.distributed.worker.sweeper import SweepStore

# Seconds that a call to Redis may take.
PATIENCE = 6.0


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one worker; :class:`~orbiter.distributed.worker.worker.Worker` runs and stops them in order."""

    clients: tuple[Redis, ...]
    broker: TaskBroker
    flow: ClaimFlow
    commands: Commands
    publisher: EventPublisher
    executor: Executor
    status: Status
    settler: Settler
    slots: Slots
    lease: LeaseKeeper
    fetcher: Fetcher
    listener: Listener
    watchdog: Watchdog
    redis_watch: RedisWatch
    clock: Callable[[], float]


def build_parts(redis_url: str, settings: WorkerSettings) -> Parts:
    """Make the parts of a worker. Nothing is connected yet.

    Args:
        redis_url: Where Redis is.
        settings: Everything that the worker was told.

    Raises:
        RedisUrlError: The URL cannot be used.
        ImportError: Temporal execution is wanted, and temporalio is not installed.
    """
    if settings.executor == "temporal":
        require_temporal()
    name = settings.worker_id
    # Four connections, whatever the concurrency: commands, the blocking read, the lease, what others announce.
    clients = tuple(connect(redis_url, max_connections=1, retries=0, name=name) for _ in range(4))
    commanding, *_, listening = clients
    broker = broker_for(
        redis_url,
        queue_name=settings.queue,
        namespace=settings.namespace,
        max_retries=settings.max_retries,
        max_crashes=settings.max_crashes,
        max_payload_bytes=settings.max_payload_bytes,
        task_ttl=settings.task_ttl,
        event_ttl=settings.event_ttl,
        stream_events=settings.stream_events,
        patience=PATIENCE,
        client=commanding,
    )
    known = check(redis_url)
    login = [text for text in (known.login.get("password"), known.sentinel_login.get("password")) if text]
    secrets = (redis_url, *login) if login else ()
    redis = RedisLookout(redis_url, commanding)
    announcements = Announcements(listening, name, broker.keys)
    return assemble(settings, broker, Housekeeping(broker), announcements, clients, secrets=secrets, redis=redis)


def assemble(
    settings: WorkerSettings,
    broker: TaskBroker,
    housekeeping: SweepStore,
    announcements: Announcer,
    clients: tuple[Redis, ...],
    *,
    secrets: tuple[str, ...] = (),
    redis: Lookout | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Parts:
    """Make the parts from what they talk to.

    Args:
        settings: Everything that the worker was told.
        broker: The queue.
        housekeeping: The steps that keep it in order.
        announcements: What is heard on Redis' channels.
        clients: The connections for commands, the blocking read, the lease, and what others announce.
        secrets: What no task may find in its environment.
        redis: Tells how Redis keeps what it is given; without it nothing is watched.
        clock: Monotonic seconds, by the event loop's clock.
    """
    name, queue, ttl = settings.worker_id, settings.queue, settings.heartbeat_ttl
    _, reading, leasing, _ = clients
    commands = Commands()
    watchdog = Watchdog(max(PATIENCE * 2, ttl), clock=clock)
    meter = TaskMeter(queue, name, clock=clock)
    flow = ClaimFlow(settings.concurrency, lease=ttl, clock=clock)
    flow.troubles.mender = Mender(housekeeping, clock=clock)
    publisher = EventPublisher(
        broker.append_events, max_event_bytes=settings.max_event_bytes, max_events=settings.max_events
    )
    publisher.on_spent = meter.counting.spend
    local = _local(settings, flow if settings.executor == "local" else _NoIntake(), secrets)
    executor = _executor(settings, broker, publisher, local, flow=flow, meter=meter)
    status = Status(settings, flow, executor, meter, commands)
    lease = LeaseKeeper(
        broker,
        leasing,
        flow=flow,
        commands=commands,
        worker_id=name,
        queue=queue,
        ttl=ttl,
        describe=status.heartbeat,
        counting=meter.counting,
        clock=clock,
    )
    settler = Settler(broker, publisher, flow, settings, reader=reading, clock=clock)

    async def note_waiting(claim: Claim, waits: bool) -> bool:
        try:
            await broker.note_waiting(name, claim, waits=waits)
        except (RedisError, OSError):
            return False
        return True

    slots = Slots(
        flow,
        executor=executor,
        publisher=publisher,
        settler=settler,
        meter=meter,
        lease=ttl,
        note_waiting=note_waiting,
        limits=TaskLimits.of(settings),
        clock=clock,
    )
    fetcher = Fetcher(
        broker,
        reading,
        Sweeper(housekeeping, name, lease=ttl, mender=flow.troubles.mender, clock=clock),
        flow=flow,
        slots=slots,
        meter=meter,
        watchdog=watchdog,
        worker_id=name,
        queue=queue,
        lease=ttl,
        clock=clock,
    )
    listener = Listener(announcements, queue=queue, cancel=slots.cancel, commands=commands, patience=ttl / 3)
    return Parts(
        clients=clients,
        broker=broker,
        flow=flow,
        commands=commands,
        publisher=publisher,
        executor=executor,
        status=status,
        settler=settler,
        slots=slots,
        lease=lease,
        fetcher=fetcher,
        listener=listener,
        watchdog=watchdog,
        redis_watch=RedisWatch(redis, status, queue=queue),
        clock=clock,
    )


def _local(settings: WorkerSettings, intake: Intake, secrets: tuple[str, ...]) -> LocalExecutor:
    if settings.isolation == "none":
        guard = ImportGuard(
            settings.allow_import, models=ModelGuard(settings.allow_models), limits=TaskLimits.of(settings)
        )
        return InProcessExecutor(
            guard, queue=settings.queue, worker_id=settings.worker_id, max_result_bytes=settings.max_result_bytes
        )
    return ProcessExecutor(settings, intake=intake, secrets=secrets)


class _NoIntake:
    """Of an executor below another one, which says itself what may be claimed."""

    available = True
    delegated = 0

    def changed(self) -> None:
        """Do nothing."""


def _executor(
    settings: WorkerSettings,
    broker: TaskBroker,
    publisher: EventPublisher,
    local: LocalExecutor,
    *,
    flow: ClaimFlow,
    meter: TaskMeter,
) -> Executor:
    match settings.executor:
        case "local":
            return local
        case "temporal":
            from orbiter.distributed.temporal.executor import TemporalExecutor  # noqa: PLC0415 - an extra

            executor = TemporalExecutor()
            executor.attach(settings, broker, publisher, local, intake=flow, meter=meter)
            return executor
