"""The fleet's metrics, one definition each, and what records them.

No attribute is ever a task id or a worker id: the one would be a series for each task, the other is the process itself
(``service.instance.id`` for OpenTelemetry, the scraped instance for Prometheus).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from orbiter.distributed.telemetry.instruments import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE = "orbiter.distributed.queue_name"
AGENT = "orbiter.distributed.agent_name"
STATUS = "orbiter.distributed.task_status"
ERROR = "error.type"
CAUSE = "orbiter.distributed.cause"

AnyInstrument: TypeAlias = Counter | Histogram

_P = "orbiter.distributed"
_OF_AGENT = (QUEUE, AGENT)
_OF_QUEUE = (QUEUE,)

# The guide's seven.
SUBMITTED = Counter(f"{_P}.tasks.submitted", "{task}", "Tasks submitted to the queue", _OF_AGENT)
COMPLETED = Counter(f"{_P}.tasks.completed", "{task}", "Successfully completed tasks", _OF_AGENT)
FAILED = Counter(f"{_P}.tasks.failed", "{task}", "Failed tasks", _OF_AGENT)
CANCELLED = Counter(f"{_P}.tasks.cancelled", "{task}", "Cancelled tasks", _OF_AGENT)
DEPTH = Gauge(f"{_P}.queue.depth", "{task}", "Current queue depth", _OF_QUEUE)
DURATION = Histogram(f"{_P}.task.duration", "s", "Task execution duration", (*_OF_AGENT, STATUS, ERROR))
WAIT_TIME = Histogram(f"{_P}.task.wait_time", "s", "Time from submission to execution start", _OF_AGENT)

# Ours.
RUNNING = Gauge(f"{_P}.tasks.running", "{task}", "Tasks that run in this process", _OF_QUEUE)
RETRIED = Counter(f"{_P}.tasks.retried", "{task}", "Runs that failed and will be repeated", _OF_QUEUE)
RECLAIMED = Counter(f"{_P}.tasks.reclaimed", "{task}", "Tasks taken over from workers that stopped renewing", _OF_QUEUE)
HANDED_BACK = Counter(f"{_P}.tasks.handed_back", "{task}", "Tasks given back to the queue by a drain", _OF_QUEUE)
DEAD_LETTERED = Counter(f"{_P}.tasks.dead_lettered", "{task}", "Tasks and entries made dead letters", _OF_QUEUE)
LEASES_LOST = Counter(f"{_P}.leases.lost", "{lease}", "Runs stopped because their lease was lost", _OF_QUEUE)
DISRUPTIONS = Counter(f"{_P}.redis.disruptions", "{error}", "Steps that Redis did not answer, or refused", _OF_QUEUE)
PENDING = Gauge(f"{_P}.queue.pending", "{task}", "Tasks that workers hold", _OF_QUEUE)
DELAYED = Gauge(f"{_P}.queue.delayed", "{task}", "Tasks that wait for a retry or a moment", _OF_QUEUE)
DEAD_LETTERS = Gauge(f"{_P}.queue.dead_letters", "{task}", "Dead letters kept", _OF_QUEUE)
OLDEST = Gauge(f"{_P}.queue.oldest_wait", "s", "Age of the task that waits longest", _OF_QUEUE)
PROCESSES = Gauge(f"{_P}.worker.processes", "{process}", "Executor processes that live", _OF_QUEUE)
MEMORY = Gauge(f"{_P}.worker.memory", "By", "Memory of the worker and its executor processes", _OF_QUEUE)
LOOP_LAG = Gauge(f"{_P}.worker.loop_lag", "s", "Longest silence of a loop that runs tasks, lately", _OF_QUEUE)
ABANDONED_THREADS = Gauge(
    f"{_P}.worker.abandoned_threads", "{thread}", "Threads that run code of tasks that have been given up", _OF_QUEUE
)
REDIS_EVICTING = Gauge(f"{_P}.redis.evicting", "{server}", "Redis servers that may delete tasks for memory", _OF_QUEUE)
REDIS_UNSAVED = Gauge(f"{_P}.redis.unsaved", "{server}", "Redis masters that keep nothing on disk", _OF_QUEUE)
REDIS_UNSAVED_REPLICAS = Gauge(
    f"{_P}.redis.unsaved_replicas", "{server}", "Redis replicas that keep nothing on disk", _OF_QUEUE
)
REDIS_MEMORY_SHARE = Gauge(f"{_P}.redis.memory_share", "1", "Used part of maxmemory, of the fullest server", _OF_QUEUE)
DEGRADED = Gauge(f"{_P}.worker.degraded", "{worker}", "1 while the worker cannot work as it should, else 0", _OF_QUEUE)
MENDED = Counter(f"{_P}.queue.mended", "{key}", "Keys that were of no use as they were, and were put away", _OF_QUEUE)
EXECUTOR_LOSSES = Counter(
    f"{_P}.executor.losses", "{process}", "Executor processes that died or were ended", (QUEUE, CAUSE)
)

INSTRUMENTS: tuple[AnyInstrument, ...] = (
    *(SUBMITTED, COMPLETED, FAILED, CANCELLED, DEPTH, DURATION, WAIT_TIME),
    *(RUNNING, RETRIED, RECLAIMED, HANDED_BACK, DEAD_LETTERED, LEASES_LOST, DISRUPTIONS),
    *(PENDING, DELAYED, DEAD_LETTERS, OLDEST),
    *(PROCESSES, MEMORY, LOOP_LAG, ABANDONED_THREADS, EXECUTOR_LOSSES),
    *(REDIS_EVICTING, REDIS_UNSAVED, REDIS_UNSAVED_REPLICAS, REDIS_MEMORY_SHARE),
    *(DEGRADED, MENDED),
)
# Where these say nothing yet they say 0, once a worker reads the queue: the first increase counts as one.
OF_A_WORKER = (RUNNING, RETRIED, RECLAIMED, HANDED_BACK, DEAD_LETTERED, LEASES_LOST, DISRUPTIONS, MENDED)


_exporters: list[Callable[[], None]] = []


def register_exporter(offer: Callable[[], None]) -> None:
    """Call ``offer`` whenever a client counts: it lets an exporter read what is recorded here, where there is one."""
    _exporters.append(offer)


def record_task_submitted(*, task_id: str, queue_name: str, agent_name: str = "", count: int = 1) -> None:  # noqa: ARG001
    """Count a task that was put on the queue, or ``count`` of them."""
    for offer in _exporters:
        offer()
    SUBMITTED.add(count, queue_name, agent_name)


def record_task_completed(
    *,
    task_id: str,  # noqa: ARG001 - the call of 0.1, whose metrics it was part of
    worker_id: str,  # noqa: ARG001
    duration: float,
    wait_time: float | None = None,
    queue_name: str = "",
    agent_name: str = "",
) -> None:
    """Count a task that completed after ``duration`` seconds.

    Its ``wait_time`` is recorded unless that was done when it started.
    """
    COMPLETED.add(1, queue_name, agent_name)
    DURATION.record(duration, queue_name, agent_name, "completed", "")
    if wait_time is not None:
        WAIT_TIME.record(wait_time, queue_name, agent_name)


def record_task_failed(
    *,
    task_id: str,  # noqa: ARG001
    worker_id: str,  # noqa: ARG001
    duration: float,
    queue_name: str = "",
    agent_name: str = "",
    error_type: str = "",
) -> None:
    """Count a task that failed for good after ``duration`` seconds of its last run."""
    FAILED.add(1, queue_name, agent_name)
    DURATION.record(duration, queue_name, agent_name, "failed", error_type)


def record_task_cancelled(*, task_id: str, worker_id: str, queue_name: str = "", agent_name: str = "") -> None:  # noqa: ARG001
    """Count a task that was cancelled."""
    CANCELLED.add(1, queue_name, agent_name)


def record_queue_depth(*, depth: float, queue_name: str = "") -> None:
    """Take a reading of how many tasks nobody has claimed."""
    DEPTH.set(depth, queue_name)
