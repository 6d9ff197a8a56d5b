"""Reconciler: finds tasks that have not ended although nothing stands for them any more, and ends them.

A queue can lose an entry behind our back: XTRIM, XDEL, a DEL of the queue, an AOF that a crash cut off, a failover to a
replica that had not heard of it. The record stays ``pending`` or ``running`` then, and whoever waits for it waits for
ever. So records are compared with the queue, some of them in each round:

1. Each task of the queue that has not ended and is older than two leases is looked at. It is held where it is among the
   delayed ones, is claimed, or its record names its entry; what is Temporal's is left to Temporal.
2. What is not held is noted with its record, and looked at again in the next round.
3. What is still not held and has not changed is searched for in the whole queue: an 0.1 worker, for one, puts a task
   back without a word in its record. The record of what is found names its entry from then on.
4. What was not found is ended: fenced by its record, which must not have changed.

The same rounds look whether tasks that ended lately have a final event, and add it where it is missing.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError
from redis.exceptions import ResponseError

from orbiter.distributed.broker.records import EVENT_STATUS, Lost
from orbiter.distributed.models import DEFAULT_QUEUE, event_from_json, is_final
from orbiter.distributed.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

logger = logging.getLogger(__name__)

# In a round: records looked at, those noted as missing, entries searched.
PAGE = 250
PAGES = 8
MOST_MISSING = 2000
WALK_STEP = 500
WALK_STEPS = 20
BYTES_A_CALL = 4_000_000
# A client has so long to end a submit or a retry that it has begun, milliseconds.
HALF_WAY = 60_000
A_DAY = 86_400_000
# No moment that a record names is later, epoch seconds.
LATEST = 1e11

# What changes whenever something becomes of a task: the fence of its end here.
_FENCE = ("status", "fence", "entry", "attempt", "retries", "handoffs", "started_at", "submitting", "resubmitting")
_FIELDS = (*_FENCE, "queue", "executor", "completed_at", "worker_id", "held_until", "next_attempt_at")
_CLAIMED = re.compile(r"(\d+-\d+) \d+ .")
_ENTRY = re.compile(r"\d+-\d+")
_NUMBER = re.compile(r"\d{1,15}")
# What may be kept of the rounds' progress.
_STATE: dict[str, tuple[re.Pattern[str], type[str | int]]] = {
    "score": (re.compile(r"\d{1,17}(\.\d{1,17})?"), str),
    **dict.fromkeys(("skip", "began", "before", "walking"), (_NUMBER, int)),
    "walked": (_ENTRY, str),
    "relisted": (re.compile(r"\d{1,9} \d{1,19}"), str),
}


@dataclass(slots=True)
class _Record:
    """A task's record.

    Attributes:
        task_id: The task.
        values: The fields that count here, ``""`` where one is not there.
        listed: When it came onto the list of all tasks, milliseconds; 0 where that was not asked for.
    """

    task_id: str
    values: dict[str, str]
    listed: float = 0.0

    @property
    def fence(self) -> dict[str, str]:
        """What must not have changed when the task is ended."""
        return {name: self.values[name] for name in _FENCE}

    @property
    def entries(self) -> tuple[str, str]:
        """Return the entries that it names: that of its last claim, and the one put on the queue for it."""
        claimed = _CLAIMED.match(self.values["fence"])
        entry = self.values["entry"]
        return claimed[1] if claimed else "", entry if _ENTRY.fullmatch(entry) else ""

    @property
    def half_way(self) -> bool:
        """Whether a client has begun to put it on the queue, and has not said that it is there."""
        return bool(self.values["submitting"] or self.values["resubmitting"])

    @property
    def ended(self) -> bool:
        """Whether it has ended, with all that belongs to it. An 0.1 client cancels by writing the status alone."""
        return self.values["status"] in EVENT_STATUS and bool(self.values["completed_at"])

    def runs_at(self, now: int) -> bool:
        """Whether its worker has renewed it lately, although its entry is gone; ``now`` is milliseconds."""
        until = self.values["held_until"]
        return self.values["status"] == "running" and bool(_NUMBER.fullmatch(until)) and now < int(until) < now + A_DAY

    def reason(self, queue: str) -> str:
        """Say what has become of the task."""
        if self.half_way:
            return f"its submission stopped half-way: the task never reached queue {queue}"
        running = self.values["status"] == "running"
        when = f"while it ran on {self.values['worker_id'] or 'a worker'}" if running else "before it could run"
        return f"its entry on queue {queue} was lost {when}: trimmed, deleted, or lost with a Redis that failed"


@dataclass(slots=True)
class _State:
    """How far the rounds have come. Shared by all workers, as any of them may have the next round.

    Attributes:
        score: Where the next page of records begins: the time of the first one,
        skip: and how many of that time have been looked at.
        began: When this pass over all records began, milliseconds,
        before: and the one before it, 0 where there was none.
        walked: The last entry searched, empty where no search is under way.
        walking: When the search began, milliseconds.
        relisted: How far the search for records on no list has come, as the broker says it.
    """

    score: str = "-inf"
    skip: int = 0
    began: int = 0
    before: int = 0
    walked: str = ""
    walking: int = 0
    relisted: str = ""

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> _State:
        """Read what was kept; what is spoilt of it begins anew."""
        values: dict[str, Any] = {"score": "-inf"}
        for name, (form, read) in _STATE.items():
            text = fields.get(name) or ""
            if form.fullmatch(text):
                values[name] = read(text)
        return cls(**values)

    def fields(self) -> dict[str, str]:
        return {name: str(getattr(self, name)) for name in self.__slots__}


class ReconcileStore(Protocol):
    """The steps of a round: :class:`~orbiter.distributed.broker.housekeeping.Housekeeping`, which describes them."""

    queue_name: str
    event_ttl: int

    async def now(self) -> float:
        """Return the time by Redis' clock, epoch seconds."""

    async def tasks_by_time(self, score: str, until: int, *, skip: int, count: int) -> list[tuple[str, float]]:
        """Return a page of all tasks in the order of time, each with its time in milliseconds."""

    async def records(self, task_ids: Sequence[str], names: Sequence[str]) -> list[list[str | None]]:
        """Return the fields ``names`` of each task's record."""

    async def begin_round(self, milliseconds: int) -> bool:
        """Become the one who reconciles for so long; return ``False`` while another worker is."""

    async def progress(self) -> tuple[dict[str, str], dict[str, Any]]:
        """Return how far the rounds have come, and what was noted of tasks that are missing, by id."""

    async def save_progress(self, fields: Mapping[str, str], missing: Mapping[str, Any], gone: Collection[str]) -> None:
        """Keep how far the rounds have come, and notes of missing tasks; drop the notes of those ``gone``."""

    async def relist(self, place: str) -> str:
        """List again some records that are on no list; return where to go on."""

    async def held(self, tasks: Iterable[tuple[str, tuple[str, str]]], *, max_bytes: int) -> Sequence[int]:
        """Tell of tasks whether the queue holds them; of fewer where ``max_bytes`` were read."""

    async def walk(self, after: str, *, count: int, max_bytes: int) -> tuple[str, list[tuple[str, str]]]:
        """Return the id of the last entry looked at, ``""`` at the end; and (entry id, task id) of each entry."""

    async def note_entry(self, task_id: str, entry_id: str) -> None:
        """Note in a task's record which entry stands for it."""

    async def keep_delayed(self, task_id: str, due: float) -> bool:
        """Give a delayed task that has lost its place a place again, due then (epoch seconds); tell if it was kept."""

    async def end_lost(self, lost: Lost) -> str:
        """End a task that the queue does not hold any more; return the status that stands, or an empty text."""

    async def list_again(self, created: Mapping[str, float], ended: Mapping[str, Mapping[str, float]]) -> None:
        """List tasks where they are not listed: of this queue, and by status; each with its time, milliseconds."""

    async def last_events(self, task_ids: Sequence[str]) -> list[dict[str, str] | None]:
        """Return the last entry of each task's events, ``None`` where there is none."""

    async def end_events(self, task_id: str, status: str, error: str) -> None:
        """End the events of a task that has ended, unless they have."""


