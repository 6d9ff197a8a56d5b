"""Calls of ``lua/core``: the steps of a single Redis, and those that are the same in a cluster."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from orbiter.distributed.broker.calls import Call, as_is, nothing
from orbiter.distributed.broker.records import CancelOutcome, Entry, Mended, StartResult
from orbiter.distributed.errors import WorkerIdTakenError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from orbiter.distributed.broker.keys import Keys, QueueKeys
    from orbiter.distributed.broker.rates import Counts
    from orbiter.distributed.broker.records import Batch, Claim, Delivery, Lost, Outcome, Renewal
    from orbiter.distributed.models import TaskPayload

CommandReply: TypeAlias = Literal["asked", "draining", "outdated", "absent"]

# The type of the error by which a lost task ends.
LOST = "EntryLostError"


# -- replies -------------------------------------------------------------------------------------------------------


def entry(entry_id: str, fields: Sequence[str]) -> Entry:
    """Read an entry: its id, and its fields as name, value, …."""
    return Entry(entry_id, dict(zip(fields[::2], fields[1::2], strict=True)))


def entries(reply: Any) -> list[Entry]:
    """Read entries as ``XREADGROUP`` returns them; those that were deleted are left out."""
    return [entry(*row) for row in reply if row[1]]


def _settled_and_claimed(reply: Any) -> tuple[list[str], list[Delivery]]:
    recorded, claimed = reply
    return recorded, [(entry(row[0], row[1]), StartResult(*row[2:])) for row in claimed]


def _started(reply: Any) -> list[StartResult]:
    return [StartResult(*row) for row in reply]


# -- for clients ---------------------------------------------------------------------------------------------------


def due_ms(task: TaskPayload) -> int | str:
    """Return the moment before which a task does not run, epoch milliseconds; ``""`` where that is now."""
    return "" if task.not_before is None else math.ceil(task.not_before * 1000)


def submit(queue: QueueKeys, tasks: Iterable[tuple[TaskPayload, str]], agents: Iterable[str]) -> Call[int]:
    """Accept tasks, each with its JSON, and the names of their agents; the result is how many were not known before."""
    names = [queue.stream, queue.delayed, queue.parked, queue.index, queue.by_time, queue.tasks]
    args: list[str | int] = []
    for (task, text), agent in zip(tasks, agents, strict=True):
        names.append(queue.task(task.task_id))
        args += (task.task_id, text, agent, str(task.created_at), due_ms(task))
    return Call("core/submit", names, args, as_is)


def cancel(queue: QueueKeys, task_id: str) -> Call[CancelOutcome]:
    """Cancel a task, wherever it is."""
    names = [queue.delayed, queue.parked, queue.task(task_id), queue.event_stream(task_id)]
    return Call("core/cancel", names, [task_id, queue.events(task_id), queue.cancel(task_id)], CancelOutcome)


def resubmit(queue: QueueKeys, task: TaskPayload, *, letter: str, waiting: str) -> Call[str]:
    """Run a task that failed or was cancelled once more.

    Args:
        queue: The queue.
        task: The task.
        letter: Entry id of its dead letter, or ``""``.
        waiting: Id of an entry of its that still waits on the queue, or ``""``.

    Returns:
        The call; its result is ``pending``, ``gone``, or ``not`` and the status that forbids it.
    """
    task_id = task.task_id
    names = [queue.stream, queue.dead, queue.task(task_id), queue.event_stream(task_id)]
    names += [queue.index, queue.by_time, queue.tasks]
    args = [task_id, task.agent_name, str(task.created_at), letter, waiting]
    return Call("core/resubmit", names, args, as_is)


def command(keys: Keys, worker_id: str, name: str) -> Call[CommandReply]:
    """Send a worker a command: ``drain``, ``quiet`` or ``resume``.

    Returns:
        The call; its result is ``asked``, ``draining`` (it does so already), ``outdated`` (0.1) or ``absent``.
    """
    return Call("core/command", [keys.worker(worker_id)], [name, keys.control(worker_id)], as_is)


# -- claiming ------------------------------------------------------------------------------------------------------


def settle_and_claim(
    queue: QueueKeys, consumer: str, outcomes: Iterable[Outcome], count: int, *, max_crashes: int, max_bytes: int
) -> Call[tuple[list[str], list[Delivery]]]:
    """Record outcomes, then claim and start up to ``count`` waiting tasks.

    Args:
        queue: The queue.
        consumer: The worker.
        outcomes: What is recorded.
        count: How many tasks are claimed at most; 0 claims nothing.
        max_crashes: Crashes that a task is allowed; of all losses, two more.
        max_bytes: Largest payload that is accepted.

    Returns:
        The call; its result is what stands for each outcome, and what was claimed.
    """
    prefixes = (queue.task_prefix, queue.stream_prefix, queue.events_prefix)
    args: list[str | int] = [queue.group, consumer, *prefixes, count, max_crashes, max_bytes]
    for outcome in outcomes:
        claim = outcome.claim
        args += (
            *(claim.entry_id, claim.deliveries, claim.task.task_id, outcome.status, outcome.value),
            *(outcome.error_type, f"{claim.attempt}-{outcome.seq}!", outcome.event),
        )
    names = [queue.stream, queue.delayed, queue.parked, queue.dead]
    return Call("core/settle_and_claim", names, args, _settled_and_claimed)


def start_new(queue: QueueKeys, consumer: str, *, since: str, count: int, max_bytes: int) -> Call[Collection[str]]:
    """Start what a blocking read has just delivered.

    Args:
        queue: The queue.
        consumer: The worker.
        since: Id of an entry that is older than all that the read can have delivered.
        count: How many entries newer than that the worker can have at most.
        max_bytes: Largest payload that is accepted.

    Returns:
        The call; its result is the ids of the entries that it has started.
    """
    args: list[str | int] = [queue.group, consumer, queue.task_prefix, since, count, max_bytes]
    return Call("core/start_new", [queue.stream], args, frozenset)


def lines(names: Iterable[str]) -> str:
    """Return names for a script that asks whether one is among them."""
    return "".join(f"\n{name}\n" for name in names)


def start(
    queue: QueueKeys,
    consumer: str,
    claimed: Iterable[tuple[Entry, TaskPayload]],
    *,
    max_crashes: int,
    alive: Iterable[str] = (),
) -> Call[list[StartResult]]:
    """Start claimed tasks, unless they ended or were cancelled meanwhile."""
    names = [queue.stream, queue.dead, queue.index, queue.by_time, queue.tasks]
    args: list[str | int] = [queue.group, consumer, max_crashes, lines(alive)]
    for entry, task in claimed:
        names += (queue.task(task.task_id), queue.event_stream(task.task_id))
        args += (entry.entry_id, task.task_id, task.agent_name, str(task.created_at), queue.events(task.task_id))
    return Call("core/start", names, args, _started)


def reclaim(queue: QueueKeys, consumer: str, count: int, leases: Mapping[str, float]) -> Call[list[Entry]]:
    """Claim entries whose owner has not renewed them for its lease.

    Args:
        queue: The queue.
        consumer: The worker that gets them.
        count: How many at most.
        leases: Seconds that a lease of each owner lasts, by worker id.
    """
    args: list[str | int] = [queue.group, consumer, count]
    for owner, lease in leases.items():
        args += (owner, int(lease * 1000))
    return Call("core/reclaim", [queue.stream], args, entries)


def recover(
    queue: QueueKeys, consumer: str, count: int, *, running: Iterable[str], given_up: Mapping[str, int], born: float
) -> Call[list[Entry]]:
    """Find entries that are pending on a worker but do not run there; see :meth:`TaskBroker.recover`."""
    here = json.dumps({"running": list(running), "given_up": dict(given_up)})
    return Call("core/recover", [queue.stream], [queue.group, consumer, count, int(born * 1000), here], entries)


# -- settling ------------------------------------------------------------------------------------------------------


class Acknowledgement(NamedTuple):
    """What becomes of one claim's entry.

    Attributes:
        entry_id: The entry.
        deliveries: The claim's delivery count, ``None`` for whatever it is.
        then: ``drop``; ``dead_letter``; or ``requeue``.
        task_id: The task, where it becomes a dead letter or is delayed.
        reason: Why it becomes a dead letter.
        error_type: Class name of the error.
        delay_ms: Milliseconds after which it is back on the queue.
    """

    entry_id: str
    deliveries: int | None
    then: Literal["drop", "dead_letter", "requeue"]
    task_id: str = ""
    reason: str = ""
    error_type: str = ""
    delay_ms: int = 0


def acknowledge(queue: QueueKeys, consumer: str, rows: Iterable[Acknowledgement]) -> Call[None]:
    """Acknowledge claims that are still ours, and delete their entries; the last step of settling them."""
    args: list[str | int] = [queue.group, consumer]
    for row in rows:
        deliveries = "" if row.deliveries is None else row.deliveries
        args += (row.entry_id, deliveries, row.then, row.task_id, row.reason, row.error_type, row.delay_ms)
    return Call("core/acknowledge", [queue.stream, queue.dead, queue.delayed, queue.parked], args, nothing)


def append_events(keys: Keys, batches: Iterable[Batch]) -> Call[None]:
    """Add events to their tasks' streams and publish them."""
    names: list[str] = []
    args: list[str | int] = []
    for batch in batches:
        names += (keys.event_stream(batch.task_id), keys.task(batch.task_id))
        args += (keys.events(batch.task_id), batch.attempt, batch.seq, len(batch.events), *batch.events)
    return Call("core/append_events", names, args, nothing)


