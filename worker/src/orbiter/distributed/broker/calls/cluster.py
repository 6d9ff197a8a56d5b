"""Calls of ``lua/cluster``: steps that touch one task's record, its events, or the queue, but not two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from orbiter.distributed.broker.calls import Call, as_is, nothing
from orbiter.distributed.broker.calls.core import LOST, due_ms, entries, lines
from orbiter.distributed.broker.records import CancelOutcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orbiter.distributed.broker.calls.core import Heartbeat
    from orbiter.distributed.broker.keys import Keys, QueueKeys
    from orbiter.distributed.broker.rates import Counts
    from orbiter.distributed.broker.records import Alone, Batch, Claim, Entry, Lost, Outcome
    from orbiter.distributed.models import TaskPayload


# -- for clients ---------------------------------------------------------------------------------------------------


def submit(queue: QueueKeys, task: TaskPayload) -> Call[int | None]:
    """Accept a task, first step: its record.

    Returns:
        The call; its result is now (epoch milliseconds), ``None`` where the task is known already.
    """
    args = [task.task_id, queue.stream, task.agent_name, str(task.created_at), due_ms(task)]
    return Call("cluster/submit", [queue.task(task.task_id)], args, as_is)


def enqueue(queue: QueueKeys, task: TaskPayload, text: str) -> Call[str]:
    """Accept a task, second step: its place on the queue; the result is its entry, ``-`` among the delayed ones."""
    done = queue.beside(f"new:{task.task_id}")
    args = [task.task_id, text, due_ms(task)]
    return Call("cluster/enqueue", [queue.stream, queue.delayed, queue.parked, done], args, as_is)


def enqueue_again(queue: QueueKeys, claim: Claim, due: int | str) -> Call[str]:
    """Put a task whose entry had gone during its run on the queue again, once; due then, epoch ms, ``""`` is now."""
    done = queue.beside(f"new:{claim.task.task_id}:{claim.attempt}")
    args = [claim.task.task_id, claim.payload, due]
    return Call("cluster/enqueue", [queue.stream, queue.delayed, queue.parked, done], args, as_is)


class Cancelled(NamedTuple):
    """What cancelling did to a task's record: the outcome, and the record's status and queue, ``""`` where unknown."""

    outcome: CancelOutcome
    status: str
    queue: str


def cancel(keys: Keys, task_id: str) -> Call[Cancelled]:
    """Cancel a task, first step: its record."""

    def read(reply: Any) -> Cancelled:
        outcome, status, queue = reply
        return Cancelled(CancelOutcome(outcome), status, queue)

    return Call("cluster/cancel", [keys.task(task_id)], [task_id, keys.cancel(task_id)], read)


def unpark(queue: QueueKeys, task_id: str) -> Call[None]:
    """Cancel a task, last step: it waits among the delayed ones no more."""
    return Call("cluster/unpark", [queue.delayed, queue.parked], [task_id], nothing)


def resubmit(queue: QueueKeys, task: TaskPayload, *, source: str) -> Call[str]:
    """Run a task that failed or was cancelled once more, first step: its record.

    Returns:
        The call; its result is ``pending``, or ``not`` and the status that forbids it.
    """
    args = [task.task_id, task.agent_name, str(task.created_at), queue.stream, source]
    return Call("cluster/resubmit", [queue.task(task.task_id)], args, as_is)


def requeue_dead_letter(queue: QueueKeys, letter: str) -> Call[str | None]:
    """Run a task once more, last step: from the dead letters to the queue; the result is its entry, if any."""
    return Call("cluster/requeue_dead_letter", [queue.stream, queue.dead], [letter], as_is)


# -- claiming ------------------------------------------------------------------------------------------------------


def claim(queue: QueueKeys, consumer: str, count: int) -> Call[list[Entry]]:
    """Promote what is due and claim up to ``count`` waiting entries; nothing is started."""
    names = [queue.stream, queue.delayed, queue.parked]
    return Call("cluster/claim", names, [queue.group, consumer, count], entries)


class StartedRecord(NamedTuple):
    """What starting did to a task's record.

    Attributes:
        verdict: ``run``; ``over`` (it has ended, or was ended here); ``elsewhere`` (it was delegated to Temporal).
        attempt: Which run this is, from 1.
        retries: How many runs ended in an error before.
        status: The record's status.
        error: Its error, or ``""``.
        error_type: Class name of that.
        new: 1 where the task had no record.
        alone: How it must run.
    """

    verdict: Literal["run", "over", "elsewhere"]
    attempt: int
    retries: int
    status: str
    error: str
    error_type: str
    new: int
    alone: Alone


def start(
    queue: QueueKeys,
    consumer: str,
    fence: tuple[str, int],
    task: TaskPayload,
    *,
    max_crashes: int,
    alive: Iterable[str] = (),
) -> Call[StartedRecord]:
    """Start a task that was claimed by that entry id and delivery count: its record."""
    entry_id, deliveries = fence
    args: list[str | int] = [
        *(entry_id, deliveries, consumer, max_crashes),
        *(task.task_id, queue.stream, task.agent_name, str(task.created_at), lines(alive)),
    ]
    return Call("cluster/start", [queue.task(task.task_id)], args, StartedRecord._make)


# -- settling ------------------------------------------------------------------------------------------------------


def append_events(keys: Keys, batch: Batch) -> Call[None]:
    """Add events of one run and publish them."""
    args: list[str | int] = [keys.events(batch.task_id), batch.attempt, batch.seq, "", *batch.events]
    return Call("cluster/append_events", [keys.event_stream(batch.task_id)], args, nothing)


def append_final_event(keys: Keys, outcome: Outcome) -> Call[None]:
    """Add the event that ends a run's stream and publish it."""
    claim = outcome.claim
    task_id = claim.task.task_id
    args: list[str | int] = [keys.events(task_id), claim.attempt, outcome.seq, "!", outcome.event]
    return Call("cluster/append_events", [keys.event_stream(task_id)], args, nothing)


