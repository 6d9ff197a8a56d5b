"""Scripted implementations of the worker's small protocols: they record calls, and return what the test says."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from orbiter.distributed.broker.announcements import Announcement
from orbiter.distributed.broker.events import EventPublisher
from orbiter.distributed.broker.housekeeping import Consumer
from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.broker.queue_info import Backlog
from orbiter.distributed.broker.rates import Counts
from orbiter.distributed.broker.records import UNREAD, Batch, Claim, Delivery, Entry, Lost, Mended, Outcome, StartResult
from orbiter.distributed.execution.endings import Completed, Execution
from orbiter.distributed.execution.interface import ExecutorHealth
from orbiter.distributed.execution.running import RunTable
from orbiter.distributed.execution.slot import ABANDON_AFTER, Slot
from orbiter.distributed.models import TaskPayload

_numbers = itertools.count(1)


def queue_name() -> str:
    """Return a queue's name that no other test has: metrics are counted by it."""
    return f"unit:queue{next(_numbers)}"


def claim(
    task_id: str = "t1", *, entry: str = "1-0", deliveries: int = 1, attempt: int = 1, retries: int = 0, **task: Any
) -> Claim:
    """Return a claim of a task with these fields."""
    return Claim(entry, TaskPayload(task_id=task_id, **task), deliveries, attempt, retries)


def entry(task_id: str = "t1", entry_id: str = "1-0", **task: Any) -> Entry:
    """Return the queue's entry of a task."""
    return Entry(entry_id, {"payload": TaskPayload(task_id=task_id, **task).to_json()})


def begun(task_id: str = "t1", entry_id: str = "1-0", verdict: str = "run", **task: Any) -> Delivery:
    """Return an entry, and that its task has begun its first run."""
    return entry(task_id, entry_id, **task), StartResult(verdict, 1, 1, 0)  # type: ignore[arg-type]


def unread(task_id: str = "t1", entry_id: str = "1-0") -> Delivery:
    """Return an entry that was claimed only."""
    return entry(task_id, entry_id), UNREAD


class Scripted:
    """Records calls as ``(step, *details)``; answers by default, unless the test said what comes next."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._answers: dict[str, deque[Any]] = {}

    def will(self, step: str, *answers: Any) -> None:
        """Answer the next calls of a step so: an exception is raised, a function is called, a coroutine awaited."""
        self._answers.setdefault(step, deque()).extend(answers)

    def of(self, step: str) -> list[tuple[Any, ...]]:
        """Return the details of a step's calls."""
        return [details for name, *details in self.calls if name == step]  # type: ignore[misc]

    async def _step(self, step: str, *details: Any, default: Any = None) -> Any:
        self.calls.append((step, *details))
        answers = self._answers.get(step)
        answer = answers.popleft() if answers else default
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            answer = answer()
        return await answer if inspect.isawaitable(answer) else answer


