"""Distributed execution of agent tasks on Redis Streams.

Names are imported when they are first used, so that ``import orbiter.distributed`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orbiter.distributed.lazy import lazily

if TYPE_CHECKING:
    from orbiter.distributed.alerts import register_distributed_alerts
    from orbiter.distributed.broker.events import EventPublisher, EventSubscriber
    from orbiter.distributed.broker.records import CancelOutcome
    from orbiter.distributed.broker.store import TaskStore
    from orbiter.distributed.broker.task_broker import TaskBroker
    from orbiter.distributed.broker.worker_health import WorkerHealth, WorkerHealthCheck, get_worker_fleet_status
    from orbiter.distributed.client.client import Client
    from orbiter.distributed.client.ends import (
        TaskCancelledError,
        TaskEndError,
        TaskExpiredError,
        TaskFailedError,
        TaskUnreadableError,
    )
    from orbiter.distributed.client.handle import distributed
    from orbiter.distributed.client.sync import SyncClient, SyncTaskHandle, distributed_sync, submit_many
    from orbiter.distributed.client.task import TaskHandle
    from orbiter.distributed.connection.redis_url import RedisUrlError
    from orbiter.distributed.errors import (
        ConfigurationError,
        ImportRefusedError,
        MissingExtraError,
        OrbiterError,
        RedisUnavailableError,
        SettingsError,
        TransientError,
        WorkerIdTakenError,
    )
    from orbiter.distributed.models import (
        InvalidPayloadError,
        PayloadTooLargeError,
        TaskPayload,
        TaskResult,
        TaskStatus,
    )
    from orbiter.distributed.names import InvalidNameError
    from orbiter.distributed.runtimes import CancellationToken, RunContext
    from orbiter.distributed.settings import WorkerSettings
    from orbiter.distributed.telemetry.metrics import (
        record_queue_depth,
        record_task_cancelled,
        record_task_completed,
        record_task_failed,
        record_task_submitted,
    )
    from orbiter.distributed.temporal import HAS_TEMPORAL
    from orbiter.distributed.temporal.executor import TemporalExecutor
    from orbiter.distributed.worker.worker import Worker

_HOME = {
    "CancelOutcome": "broker.records",
    "CancellationToken": "runtimes",
    "Client": "client.client",
    "ConfigurationError": "errors",
    "EventPublisher": "broker.events",
    "EventSubscriber": "broker.events",
    "HAS_TEMPORAL": "temporal",
    "ImportRefusedError": "errors",
    "InvalidNameError": "names",
    "InvalidPayloadError": "models",
    "MissingExtraError": "errors",
    "OrbiterError": "errors",
    "PayloadTooLargeError": "models",
    "RedisUnavailableError": "errors",
    "RedisUrlError": "connection.redis_url",
    "RunContext": "runtimes",
    "SettingsError": "errors",
    "SyncClient": "client.sync",
    "SyncTaskHandle": "client.sync",
    "TaskBroker": "broker.task_broker",
    "TaskCancelledError": "client.ends",
    "TaskEndError": "client.ends",
    "TaskExpiredError": "client.ends",
    "TaskFailedError": "client.ends",
    "TaskHandle": "client.task",
    "TaskPayload": "models",
    "TaskResult": "models",
    "TaskStatus": "models",
    "TaskStore": "broker.store",
    "TaskUnreadableError": "client.ends",
    "TemporalExecutor": "temporal",
    "TransientError": "errors",
    "Worker": "worker.worker",
    "WorkerHealth": "broker.worker_health",
    "WorkerHealthCheck": "broker.worker_health",
    "WorkerIdTakenError": "errors",
    "WorkerSettings": "settings",
    "distributed": "client.handle",
    "distributed_sync": "client.sync",
    "get_worker_fleet_status": "broker.worker_health",
    "record_queue_depth": "telemetry.metrics",
    "record_task_cancelled": "telemetry.metrics",
    "record_task_completed": "telemetry.metrics",
    "record_task_failed": "telemetry.metrics",
    "record_task_submitted": "telemetry.metrics",
    "register_distributed_alerts": "alerts.evaluation",
    "submit_many": "client.sync",
}

__all__ = [
    "HAS_TEMPORAL",
    "CancelOutcome",
    "CancellationToken",
    "Client",
    "ConfigurationError",
    "EventPublisher",
    "EventSubscriber",
    "ImportRefusedError",
    "InvalidNameError",
    "InvalidPayloadError",
    "MissingExtraError",
    "OrbiterError",
    "PayloadTooLargeError",
    "RedisUnavailableError",
    "RedisUrlError",
    "RunContext",
    "SettingsError",
    "SyncClient",
    "SyncTaskHandle",
    "TaskBroker",
    "TaskCancelledError",
    "TaskEndError",
    "TaskExpiredError",
    "TaskFailedError",
    "TaskHandle",
    "TaskPayload",
    "TaskResult",
    "TaskStatus",
    "TaskStore",
    "TaskUnreadableError",
    "TemporalExecutor",
    "TransientError",
    "Worker",
    "WorkerHealth",
    "WorkerHealthCheck",
    "WorkerIdTakenError",
    "WorkerSettings",
    "distributed",
    "distributed_sync",
    "get_worker_fleet_status",
    "record_queue_depth",
    "record_task_cancelled",
    "record_task_completed",
    "record_task_failed",
    "record_task_submitted",
    "register_distributed_alerts",
    "submit_many",
]

__getattr__ = lazily(__name__, _HOME)
