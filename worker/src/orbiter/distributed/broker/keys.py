"""Names of keys and channels, byte for byte those of 0.1 where it has them. Nothing else spells them.

The first word of all of them is the namespace: what one fleet reads and writes, another one in the same Redis does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from orbiter.distributed.names import DEFAULT_NAMESPACE, check_namespace, queue_in


def group(queue: str) -> str:
    """Return the queue's consumer group."""
    return f"{queue}:group"


def tagged(queue: str, what: str) -> str:
    """Return a key of ours beside the queue, in the queue's cluster slot: ``{queue}:what``.

    Where the namespace is in braces, these make the slot: of ``{acme}:mail`` it is ``{acme}:{mail}:what``.
    """
    if queue.startswith("{"):
        namespace, _, name = queue.partition(":")
        return f"{namespace}:{{{name}}}:{what}"
    return f"{{{queue}}}:{what}"


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of one namespace.

    Attributes:
        namespace: Their first word.
        index: Ids of all tasks.
        by_time: The same by the time of their creation.
        ended: Ids of those that have ended, by their status and the time of that (:func:`.records.ended_score`).
        fleet: Workers by their last beat.
        audit: What people did to the fleet by the dashboard.
        deploys: What playbooks did to it.
        task_prefix: What stands before the id in the name of a task's hash.
        stream_prefix: Likewise of its event stream.
        events_prefix: Likewise of the channel of its events.
        cancel_prefix: Likewise of the channel of its cancellation.
        worker_prefix: Likewise of a worker's heartbeat.
        control_prefix: Likewise of the channel of a worker's commands.

    Raises:
        InvalidNameError: No namespace can have this name.
    """

    namespace: str = DEFAULT_NAMESPACE
    index: str = field(init=False)
    by_time: str = field(init=False)
    ended: str = field(init=False)
    fleet: str = field(init=False)
    audit: str = field(init=False)
    deploys: str = field(init=False)
    task_prefix: str = field(init=False)
    stream_prefix: str = field(init=False)
    events_prefix: str = field(init=False)
    cancel_prefix: str = field(init=False)
    worker_prefix: str = field(init=False)
    control_prefix: str = field(init=False)

    def __post_init__(self) -> None:
        check_namespace(self.namespace)
        for name, text in {
            "index": "task:index",
            "by_time": "task:by_time",
            "ended": "task:ended",
            "fleet": "fleet",
            "audit": "audit",
            "deploys": "deploys",
            "task_prefix": "task:",
            "stream_prefix": "stream:",
            "events_prefix": "events:",
            "cancel_prefix": "cancel:",
            "worker_prefix": "workers:",
            "control_prefix": "control:",
        }.items():
            object.__setattr__(self, name, f"{self.namespace}:{text}")

    def task(self, task_id: str) -> str:
        """Return the task's hash."""
        return self.task_prefix + task_id

    def event_stream(self, task_id: str) -> str:
        """Return the task's event stream."""
        return self.stream_prefix + task_id

    def events(self, task_id: str) -> str:
        """Return the channel on which the task's events are published."""
        return self.events_prefix + task_id

    def cancel(self, task_id: str) -> str:
        """Return the channel on which the task's cancellation is announced."""
        return self.cancel_prefix + task_id

    def worker(self, worker_id: str) -> str:
        """Return the worker's heartbeat hash."""
        return self.worker_prefix + worker_id

    def control(self, worker_id: str) -> str:
        """Return the channel on which a worker is told to drain, to be quiet, or to resume."""
        return self.control_prefix + worker_id

    def of_queue(self, queue: str) -> QueueKeys:
        """Return the names for a queue of this namespace."""
        return QueueKeys(self.namespace, queue_in(self.namespace, queue))


@dataclass(frozen=True, slots=True)
class QueueKeys(Keys):
    """The names of a namespace and of one queue in it; the queue's own share a slot in a cluster.

    Attributes:
        stream: The queue itself: a stream of entries.
        group: The consumer group on it; no key.
        delayed: Ids of the tasks that wait for their time, by due time.
        parked: Their payloads.
        dead: The stream of dead letters.
        tasks: Ids of the queue's tasks, by the time of their creation.
        moving: What waited on a stream that could not be used any more, until it is on the new one.
        minutes: What workers counted in each minute of the last day.
        usage: What stands before the day in the names of what was used on it.
    """

    stream: str = ""
    group: str = field(init=False)
    delayed: str = field(init=False)
    parked: str = field(init=False)
    dead: str = field(init=False)
    tasks: str = field(init=False)
    moving: str = field(init=False)
    minutes: str = field(init=False)
    usage: str = field(init=False)

    def __post_init__(self) -> None:
        Keys.__post_init__(self)
        object.__setattr__(self, "group", group(self.stream))
        for name in ("delayed", "parked", "dead", "tasks", "moving", "minutes"):
            object.__setattr__(self, name, tagged(self.stream, name))
        object.__setattr__(self, "usage", tagged(self.stream, "usage:"))

    def beside(self, what: str) -> str:
        """Return a key of ours beside the queue, in the queue's cluster slot."""
        return tagged(self.stream, what)