class ScriptedQueue(Scripted):
    """The broker, to fetcher, settler and lease keeper: ``ClaimSource``, ``OutcomeStore`` and ``LeaseStore``."""

    max_payload_bytes = 10_000
    keys = Keys().of_queue("unit")

    def __init__(self) -> None:
        super().__init__()
        self.client: Any = Publishing(self)
        self.counts: list[Counts | None] = []
        self._read: asyncio.Future[None] | None = None

    async def ensure_group(self) -> None:
        await self._step("ensure_group")

    async def keep_client_scripts(self) -> None:
        await asyncio.Event().wait()

    async def fetch(self, consumer: str, count: int, *, client: Any = None) -> list[Delivery]:
        found: list[Delivery] = await self._step("fetch", count, default=[])
        return found

    async def fetch_blocking(
        self, client: Any, consumer: str, count: int, *, wait: float, since: str, held: int
    ) -> list[Delivery]:
        async def until_over() -> list[Delivery]:
            self._read = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(wait):
                    await self._read
            except TimeoutError:
                pass
            finally:
                self._read = None
            return []

        found: list[Delivery] = await self._step("fetch_blocking", count, wait, since, held, default=until_over)
        return found

    def hang_up(self, reader: Any) -> None:
        self.calls.append(("hang_up",))
        if self._read is not None and not self._read.done():
            self._read.set_exception(ConnectionError("hung up"))

    async def recover(
        self, consumer: str, count: int, *, running: Collection[str], given_up: Mapping[str, int], born: float
    ) -> list[Entry]:
        found: list[Entry] = await self._step("recover", list(running), dict(given_up), born, default=[])
        return found

    async def now(self) -> float:
        moment: float = await self._step("now", default=5000.0)
        return moment

    async def start(
        self, consumer: str, claimed: Sequence[tuple[Entry, TaskPayload]], *, alive: Collection[str] = ()
    ) -> list[StartResult]:
        ids = [task.task_id for _, task in claimed]
        started: list[StartResult] = await self._step("start", *ids, default=[StartResult("run", 1, 1, 0) for _ in ids])
        return started

    async def requeue(self, consumer: str, claim: Claim) -> str:
        stands: str = await self._step("requeue", claim.task.task_id, default="pending")
        return stands

    async def lose(self, consumer: str, claim: Claim, *, reason: str, error_type: str, guilty: bool, host: bool) -> str:
        details = (reason, error_type, guilty, host)
        stands: str = await self._step("lose", claim.task.task_id, *details, default="pending")
        return stands

    async def requeue_unread(self, consumer: str, entry: Entry) -> None:
        await self._step("requeue_unread", entry.entry_id)

    async def dead_letter(self, consumer: str, entry: Entry, reason: str) -> None:
        await self._step("dead_letter", entry.entry_id)

    async def settle_and_claim(
        self, consumer: str, outcomes: Sequence[Outcome], count: int, *, client: Any = None
    ) -> tuple[list[str], list[Delivery]]:
        rows = [(outcome.claim.task.task_id, outcome.status) for outcome in outcomes]
        default = [outcome.status for outcome in outcomes], []
        answer: tuple[list[str], list[Delivery]] = await self._step(
            "settle_and_claim", rows, count, client, default=default
        )
        return answer

    async def retry(self, consumer: str, claim: Claim, *, delay: float, error: str, error_type: str) -> str:
        stands: str = await self._step("retry", claim.task.task_id, delay, error, error_type, default="retrying")
        return stands

    async def delegate(self, consumer: str, claim: Claim, workflow_id: str) -> str:
        stands: str = await self._step("delegate", claim.task.task_id, workflow_id, default="delegated")
        return stands

    async def beat(
        self,
        client: Any,
        worker_id: str,
        ttl: int,
        fields: Mapping[str, str],
        *,
        life: str = "",
        replace: str = "",
        counts: Counts | None = None,
    ) -> str | None:
        self.counts.append(counts)
        command: str | None = await self._step("beat", dict(fields), replace)
        return command

    async def renew(self, client: Any, consumer: str, claims: Sequence[Claim], *, lease: float) -> list[str]:
        ids = [claim.task.task_id for claim in claims]
        verdicts: list[str] = await self._step("renew", *ids, default=["ok"] * len(ids))
        return verdicts

    async def append_events(self, batches: Sequence[Batch]) -> None:
        await self._step("append_events", *batches)

    async def deregister(self, worker_id: str, *, life: str = "", counts: Counts | None = None) -> None:
        self.counts.append(counts)
        await self._step("deregister", worker_id)


class Publishing:
    """What the worker says on channels."""

    def __init__(self, script: Scripted) -> None:
        self._script = script

    async def publish(self, channel: str, message: str) -> None:
        await self._script._step("publish", message)


class ScriptedReclaimer(Scripted):
    """The sweeper, to the fetcher."""

    due_in = 10.0
    alive: frozenset[str] = frozenset()

    async def sweep(self, room: int) -> list[Entry]:
        found: list[Entry] = await self._step("sweep", room, default=[])
        return found

    async def look(self) -> None:
        await self._step("look")