def retry(
    queue: QueueKeys, consumer: str, claim: Claim, payload: str, *, delay: float, error: str, error_type: str
) -> Call[Literal["retrying", "cancelled", "lost", "gone"]]:
    """Let a task whose run failed run again in ``delay`` seconds.

    Where its entry is gone, ``payload`` takes its place; without that (``""``) nothing is done, and the result is
    ``gone``. The same holds for :func:`requeue` and :func:`lose`.
    """
    task_id = claim.task.task_id
    return Call(
        "core/retry",
        [queue.stream, queue.delayed, queue.parked, queue.task(task_id), queue.event_stream(task_id)],
        [
            *(queue.group, consumer, claim.entry_id, claim.deliveries, task_id, queue.events(task_id), payload),
            *(int(delay * 1000), error, error_type),
        ],
        as_is,
    )


def requeue(
    queue: QueueKeys, consumer: str, claim: Claim, payload: str
) -> Call[Literal["pending", "cancelled", "lost", "gone"]]:
    """Requeue a started task, free of charge."""
    task_id = claim.task.task_id
    names = [queue.stream, queue.task(task_id), queue.event_stream(task_id)]
    args: list[str | int] = [queue.group, consumer, claim.entry_id, claim.deliveries, task_id]
    args += (queue.events(task_id), payload, "1")
    return Call("core/requeue", names, args, as_is)


