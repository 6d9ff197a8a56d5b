"""Names of keys and channels, byte for byte those of 0.1 where it has them. Nothing else spells them."""

from __future__ import annotations

from dataclasses import dataclass

TASK_PREFIX = "orbiter:task:"
INDEX = "orbiter:task:index"
BY_TIME = "orbiter:task:by_time"
WORKER_PREFIX = "orbiter:workers:"
FLEET = "orbiter:fleet"
STREAM_PREFIX = "orbiter:stream:"
EVENTS_PREFIX = "orbiter:events:"
CANCEL_PREFIX = "orbiter:cancel:"


def task(task_id: str) -> str:
    """Return the task's hash."""
    return TASK_PREFIX + task_id


def stream(task_id: str) -> str:
    """Return the task's event stream."""
    return STREAM_PREFIX + task_id


def events(task_id: str) -> str:
    """Return the channel on which the task's events are published."""
    return EVENTS_PREFIX + task_id


def cancel(task_id: str) -> str:
    """Return the channel on which the task's cancellation is announced."""
    return CANCEL_PREFIX + task_id


def worker(worker_id: str) -> str:
    """Return the worker's heartbeat hash."""
    return WORKER_PREFIX + worker_id


def control(worker_id: str) -> str:
    """Return the channel on which a worker is told to drain, to be quiet, or to resume."""
    return f"orbiter:control:{worker_id}"


def group(queue: str) -> str:
    """Return the queue's consumer group."""
    return f"{queue}:group"


def tagged(queue: str, what: str) -> str:
    """Return a key of ours beside the queue, in the queue's cluster slot: ``{queue}:what``."""
    return f"{{{queue}}}:{what}"


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """The names of one queue's keys; in a cluster they share a slot.

    Attributes:
        stream: The queue itself: a stream of entries.
        group: The consumer group on it; no key.
        delayed: Ids of the tasks that wait for their time, by due time.
        parked: Their payloads.
        dead: The stream of dead letters.
        moving: What waited on a stream that could not be used any more, until it is on the new one.
    """

    stream: str
    group: str
    delayed: str
    parked: str
    dead: str
    moving: str

    @classmethod
    def of(cls, queue: str) -> QueueKeys:
        """Return the names for a queue."""
        beside = (tagged(queue, what) for what in ("delayed", "parked", "dead", "moving"))
        return cls(queue, group(queue), *beside)
