"""Calls of ``lua/temporal``: the steps of tasks that Temporal owns. Each touches one key, and may be repeated.

A run is named by its workflow's run, ``run_id``, and by its number in that, from 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from orbiter.distributed.broker.calls import Call, nothing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orbiter.distributed.broker.keys import Keys, QueueKeys
    from orbiter.distributed.broker.records import Alone
    from orbiter.distributed.models import TaskPayload


def queue_id(queue: QueueKeys, proposed: str) -> Call[str]:
    """Return the queue's own id: the one that Redis knows, or else the proposed one, which it knows from now on."""
    return Call("temporal/queue_id", [queue.beside("id")], [proposed], str)


def delegate(keys: Keys, task_id: str, workflow_id: str) -> Call[None]:
    """Record that Temporal has accepted a task and owns it now."""
    return Call("temporal/delegate", [keys.task(task_id)], [workflow_id], nothing)


class BegunRun(NamedTuple):
    """What beginning a run did to the task's record.

    Attributes:
        verdict: ``run``; ``over`` (the task has ended); ``cancelled`` (that was asked for); ``lost`` (a later run has
            begun).
        attempt: Which attempt of the task it is.
        retries: How many runs ended in an error before.
        status: The record's status.
        alone: How it must run, as an executor process died with it.
    """

    verdict: Literal["run", "over", "cancelled", "lost"]
    attempt: int
    retries: int
    status: str
    alone: Alone


def begin(
    queue: QueueKeys, task: TaskPayload, worker_id: str, *, workflow_id: str, run_id: str, number: int, crashed: bool
) -> Call[BegunRun]:
    """Begin a run; ``crashed`` counts the one before as a crash."""
    args: list[str | int] = [
        *(run_id, number, worker_id, workflow_id, "crashes" if crashed else ""),
        *(task.task_id, queue.stream, task.agent_name, str(task.created_at)),
    ]
    return Call("temporal/begin", [queue.task(task.task_id)], args, BegunRun._make)


def suspect(keys: Keys, task_id: str, *, run_id: str, number: int) -> Call[bool]:
    """Record that a task runs alone in its executor process from now on; tell whether this run is still the last."""
    return Call("temporal/suspect", [keys.task(task_id)], [run_id, number], bool)


class Rescheduled(NamedTuple):
    """What is recorded of a run that is to be repeated: the status that stands, which attempt it was, if it is news."""

    status: str
    attempt: int
    new: bool


def reschedule(
    keys: Keys,
    task_id: str,
    status: str,
    *,
    run_id: str,
    number: int,
    delay: float = 0.0,
    error: str = "",
    error_type: str = "",
) -> Call[Rescheduled]:
    """Record that the task runs again in ``delay`` seconds: ``retrying`` after an error, ``pending`` if requeued."""
    counter = "retries" if status == "retrying" else "handoffs"
    args: list[str | int] = [run_id, number, status, counter, int(delay * 1000), error, error_type]

    def read(reply: Any) -> Rescheduled:
        stands, attempt, new = reply
        return Rescheduled(stands, attempt, bool(new))

    return Call("temporal/reschedule", [keys.task(task_id)], args, read)


class Ended(NamedTuple):
    """What is recorded of a task that ended.

    Attributes:
        status: The status that stands, or ``lost`` where a later run has begun.
        attempt: Which attempt of the task it was.
        ours: Whether it was recorded under this run.
        new: Whether this call recorded it.
    """

    status: str
    attempt: int
    ours: bool
    new: bool


def end(keys: Keys, task_id: str, status: str, fields: Sequence[str], *, run_id: str, number: int) -> Call[Ended]:
    """Record how a task has ended, and ``fields`` besides: field, value, …."""

    def read(reply: Any) -> Ended:
        stands, attempt, ours, new = reply
        return Ended(stands, attempt, bool(ours), bool(new))

    return Call("temporal/end", [keys.task(task_id)], [run_id, number, status, task_id, *fields], read)


def append_event(keys: Keys, task_id: str, attempt: int, head: str, *, final: bool) -> Call[None]:
    """Add an event behind what there is, for a run that cannot add it itself.

    Args:
        keys: Names the events.
        task_id: The task.
        attempt: Which run.
        head: The event's JSON without its end: the script writes seq and attempt behind it.
        final: Whether it ends the stream.
    """
    args: list[str | int] = [keys.events(task_id), attempt, "!" if final else "", head]
    return Call("temporal/append_event", [keys.event_stream(task_id)], args, nothing)