def requeue_unread(queue: QueueKeys, consumer: str, entry_id: str) -> Call[Literal["pending", "lost"]]:
    """Requeue an entry that was claimed but not started."""
    return Call("core/requeue", [queue.stream, "", ""], [queue.group, consumer, entry_id, "", "", "", "", "0"], as_is)


def lose(
    queue: QueueKeys,
    consumer: str,
    claim: Claim,
    payload: str,
    *,
    reason: str,
    error_type: str,
    guilty: bool,
    max_crashes: int,
) -> Call[Literal["pending", "failed", "cancelled", "lost", "gone"]]:
    """Let a task whose process died run again, alone; or fail it, where it has lost too many runs."""
    task_id = claim.task.task_id
    names = [queue.stream, queue.dead, queue.task(task_id), queue.event_stream(task_id)]
    args: list[str | int] = [queue.group, consumer, claim.entry_id, claim.deliveries, task_id, queue.events(task_id)]
    args += (payload, claim.alone, reason, error_type, int(guilty), max_crashes)
    return Call("core/lose", names, args, as_is)


def note_waiting(keys: Keys, consumer: str, claim: Claim, *, waits: bool) -> Call[None]:
    """Note that a started task has to wait before it runs alone, or that it runs from now on."""
    fence = f"{claim.entry_id} {claim.deliveries} {consumer}"
    return Call("core/note_waiting", [keys.task(claim.task.task_id)], [fence, int(waits)], nothing)


def dead_letter(queue: QueueKeys, consumer: str, entry_id: str, reason: str) -> Call[None]:
    """Make a dead letter of a claimed entry that names no task."""
    args = [queue.group, consumer, entry_id, reason]
    return Call("core/dead_letter", [queue.stream, queue.dead], args, nothing)


