"""What the queue's steps take and give: entries, claims, outcomes.

Nothing changes them once they are made. They are not declared frozen, as that would make each of them three times as
dear, and a task needs four.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orbiter.distributed.models import TaskPayload


class CancelOutcome(StrEnum):
    """What a request to cancel did."""

    CANCELLED = "cancelled"
    REQUESTED = "requested"
    FINISHED = "finished"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Entry:
    """One queue entry as delivered: its id and its fields, not yet known to be a task."""

    entry_id: str
    fields: Mapping[str, str]


@dataclass(slots=True)
class Started:
    """What :meth:`TaskBroker.start` said of one claim.

    Attributes:
        verdict: ``run``; ``drop`` (ended, cancelled or no longer ours); ``dead`` (lost too many workers); ``read``
            (claimed only: to be read, then started).
        deliveries: Delivery count, part of the fence.
        attempt: Which run this is, from 1.
        retries: How many runs ended in an error before.
    """

    verdict: str
    deliveries: int
    attempt: int
    retries: int


# What a claim is told of that was not looked at yet.
UNREAD = Started("read", 1, 0, 0)
# What was claimed, and what the queue made of it.
Begun: TypeAlias = tuple[Entry, Started]


@dataclass(slots=True)
class Claim:
    """A started task that is ours while its lease lives."""

    entry_id: str
    task: TaskPayload
    deliveries: int
    attempt: int
    retries: int


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
class Owner:
    """A consumer of the group.

    Attributes:
        name: Its worker id.
        pending: Entries that it holds.
        idle: Seconds since it last asked for something.
        alive: Whether it has a heartbeat.
        lease: Its own lease in seconds; ``None`` where it says none, infinity for an 0.1 worker that lives.
    """

    name: str
    pending: int
    idle: float
    alive: bool
    lease: float | None