def settle(keys: Keys, consumer: str, claim: Claim, status: str, fields: Sequence[str]) -> Call[str]:
    """Record how a run ended: its record, guarded by the fence that its start left there.

    Args:
        keys: Names the record.
        consumer: The worker.
        claim: The claim.
        status: The status to be recorded.
        fields: What is recorded besides: field, value, ….

    Returns:
        The call; its result is the status that stands, or ``lost``.
    """
    fence = f"{claim.entry_id} {claim.deliveries} {consumer}"
    return Call("cluster/settle", [keys.task(claim.task.task_id)], [fence, status, *fields], as_is)


class LostRun(NamedTuple):
    """What stands of a task whose process died.

    Attributes:
        status: The record's status, ``pending`` where it is to run again; or ``lost``.
        error: The record's error, or ``""``.
        error_type: Class name of that.
    """

    status: str
    error: str
    error_type: str


def lose(
    keys: Keys, consumer: str, claim: Claim, *, reason: str, error_type: str, guilty: bool, max_crashes: int
) -> Call[LostRun]:
    """Settle a run whose process died: its record, guarded by the fence that its start left there."""
    fence = f"{claim.entry_id} {claim.deliveries} {consumer}"
    args: list[str | int] = [fence, consumer, claim.alone, reason, error_type, int(guilty), max_crashes]
    return Call("cluster/lose", [keys.task(claim.task.task_id)], args, LostRun._make)


def end_lost(keys: Keys, lost: Lost) -> Call[str]:
    """End the record of a task that the queue does not hold any more.

    Returns:
        The call; its result is the status that stands, ``""`` where the record has changed.
    """
    known = [part for pair in lost.known.items() for part in pair]
    return Call("cluster/end_lost", [keys.task(lost.task_id)], [lost.reason, LOST, *known], as_is)


# -- staying alive -------------------------------------------------------------------------------------------------


def renew(queue: QueueKeys, consumer: str, claims: Iterable[tuple[str, int | None]]) -> Call[list[int]]:
    """Renew the leases of claims: entry ids, each with its delivery count, ``None`` for whatever it is.

    Returns:
        The call; its result is the delivery count of each claim, 0 where it is not ours.
    """
    args: list[str | int] = [queue.group, consumer]
    for entry_id, deliveries in claims:
        args += (entry_id, "" if deliveries is None else deliveries)
    return Call("cluster/renew", [queue.stream], args, as_is)


def heartbeat(keys: Keys, beat: Heartbeat) -> Call[tuple[int, str | None]]:
    """Write a worker's heartbeat, first step: its hash.

    Returns:
        The call; its result is now (epoch milliseconds), and the command that an operator left for it, if any. Reading
        the reply raises :class:`WorkerIdTakenError` where the heartbeat of another life stands.
    """

    def read(reply: Any) -> tuple[int, str | None]:
        beat.check(reply)
        now, *commands = reply
        return now, commands[0] if commands else None

    return Call("cluster/heartbeat", [keys.worker(beat.worker_id)], beat.args(), read)


def count(queue: QueueKeys, counts: Counts) -> Call[None]:
    """Add what a worker counted to the minute of now."""
    names = [queue.stream, queue.minutes, queue.usage]
    return Call("cluster/count", names, [queue.group, counts.text(), counts.used()], nothing)


def deregister(queue: QueueKeys, worker_id: str) -> Call[None]:
    """Delete a worker's consumer, if nothing is pending on it."""
    return Call("cluster/deregister", [queue.stream], [queue.group, worker_id], nothing)
