"""Health of workers, as their heartbeats tell it: the guide's path to ``broker.worker_health``."""

from orbiter.distributed.broker.worker_health import (
    HEARTBEAT_TIMEOUT,
    HealthResult,
    HealthStatus,
    WorkerHealth,
    WorkerHealthCheck,
    get_worker_fleet_status,
    worker_health,
)

__all__ = [
    "HEARTBEAT_TIMEOUT",
    "HealthResult",
    "HealthStatus",
    "WorkerHealth",
    "WorkerHealthCheck",
    "get_worker_fleet_status",
    "worker_health",
]