class Reconciler:
    """Compares records with the queue, a round each third of a lease, one worker at a time.

    Args:
        store: The queue's housekeeping.
        lease: Seconds.
    """

    def __init__(self, store: ReconcileStore, *, lease: float) -> None:
        self._store = store
        self._settled = int(lease * 2000)
        self._turn = max(1, int(lease * 1000 / 3 * 0.8))

    async def round(self) -> None:
        """Look at some records, and end those that nothing has stood for in two rounds.

        Raises:
            RedisError: Redis could not be reached; the next round goes on.
        """
        try:
            await self._round()
        except ResponseError as error:
            # A user with fewer rights than docs/redis-rights.md gives: that must not keep anybody from claiming.
            logger.warning("records cannot be compared with the queue: %s", error)

    async def _round(self) -> None:
        store = self._store
        if not await store.begin_round(self._turn):
            return
        now = int(await store.now() * 1000)
        stored, seen = await store.progress()
        noted = set(seen)
        state = _State.of(stored)
        state.relisted = await store.relist(state.relisted)
        missing = await self._look(state, list(seen), now)
        seen = {task_id: note for task_id, note in seen.items() if _is_note(note)}
        again = {task_id: row for task_id, row in missing.items() if task_id in seen and seen[task_id][1] == row.fence}
        settled = await self._settle(state, again, {task_id: seen[task_id][0] for task_id in again}, now)
        kept = {task_id: seen[task_id] for task_id in again if task_id not in settled}
        for task_id, record in missing.items():
            if task_id not in again and len(kept) < MOST_MISSING:
                kept[task_id] = [now, record.fence]
        await store.save_progress(state.fields(), kept, gone=noted - kept.keys())

    async def _look(self, state: _State, seen: Sequence[str], now: int) -> dict[str, _Record]:
        """Look at the tasks that were missing before and at the next pages of all; return those missing now."""
        missing = await self._not_held(await self._records(seen), now)
        for _ in range(PAGES):
            records = await self._page(state, now)
            await self._end_events([record for record in records if record.ended], state, now)
            known = set(seen)
            missing += await self._not_held([record for record in records if record.task_id not in known], now)
            if state.score == "-inf":
                break
        return {record.task_id: record for record in missing}

    async def _settle(
        self, state: _State, again: Mapping[str, _Record], since: Mapping[str, int], now: int
    ) -> set[str]:
        """Search the queue for tasks that are missing again, and end those that are not there.

        Args:
            state: How far the search has come.
            again: The tasks.
            since: When each was found to be missing for the first time, milliseconds.
            now: Milliseconds.

        Returns:
            The ids of those that were found or ended.
        """
        due = {
            task_id
            for task_id, record in again.items()
            if now - since[task_id] >= (HALF_WAY if record.half_way else self._turn // 2)
        }
        if not due:
            state.walked = ""
            return set()
        settled = await self._search(state, again, now)
        if state.walked:
            return settled
        # What came to be missing after the search had begun waits for the next one.
        lost = [again[task_id] for task_id in due - settled if since[task_id] < state.walking]
        return settled | {record.task_id for record in lost if await self._end(record)}

    # -- records -------------------------------------------------------------------------------------------------

    async def _page(self, state: _State, now: int) -> list[_Record]:
        """Return the next records, and note where those after them begin."""
        if state.score == "-inf":
            state.before, state.began = state.began, now
        rows = await self._store.tasks_by_time(state.score, now - self._settled, skip=state.skip, count=PAGE)
        if len(rows) < PAGE:
            state.score, state.skip = "-inf", 0
        else:
            last = rows[-1][1]
            same = sum(score == last for _, score in rows)
            state.skip = same + (state.skip if str(last) == state.score else 0)
            state.score = str(last)
        listed = dict(rows)
        records = await self._records(list(listed), unnamed=True)
        for record in records:
            record.listed = listed[record.task_id]
        await self._list_again(records, now)
        # One that says no queue (0.1's) may have its entry anywhere.
        return [record for record in records if record.values["queue"]]

    async def _list_again(self, records: Iterable[_Record], now: int) -> None:
        """List tasks where they are not: 0.1 and earlier releases list none; in a cluster it is a step of its own."""
        known = [record for record in records if record.values["status"]]
        ended: dict[str, dict[str, float]] = {}
        for record in known:
            if record.ended:
                moment = _milliseconds(record.values["completed_at"])
                # Text that is no time counts as now.
                moment = int(moment) if 0 < moment < now else now
                ended.setdefault(record.values["status"], {})[record.task_id] = moment
        if known:
            await self._store.list_again({record.task_id: int(max(0.0, record.listed)) for record in known}, ended)

    async def _records(self, task_ids: Sequence[str], *, unnamed: bool = False) -> list[_Record]:
        """Return the records of this queue's tasks; ``unnamed`` ones (0.1's), which say none, as the default one's."""
        if not task_ids:
            return []
        rows = await self._store.records(task_ids, _FIELDS)
        records = [
            _Record(task_id, {name: value or "" for name, value in zip(_FIELDS, row, strict=True)})
            for task_id, row in zip(task_ids, rows, strict=True)
        ]
        queue = self._store.queue_name
        other = DEFAULT_QUEUE if unnamed else ""
        return [record for record in records if (record.values["queue"] or other) == queue]

    async def _not_held(self, records: Iterable[_Record], now: int) -> list[_Record]:
        """Return those of the records that have not ended, although nothing is known to stand for them."""
        left = [
            record
            for record in records
            if record.values["status"]
            and not record.ended
            and not record.runs_at(now)
            and record.values["executor"] != "temporal"
        ]
        missing = []
        while left:
            page = [(record.task_id, record.entries) for record in left[:PAGE]]
            held = await self._store.held(page, max_bytes=BYTES_A_CALL)
            missing += [record for record, found in zip(left, held, strict=False) if not found]
            left = left[len(held) :]
        return missing

    # -- what is missing -----------------------------------------------------------------------------------------

    async def _search(self, state: _State, tasks: Collection[str], now: int) -> set[str]:
        """Search the queue, or its next part, for tasks; return the ids of those whose entries were found."""
        if not state.walked:
            state.walked, state.walking = "0-0", now
        found: set[str] = set()
        for _ in range(WALK_STEPS):
            state.walked, named = await self._store.walk(state.walked, count=WALK_STEP, max_bytes=BYTES_A_CALL)
            for entry_id, task_id in named:
                if task_id in tasks:
                    found.add(task_id)
                    await self._store.note_entry(task_id, entry_id)
            if not state.walked:
                break
        return found

    async def _end(self, record: _Record) -> bool:
        queue = self._store.queue_name
        if record.values["status"] != "running" and await self._keep_delayed(record):
            return True
        reason = record.reason(queue)
        status = await self._store.end_lost(Lost(record.task_id, record.fence, record.entries, reason))
        if status == "failed":
            metrics.FAILED.add(1, queue, "")
            metrics.DEAD_LETTERED.add(1, queue)
        if status:
            logger.warning("ended as %s: %s", status, reason, extra={"task_id": record.task_id})
        return bool(status)

    async def _keep_delayed(self, record: _Record) -> bool:
        """Give a task that has lost its place among the delayed ones, but not its payload, a place again."""
        due = _milliseconds(record.values["next_attempt_at"]) / 1000
        kept = await self._store.keep_delayed(record.task_id, due if 0 < due < LATEST else 0)
        if kept:
            logger.warning("put back among the delayed tasks: its place was lost", extra={"task_id": record.task_id})
        return kept

    # -- what has ended ------------------------------------------------------------------------------------------

    async def _end_events(self, ended: Iterable[_Record], state: _State, now: int) -> None:
        """Add the final events that are missing of tasks which ended since the last pass, and not just now."""
        oldest = max(state.before - self._settled, now - int(self._store.event_ttl * 900))
        # One that a list had lost may have been listed again long after its end.
        recent = [
            record
            for record in ended
            if oldest <= max(_milliseconds(record.values["completed_at"]), record.listed) <= now - self._settled
        ]
        if not recent:
            return
        last_events = await self._store.last_events([record.task_id for record in recent])
        for record, last in zip(recent, last_events, strict=True):
            # One that has completed and said nothing needs no stream: its record tells the end.
            if not _final(last) if last is not None else record.values["status"] != "completed":
                [[error]] = await self._store.records([record.task_id], ["error"])
                failed = record.values["status"] == "failed"
                await self._store.end_events(record.task_id, record.values["status"], (failed and error) or "")


def _final(fields: Mapping[str, str]) -> bool:
    if fields.get("at", "").endswith("!"):
        return True
    try:
        return is_final(event_from_json(fields["event"]))
    except (KeyError, ValidationError):
        return False


def _is_note(note: Any) -> bool:
    """Tell whether this is what a round notes of a missing task: when it was found missing, and its record."""
    return isinstance(note, list) and len(note) == 2 and isinstance(note[0], int) and isinstance(note[1], dict)


def _milliseconds(text: str) -> float:
    try:
        return float(text) * 1000
    except ValueError:
        return 0.0
