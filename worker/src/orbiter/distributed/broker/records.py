"""What the queue's steps take and return: entries, claims, outcomes.

Nothing changes them once they are made. They are not declared frozen, as that would make each of them three times as
dear, and a task needs four.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orbiter.distributed.models import TaskPayload


Verdict: TypeAlias = Literal["run", "drop", "dead", "read"]
# How a task must run: as any; with no other in its executor process; with no other in its worker.
Alone: TypeAlias = Literal["", "child", "worker"]
# Lists of tasks for listings: those of a queue; those that have ended.
Listing: TypeAlias = Literal["tasks", "ended"]
Renewal: TypeAlias = Literal["ok", "lost", "cancel"]
# What a task's final event calls the status in which it has ended.
EVENT_STATUS: Mapping[str, Literal["completed", "error", "cancelled"]] = {
    "completed": "completed",
    "failed": "error",
    "cancelled": "cancelled",
}
# On the list of ended tasks each status has a range of scores, wider than any time in ms (until the year 2286).
ENDED_RANGE = 10**13


def ended_score(status: str, moment: float) -> int:
    """Return the place of a task on the list of ended ones: by its status, then by the time of its end, epoch ms."""
    return list(EVENT_STATUS).index(status) * ENDED_RANGE + int(moment)


class CancelOutcome(StrEnum):
    """What a request to cancel did."""

    CANCELLED = "cancelled"
    REQUESTED = "requested"
    FINISHED = "finished"
    UNKNOWN = "unknown"


class Command(StrEnum):
    """What is sent to a worker on its control channel, or left in its heartbeat."""

    DRAIN = "drain"
    QUIET = "quiet"
    RESUME = "resume"


# A process that starts under a worker's id asks on its control channel whether the worker lives.
BEAT = "beat"


@dataclass(slots=True)
class Entry:
    """One queue entry as delivered: its id and its fields, not yet known to be a task."""

    entry_id: str
    fields: Mapping[str, str]


@dataclass(slots=True)
class StartResult:
    """Whether a claimed task was started.

    Attributes:
        verdict: ``run``; ``drop`` (ended, cancelled or no longer ours); ``dead`` (lost too many workers); ``read``
            (claimed only: to be read, then started).
        deliveries: Delivery count, part of the fence.
        attempt: Which run this is, from 1.
        retries: How many runs ended in an error before.
        alone: How it must run, as earlier runs of it were lost.
    """

    verdict: Verdict
    deliveries: int
    attempt: int
    retries: int
    alone: Alone = ""


# Of a claim that nobody has looked at yet, and of one that the queue started for the first time.
UNREAD = StartResult("read", 1, 0, 0)
FIRST_RUN = StartResult("run", 1, 1, 0)
# What was claimed, and what the queue made of it.
Delivery: TypeAlias = tuple[Entry, StartResult]


@dataclass(slots=True)
class Claim:
    """A started task that is ours while its lease lives."""

    entry_id: str
    task: TaskPayload
    deliveries: int
    attempt: int
    retries: int
    alone: Alone = ""
    payload: str = ""


@dataclass(slots=True)
class Outcome:
    """How a run ended, ready to be recorded.

    Attributes:
        claim: The claim it ran under.
        status: ``completed``, ``failed`` or ``cancelled``.
        value: The result as JSON, or the error's text, or empty.
        error_type: Class name of the error, or empty.
        seq: Number of the final event.
        event: The final event as JSON.
    """

    claim: Claim
    status: str
    value: str
    error_type: str
    seq: int
    event: str


@dataclass(slots=True)
class Batch:
    """Events of one run that follow each other.

    Attributes:
        task_id: Whose.
        attempt: Which run.
        seq: Number of the first one.
        events: Their JSON.
    """

    task_id: str
    attempt: int
    seq: int
    events: Sequence[str]


@dataclass(slots=True)
class Lost:
    """A task that has not ended, and that its queue does not hold any more.

    Attributes:
        task_id: The task.
        known: Its record as it was when the queue was searched, ``""`` for a field that is not there.
        entries: Two ids of entries that may have been its, ``""`` where unknown.
        reason: What has become of it, for people.
    """

    task_id: str
    known: Mapping[str, str]
    entries: tuple[str, str]
    reason: str


class Mended(NamedTuple):
    """A key that was put away, as it was of no use.

    Attributes:
        key: What it was called.
        aside: What it is called now, ``""`` where it was removed.
    """

    key: str
    aside: str


class Recorded(StrEnum):
    """What stands of a task after its run was settled."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RETRYING = "retrying"
    PENDING = "pending"
    DELEGATED = "delegated"
    # The claim was another worker's by then: nothing was recorded.
    LOST = "lost"
