"""Distributed execution of agent tasks on Redis Streams.

Names are imported when they are first used, so that ``import orbiter.distributed`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orbiter.distributed.alerts import register_distributed_alerts
    from orbiter.distributed.broker import TaskBroker
    from orbiter.distributed.claims import CancelOutcome
    from orbiter.distributed.client import TaskHandle, distributed
    from orbiter.distributed.errors import (
        ConfigurationError,
        ImportRefusedError,
        MissingExtraError,
        OrbiterError,
        RedisUnavailableError,
        TransientError,
    )
    from orbiter.distributed.events import EventPublisher, EventSubscriber
    from orbiter.distributed.health import WorkerHealth, WorkerHealthCheck, get_worker_fleet_status
    from orbiter.distributed.metrics import (
        record_queue_depth,
        record_task_cancelled,
        record_task_completed,
        record_task_failed,
        record_task_submitted,
    )
    from orbiter.distributed.models import (
        InvalidPayloadError,
        PayloadTooLargeError,
        TaskPayload,
        TaskResult,
        TaskStatus,
    )
    from orbiter.distributed.redis_url import RedisUrlError
    from orbiter.distributed.runtimes import CancellationToken, RunContext
    from orbiter.distributed.settings import SettingsError, WorkerSettings
    from orbiter.distributed.store import TaskStore
    from orbiter.distributed.sync import SyncTaskHandle, distributed_sync, submit_many
    from orbiter.distributed.temporal import HAS_TEMPORAL
    from orbiter.distributed.temporal.executor import TemporalExecutor
    from orbiter.distributed.worker import Worker

_HOME = {
    "CancelOutcome": "claims",
    "CancellationToken": "runtimes",
    "ConfigurationError": "errors",
    "EventPublisher": "events",
    "EventSubscriber": "events",
    "HAS_TEMPORAL": "temporal",
    "ImportRefusedError": "errors",
    "InvalidPayloadError": "models",
    "MissingExtraError": "errors",
    "OrbiterError": "errors",
    "PayloadTooLargeError": "models",
    "RedisUnavailableError": "errors",
    "RedisUrlError": "redis_url",
    "RunContext": "runtimes",
    "SettingsError": "settings",
    "SyncTaskHandle": "sync",
    "TaskBroker": "broker",
    "TaskHandle": "client",
    "TaskPayload": "models",
    "TaskResult": "models",
    "TaskStatus": "models",
    "TaskStore": "store",
    "TemporalExecutor": "temporal",
    "TransientError": "errors",
    "Worker": "worker",
    "WorkerHealth": "health",
    "WorkerHealthCheck": "health",
    "WorkerSettings": "settings",
    "distributed": "client",
    "distributed_sync": "sync",
    "get_worker_fleet_status": "health",
    "record_queue_depth": "metrics",
    "record_task_cancelled": "metrics",
    "record_task_completed": "metrics",
    "record_task_failed": "metrics",
    "record_task_submitted": "metrics",
    "register_distributed_alerts": "alerts",
    "submit_many": "sync",
}

__all__ = [
    "HAS_TEMPORAL",
    "CancelOutcome",
    "CancellationToken",
    "ConfigurationError",
    "EventPublisher",
    "EventSubscriber",
    "ImportRefusedError",
    "InvalidPayloadError",
    "MissingExtraError",
    "OrbiterError",
    "PayloadTooLargeError",
    "RedisUnavailableError",
    "RedisUrlError",
    "RunContext",
    "SettingsError",
    "SyncTaskHandle",
    "TaskBroker",
    "TaskHandle",
    "TaskPayload",
    "TaskResult",
    "TaskStatus",
    "TaskStore",
    "TemporalExecutor",
    "TransientError",
    "Worker",
    "WorkerHealth",
    "WorkerHealthCheck",
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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