def dead_letter_once(
    queue: QueueKeys, task_id: str, *, reason: str, error_type: str, payload: str, attempt: str
) -> Call[None]:
    """Make a dead letter of a task that has no entry any more; of one attempt, once."""
    return Call("core/dead_letter_once", [queue.dead], [task_id, reason, error_type, payload, attempt], nothing)


def end_events(keys: Keys, task_id: str, status: str, message: str) -> Call[None]:
    """End a task's events, unless they have ended; ``status`` is what the final event calls it."""
    return Call("core/end_events", [keys.event_stream(task_id)], [keys.events(task_id), status, message], nothing)


# -- staying alive -------------------------------------------------------------------------------------------------


def renew(queue: QueueKeys, consumer: str, claims: Sequence[Claim], *, lease: float) -> Call[list[Renewal]]:
    """Renew the leases of running claims; ``lease`` is how long they last, seconds."""
    names = [queue.stream]
    args: list[str | int] = [queue.group, consumer, int(lease * 1000)]
    for claim in claims:
        names += (queue.task(claim.task.task_id), queue.event_stream(claim.task.task_id))
        args += (claim.entry_id, claim.deliveries)
    return Call("core/renew", names, args, as_is)


class Heartbeat(NamedTuple):
    """A worker's heartbeat.

    Attributes:
        worker_id: The worker.
        ttl: Seconds for which it stands.
        life: Which process's time under this id it is.
        replace: Another life, known to be over, whose heartbeat it may replace; or the same.
        fields: What it says.
        counts: What the worker counted since the one before.
    """

    worker_id: str
    ttl: int
    life: str
    replace: str
    fields: Mapping[str, str]
    counts: Counts

    def args(self) -> list[str | int]:
        """Return what the scripts take."""
        return [self.ttl, self.life, self.replace, *(part for pair in self.fields.items() for part in pair)]

    def check(self, reply: Any) -> None:
        """Raise what the scripts say where the id is another life's.

        Raises:
            WorkerIdTakenError: The heartbeat of another life stands.
        """
        if isinstance(reply, list) and reply[0] == "taken":
            raise WorkerIdTakenError(self.worker_id, *reply[1:])


def heartbeat(queue: QueueKeys, beat: Heartbeat) -> Call[str | None]:
    """Write a worker's heartbeat; the result is the command that an operator left for it, if any.

    Reading the reply raises :class:`WorkerIdTakenError` where the heartbeat of another life stands.
    """

    def read(reply: Any) -> str | None:
        beat.check(reply)
        return None if reply is None else str(reply)

    names = [queue.worker(beat.worker_id), queue.fleet, queue.stream, queue.minutes, queue.usage]
    args = [beat.worker_id, queue.group, beat.counts.number, beat.counts.text(), beat.counts.used(), *beat.args()]
    return Call("core/heartbeat", names, args, read)


def deregister(queue: QueueKeys, worker_id: str, life: str, counts: Counts) -> Call[None]:
    """Deregister a worker that stops in order, unless the id is another life's by now; keep what it counted."""
    names = [queue.stream, queue.worker(worker_id), queue.fleet, queue.minutes, queue.usage]
    args: list[str | int] = [queue.group, worker_id, life, counts.number, counts.text(), counts.used()]
    return Call("core/deregister", names, args, nothing)


# -- mending -------------------------------------------------------------------------------------------------------


def _mended(reply: Any) -> list[Mended]:
    return [Mended(*pair) for pair in zip(reply[::2], reply[1::2], strict=True)]


def mend(types: Mapping[str, str], *, then: Literal["aside", "remove"]) -> Call[list[Mended]]:
    """Put keys away that are of another type than they should be.

    Args:
        types: The type of each key; all are of one slot. Where keys are moved aside, the last one holds the notes of
            that.
        then: What becomes of a key of another type.
    """
    return Call("core/mend", list(types), [then, *types.values()], _mended)


def renew_stream(queue: QueueKeys) -> Call[Literal["fine", "made", "moving"]]:
    """Make the queue a new stream where the old one can take no more, or delivers nothing any more."""
    return Call("core/renew_stream", [queue.stream, queue.moving], [queue.group], as_is)