class ScriptedSettler:
    """The settler, to the slots: the test says what stands."""

    alive: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.settling: list[tuple[Slot, Callable[..., None]]] = []
        self.fault: Exception | None = None
        self.given_up = False

    def settle(self, slot: Slot, done: Callable[..., None]) -> None:
        if self.fault is not None:
            raise self.fault
        self.settling.append((slot, done))

    def abandon(self) -> None:
        self.given_up = True


class ScriptedExecutor:
    """Runs what the test says: ``work`` makes each run."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, Execution]] | None = None) -> None:
        self.work = work or completes
        self.tables: tuple[RunTable, ...] = ()
        self.degraded = False
        self.state_of_health = ExecutorHealth()
        self.limit: float | None = None
        self.abandon_after = ABANDON_AFTER
        self.executed: list[str] = []
        self.cancelled: list[str] = []
        self.drained = 0

    def execute(self, slot: Slot) -> Coroutine[Any, Any, Execution]:
        self.executed.append(slot.claim.task.task_id)
        return self.work()

    def health(self) -> ExecutorHealth:
        return self.state_of_health

    def time_limit(self, claim: Claim) -> float | None:
        return self.limit

    def reload(self) -> bool:
        return False

    async def prepare(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def cancel(self, task_id: str) -> None:
        self.cancelled.append(task_id)

    async def run(self) -> None:
        """Nothing."""

    async def drain(self, deadline: float, hurry: asyncio.Event) -> int:
        return self.drained


async def completes() -> Execution:
    """A run that succeeds at once."""
    return Completed('{"output":"done"}')


def publisher(script: Scripted | None = None) -> EventPublisher:
    """Return a publisher whose batches go nowhere, or to a script's ``append_events``."""

    async def nowhere(batches: Sequence[Batch]) -> None:
        """Forget them."""

    return EventPublisher(nowhere if script is None else script.append_events)  # type: ignore[attr-defined]


