"""Names of keys and channels, byte for byte those of 0.1 where it has them. Nothing else spells them."""

from __future__ import annotations

TASK_PREFIX = "orbiter:task:"
INDEX = "orbiter:task:index"
BY_TIME = "orbiter:task:by_time"
WORKER_PREFIX = "orbiter:workers:"
FLEET = "orbiter:fleet"
CANCEL_PREFIX = "orbiter:cancel:"


def task(task_id: str) -> str:
    """Return the task's hash."""
    return TASK_PREFIX + task_id


def stream(task_id: str) -> str:
    """Return the task's event stream."""
    return f"orbiter:stream:{task_id}"


def events(task_id: str) -> str:
    """Return the channel on which the task's events are published."""
    return f"orbiter:events:{task_id}"


def cancel(task_id: str) -> str:
    """Return the channel on which the task's cancellation is announced."""
    return CANCEL_PREFIX + task_id


def worker(worker_id: str) -> str:
    """Return the worker's heartbeat hash."""
    return WORKER_PREFIX + worker_id


def control(worker_id: str) -> str:
    """Return the channel on which a worker is told to drain, to be quiet or to resume."""
    return f"orbiter:control:{worker_id}"


def group(queue: str) -> str:
    """Return the queue's consumer group."""
    return f"{queue}:group"


def tagged(queue: str, what: str) -> str:
    """Return a key of ours beside the queue, in the queue's cluster slot: ``{queue}:what``."""
    return f"{{{queue}}}:{what}"