def move_entries(
    queue: QueueKeys, *, count: int, max_bytes: int, one_slot: bool
) -> Call[tuple[int, list[tuple[str, str]]]]:
    """Move entries from the queue's former stream to the new one.

    Args:
        queue: The queue.
        count: How many entries are moved at most.
        max_bytes: How much of them is moved at most.
        one_slot: Whether records are in the queue's slot: the call notes the new entries in them.

    Returns:
        The call; its result is how many are left, and (entry id, task id) of those whose records are still to be told.
    """

    def read(reply: Any) -> tuple[int, list[tuple[str, str]]]:
        left, *moved = reply
        return left, list(zip(moved[::2], moved[1::2], strict=True))

    args: list[str | int] = [count, max_bytes, queue.task_prefix if one_slot else ""]
    return Call("core/move_entries", [queue.moving, queue.stream], args, read)


def keep_delayed(queue: QueueKeys, task_id: str, due_ms: int) -> Call[int]:
    """Give a delayed task that has lost its place a place again; the result is 0 where no payload of it is kept."""
    return Call("core/keep_delayed", [queue.delayed, queue.parked], [task_id, due_ms], as_is)


# -- tidying and reconciling ---------------------------------------------------------------------------------------


def take_turn(key: str, worker_id: str, milliseconds: int) -> Call[bool]:
    """Take a turn for so long, while nobody has it; the result is whether it is this worker's."""
    return Call("core/take_turn", [key], [worker_id, milliseconds], bool)


def tidy(queue: QueueKeys, gone: Iterable[str], *, dead_letters_ttl: float) -> Call[None]:
    """Remove what nobody needs any more beside the queue.

    Args:
        queue: The queue.
        gone: Consumers without a heartbeat.
        dead_letters_ttl: Seconds for which dead letters are kept.
    """
    args: list[str | int] = [queue.group, int(dead_letters_ttl * 1000), *gone]
    return Call("core/tidy", [queue.stream, queue.dead], args, nothing)


def held(
    queue: QueueKeys, tasks: Iterable[tuple[str, tuple[str, str]]], *, max_bytes: int
) -> Call[list[Literal[0, 1]]]:
    """Tell of tasks whether the queue still holds them.

    Args:
        queue: The queue.
        tasks: Ids, each with two ids of entries that may be its, ``""`` where unknown.
        max_bytes: How much of the entries is read at most.

    Returns:
        The call; its result is 1 or 0 for each task, for fewer where that much was read.
    """
    args: list[str | int] = [queue.group, max_bytes]
    for task_id, entry_ids in tasks:
        args += (task_id, *entry_ids)
    return Call("core/held", [queue.stream, queue.delayed], args, as_is)


def _walked(reply: Any) -> tuple[str, list[tuple[str, str]]]:
    last, *named = reply
    return last, list(zip(named[::2], named[1::2], strict=True))


def walk(queue: QueueKeys, after: str, *, count: int, max_bytes: int) -> Call[tuple[str, list[tuple[str, str]]]]:
    """Tell which tasks the entries of a queue are, a part of the queue at a time.

    Args:
        queue: The queue.
        after: Id of the entry before the first one.
        count: How many entries are read at most.
        max_bytes: How much of them is read at most.

    Returns:
        The call; its result is the id of the last entry, ``""`` where there are no more, and (entry id, task id) of
        each entry that names a task.
    """
    return Call("core/walk", [queue.stream], [after, count, max_bytes], _walked)


def note_entry(keys: Keys, task_id: str, entry_id: str) -> Call[None]:
    """Note in a task's record which entry stands for it; ``-`` is none, while it waits among the delayed ones."""
    return Call("core/note_entry", [keys.task(task_id)], [entry_id], nothing)


def end_lost(queue: QueueKeys, lost: Lost) -> Call[str]:
    """End a task that the queue does not hold any more.

    Returns:
        The call; its result is the status that stands, ``""`` where the record has changed or the queue holds it.
    """
    task_id = lost.task_id
    return Call(
        "core/end_lost",
        [queue.stream, queue.delayed, queue.dead, queue.task(task_id), queue.event_stream(task_id)],
        [
            *(queue.group, task_id, queue.events(task_id), lost.reason, LOST, *lost.entries),
            *(part for pair in lost.known.items() for part in pair),
        ],
        as_is,
    )