class ScriptedHousekeeping(Scripted):
    """The steps of sweeper and reconciler. What it holds, each step returns; the test changes it.

    Attributes:
        rows: All tasks with their times, milliseconds.
        fields: The records, by task id.
        stored: How far the rounds have come, and the notes of missing tasks.
        queued: Ids of tasks that the queue holds.
    """

    event_ttl = 3600

    def __init__(self) -> None:
        super().__init__()
        self.queue_name = queue_name()
        self.time = 1_000_000.0
        self.turn = True
        self.round = False
        self.owners: list[Consumer] = []
        self.rows: list[tuple[str, float]] = []
        self.fields: dict[str, dict[str, str]] = {}
        self.stored: tuple[dict[str, str], dict[str, Any]] = {}, {}
        self.queued: set[str] = set()
        self.finals: dict[str, dict[str, str]] = {}

    async def mend(self) -> list[Mended]:
        found: list[Mended] = await self._step("mend", default=[])
        return found

    async def renew_stream(self) -> bool:
        found: bool = await self._step("renew_stream", default=False)
        return found

    async def mend_times(self, now: float) -> None:
        await self._step("mend_times", now)

    async def keep_delayed(self, task_id: str, due: float) -> bool:
        found: bool = await self._step("keep_delayed", task_id, due, default=False)
        return found

    async def now(self) -> float:
        return self.time

    async def tasks_by_time(self, score: str, until: int, *, skip: int, count: int) -> list[tuple[str, float]]:
        self.calls.append(("tasks_by_time", score, skip))
        found = [row for row in self.rows if float(score) <= row[1] <= until]
        return found[skip : skip + count]

    async def records(self, task_ids: Sequence[str], names: Sequence[str]) -> list[list[str | None]]:
        return [[self.fields.get(task_id, {}).get(name) for name in names] for task_id in task_ids]

    async def acquire_sweep(self, worker_id: str, seconds: float) -> bool:
        taken: bool = await self._step("acquire_sweep", worker_id, seconds, default=self.turn)
        return taken

    async def release_sweep(self) -> None:
        await self._step("release_sweep")

    async def backlog(self) -> Backlog:
        backlog: Backlog = await self._step("backlog", default=Backlog(waiting=3, running=2, delayed=1, dead=4))
        return backlog

    async def consumers(self) -> list[Consumer]:
        return self.owners

    async def reclaim(self, consumer: str, count: int, leases: Mapping[str, float]) -> list[Entry]:
        found: list[Entry] = await self._step("reclaim", count, dict(leases), default=[])
        return found

    async def tidy(self, gone: Collection[str], *, dead_letters_ttl: float) -> None:
        await self._step("tidy", list(gone))

    async def forget_workers(self, before: float) -> None:
        await self._step("forget_workers", before)

    async def prune(self, gone: Sequence[str], waiting: Sequence[str]) -> None:
        await self._step("prune", list(gone), list(waiting))
        self.rows = [row for row in self.rows if row[0] not in set(gone)]

    async def listed(self) -> tuple[int, int]:
        numbers: tuple[int, int] = await self._step("listed", default=(0, 0))
        return numbers

    async def unordered(self, cursor: int, count: int) -> tuple[int, list[str]]:
        found: tuple[int, list[str]] = await self._step("unordered", cursor, default=(0, []))
        return found

    async def adopt(self, moments: Mapping[str, float], gone: Sequence[str]) -> None:
        await self._step("adopt", dict(moments), list(gone))

    async def begin_round(self, milliseconds: int) -> bool:
        begun: bool = await self._step("begin_round", milliseconds, default=self.round)
        return begun

    async def progress(self) -> tuple[dict[str, str], dict[str, Any]]:
        return self.stored

    async def save_progress(self, fields: Mapping[str, str], missing: Mapping[str, Any], gone: Collection[str]) -> None:
        self.stored = dict(fields), dict(missing)

    async def relist(self, place: str) -> str:
        then: str = await self._step("relist", place, default="")
        return then

    async def held(self, tasks: Sequence[tuple[str, tuple[str, str]]], *, max_bytes: int) -> list[int]:
        held: list[int] = await self._step(
            "held", *tasks, default=[int(task_id in self.queued) for task_id, _ in tasks]
        )
        return held

    async def walk(self, after: str, *, count: int, max_bytes: int) -> tuple[str, list[tuple[str, str]]]:
        found: tuple[str, list[tuple[str, str]]] = await self._step("walk", after, default=("", []))
        return found

    async def note_entry(self, task_id: str, entry_id: str) -> None:
        await self._step("note_entry", task_id, entry_id)

    async def end_lost(self, lost: Lost) -> str:
        status: str = await self._step("end_lost", lost.task_id, lost, default="failed")
        return status

    async def note_workers(self, worker_ids: Sequence[str]) -> None:
        await self._step("note_workers", list(worker_ids))

    async def listing(self, name: str, *, skip: int, count: int) -> list[str]:
        task_ids: list[str] = await self._step("listing", name, skip, default=[])
        return task_ids

    async def unlist(self, name: str, gone: Sequence[str]) -> None:
        await self._step("unlist", name, list(gone))

    async def list_again(self, created: Mapping[str, float], ended: Mapping[str, Mapping[str, float]]) -> None:
        await self._step("list_again", dict(created), dict(ended))

    async def last_events(self, task_ids: Sequence[str]) -> list[dict[str, str] | None]:
        return [self.finals.get(task_id) for task_id in task_ids]

    async def end_events(self, task_id: str, status: str, error: str) -> None:
        await self._step("end_events", task_id, status, error)


class ScriptedChannel(Scripted):
    """Announcements, to the listener; nothing is heard unless the test says so."""

    async def next(self, within: float) -> Announcement | None:
        async def silence() -> None:
            await asyncio.sleep(within)

        heard: Announcement | None = await self._step("next", within, default=silence)
        return heard

    async def probe(self) -> None:
        await self._step("probe")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ScriptedChannel]:
        await self._step("open")
        yield self
