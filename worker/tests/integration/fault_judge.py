"""What must hold after a run of faults, by what Redis says and by the runs' own notes; and a report."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import groupby, pairwise

from redis.asyncio import Redis

from orbiter.distributed.broker.scripts import names, script
from orbiter.distributed.broker.store import decode
from orbiter.distributed.models import Event, StatusEvent, TaskResult, TaskStatus, TextEvent
from tests import keys
from tests.faults_proxy import Piece
from tests.fleet import QUEUE, Fleet, leftovers, wrong_with_events
from tests.integration.fault_plan import Work
from tests.integration.fault_run import Failure, FaultRun

PAGE = 100
TOLD_IN_FULL = 6
LISTED = 12
LATE = 0.5
# A run that has lost its lease may take so long, seconds, to come to its next await on a busy machine.
STOPPED_WITHIN = 0.25
LONGEST_TIMELINE = 150
_EVENT = "  event "
_COMMAND = re.compile(rb"\*\d+\r\n\$\d+\r\n([A-Za-z]+)\r\n(?:\$40\r\n([0-9a-f]{40}))?")
_LOG_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3})Z (\w+) +(.*)")


@dataclass
class Noted:
    """One run, as it noted itself. Times are monotonic."""

    attempt: int
    worker: str
    began: float
    ended: float | None = None
    how: str = "no end"


@dataclass
class Case:
    """A task, and all that is known of it."""

    work: Work
    record: dict[str, str] = field(default_factory=dict)
    task: TaskResult | None = None
    events: list[Event] = field(default_factory=list)
    runs: list[Noted] = field(default_factory=list)

    @property
    def task_id(self) -> str:
        return self.work.task.task_id


class Judge:
    """Checks a run, and tells what it found.

    Args:
        run: The run; its failures are added to.
    """

    def __init__(self, run: FaultRun) -> None:
        self._run = run
        self._state: list[str] = []
        self.cases = {work.task.task_id: Case(work) for work in run.works}

    async def look(self, fleet: Fleet) -> None:
        """Read what Redis has, before anything is stopped."""
        submitted = list(self._run.submitted)
        for at in range(0, len(submitted), PAGE):
            ids = submitted[at : at + PAGE]
            async with fleet.client.pipeline(transaction=False) as pipeline:
                for task_id in ids:
                    pipeline.hgetall(keys.task(task_id))
                rows = await pipeline.execute()
            for task_id, record in zip(ids, rows, strict=True):
                case = self.cases[task_id]
                case.record, case.task = record, decode(record) if record else None
                case.events = await fleet.events(task_id)
        for text in await leftovers(fleet):
            self._fail("the queue is empty", "queue", text)
        pending = await fleet.client.xpending_range(QUEUE, keys.group(QUEUE), "-", "+", 50)
        self._state = [f"pending {row}" for row in pending]
        for name in await fleet.workers():
            self._state.append(f"{name} {await fleet.client.hgetall(name)}")

    def judge(self) -> None:
        """Check everything."""
        self._read_notes()
        submitted = len(self._run.submitted)
        if submitted != len(self._run.works) and not self._run.server_ended:
            self._fail("every task is accepted", "tasks", f"{submitted} of {len(self._run.works)} were")
        for case in self.cases.values():
            for check, found in self._checks(case):
                self._fail(check, case.task_id, found)

    def _read_notes(self) -> None:
        for path in sorted(self._run.notes.iterdir()):
            for line in path.read_text().splitlines():
                said = json.loads(line)
                runs = self.cases[said["task"]].runs
                if said["what"] == "begins":
                    runs.append(Noted(said["attempt"], said["worker"], said["at"]))
                    continue
                [*_, mine] = (run for run in runs if (run.attempt, run.worker) == (said["attempt"], said["worker"]))
                mine.ended, mine.how = said["at"], said["what"]
        for case in self.cases.values():
            case.runs.sort(key=lambda run: run.began)

    def _fail(self, check: str, subject: str, text: str) -> None:
        self._run.failures.append(Failure(check, subject, text))

    # -- checks of a task ----------------------------------------------------------------------------------------

    def _checks(self, case: Case) -> Iterator[tuple[str, str]]:
        for attempt, count in Counter(run.attempt for run in case.runs).items():
            if count > 1:
                yield "an attempt number is used once", f"attempt {attempt} ran {count} times"
        for before, after in pairwise(case.runs):
            if after.attempt < before.attempt:
                late = f"attempt {after.attempt} began {after.began - before.began:.2f} s after {before.attempt} had"
                yield "attempts begin in order", late
            # A thread cannot be stopped: its run may outlive its lease.
            overlap = (before.ended or after.began) - after.began
            if overlap > STOPPED_WITHIN * self._run.slowness and case.work.task.agent_name != "block":
                both = f"attempt {before.attempt} on {before.worker} and {after.attempt} on {after.worker}"
                yield "no task runs twice at a time", f"{both}, for {overlap:.2f} s"
        task = case.task
        if self._run.server_ended or case.task_id not in self._run.submitted:
            return
        if task is None:
            yield "every task ends", "it has no record"
            return
        if not task.status.terminal:
            yield "every task ends", f"it is {task.status}"
            return
        if task.status not in case.work.ends:
            yield "a task ends as it must", f"{task.status} ({task.error_type}: {task.error})"
        yield from self._counts(case, task)
        for wrong in wrong_with_events(task, case.events):
            yield "events are whole", wrong
        if task.status == TaskStatus.COMPLETED:
            yield from self._completed(case, task)

    @staticmethod
    def _counts(case: Case, task: TaskResult) -> Iterator[tuple[str, str]]:
        budget = 1 + task.retries + task.losses + task.handoffs
        counts = f"1 + {task.retries} retries + {task.losses} losses + {task.handoffs} hand-offs"
        if task.crashes > max(0, task.losses - 1):
            yield "a first loss is not charged", f"{task.crashes} crashes, but {task.losses} losses"
        if len(case.runs) > budget:
            yield "every run is counted", f"{len(case.runs)} runs, but {counts}"
        if task.attempt > budget:
            yield "every run is counted", f"attempt {task.attempt}, but {counts}"
        if case.runs and max(run.attempt for run in case.runs) > task.attempt:
            yield "every run is counted", f"a later attempt ran than the record's {task.attempt}"
        raised = sum(run.how == "raises" for run in case.runs)
        if task.retries > raised:
            yield "every run is counted", f"{task.retries} retries, but {raised} runs raised"

    @staticmethod
    def _completed(case: Case, task: TaskResult) -> Iterator[tuple[str, str]]:
        own = [run for run in case.runs if run.attempt == task.attempt and run.how == "ends"]
        if [run.worker for run in own] != [task.worker_id]:
            yield "what is recorded has run", f"no run of attempt {task.attempt} on {task.worker_id} came to its end"
        result = task.result or {}
        said_by = result.get("attempt", task.attempt), result.get("worker", task.worker_id)
        if said_by != (task.attempt, task.worker_id):
            yield "what is recorded has run", f"the result is of attempt and worker {said_by}"
        if case.work.task.agent_name in {"talk", "stream"}:
            texts = [e.text for e in case.events if isinstance(e, TextEvent) and e.attempt == task.attempt]
            words, wanted = "".join(texts).split(), str(result.get("output")).split()
            if words != wanted:
                yield "events are whole", f"{len(words)} words on the stream, {len(wanted)} in the result"

    # -- the report ----------------------------------------------------------------------------------------------

    def headline(self) -> str:
        """Say which checks failed how often."""
        run = self._run
        counts = Counter(failure.check for failure in run.failures)
        ready, ended = run.began - run.born, run.happened[-1].at - run.began if run.happened else 0
        return (
            f"seed {run.seed} ({', '.join(run.sides)}): {len(run.failures)} failures {dict(counts)};"
            f" ready after {ready:.1f} s, over after {ended:.1f} s"
        )

    def report(self) -> str:
        """Tell what failed, and of some tasks everything that is known."""
        run = self._run
        statuses = Counter(str(case.task.status) for case in self.cases.values() if case.task)
        losses = sum(case.task.losses for case in self.cases.values() if case.task)
        crashes = sum(case.task.crashes for case in self.cases.values() if case.task)
        retries = sum(case.task.retries for case in self.cases.values() if case.task)
        runs = sum(len(case.runs) for case in self.cases.values())
        unseen = sum(
            case.task.attempt - len({run.attempt for run in case.runs}) for case in self.cases.values() if case.task
        )
        lines = [
            self.headline(),
            f"{dict(statuses)}, {runs} runs and {unseen} attempts that never ran, {retries} retries, {losses} losses,"
            f" {crashes} crashes; {sum(proxy.count for proxy in run.proxies.values())} connections;"
            f" files in {run.directory}",
        ]
        told: Counter[str] = Counter()
        subjects: dict[str, None] = {}
        for failure in run.failures:
            told[failure.check] += 1
            if told[failure.check] <= LISTED:
                lines.append(str(failure))
            # Of each check some are told in full; a task that failed several is told once.
            if failure.subject in self.cases and told[failure.check] <= TOLD_IN_FULL // 2:
                subjects[failure.subject] = None
        lines += [f"{check}: … {count - LISTED} more" for check, count in told.items() if count > LISTED]
        if run.failures:
            lines += self._last_words()
            lines += ["-- Redis at the end", *self._state, "-- what was done"]
            lines += [f"{self._clock(h.at)} {h.text}" for h in run.happened]
        for task_id in list(subjects)[:TOLD_IN_FULL]:
            lines += self._story(self.cases[task_id])
        return "\n".join(lines)

    def _last_words(self) -> Iterator[str]:
        """Quote the end of the logs of workers that have exited: of the first two, as they mostly say the same."""
        exited = [failure.subject for failure in self._run.failures if failure.check == "a worker exits"]
        for member in self._run.members:
            if member.name in exited[:2]:
                yield f"-- the last words of {member.name}"
                yield from member.log.read_text().splitlines()[-40:]

    def _clock(self, monotonic: float) -> str:
        return f"[{monotonic - self._run.began:6.2f}]"

    def _monotonic(self, epoch: float) -> float:
        return epoch - self._run.began_epoch + self._run.began

    def _story(self, case: Case) -> list[str]:
        """Tell a task's life in the order of time: submit, runs, events, logs of its workers, faults."""
        run, task_id = self._run, case.task_id
        lines = [
            f"-- {task_id}: {case.work.task.agent_name} {case.work.task.metadata}",
            *(f"!! {failure.check}: {failure.text}" for failure in run.failures if failure.subject == task_id),
            f"record {case.record}",
        ]
        told: list[tuple[float, str]] = []
        if task_id in run.submitted:
            told.append((run.submitted[task_id], "accepted"))
        if said := run.cancelled.get(task_id):
            lines.append(f"cancel: {said}")
        for noted in case.runs:
            told.append((noted.began, f"RUN attempt {noted.attempt} begins on {noted.worker}"))
            if noted.ended is not None:
                told.append((noted.ended, f"RUN attempt {noted.attempt} {noted.how} on {noted.worker}"))
        told += self._events(case)
        for name in ("started_at", "completed_at"):
            if epoch := case.record.get(name):
                told.append((self._monotonic(float(epoch)), f"record: {name}"))
        begin = min(at for at, _ in told) - 1
        ended = case.task is not None and case.task.status.terminal
        end = max(at for at, _ in told) + 1 if ended else float("inf")
        sides = {noted.worker.partition("-")[0] for noted in case.runs} or {"left", "right"}
        if worker := case.record.get("worker_id"):
            sides.add(worker.partition("-")[0])
        told += self._logged(task_id, begin, end, sides)
        for happened in run.happened:
            if happened.until >= begin and happened.at <= end and sides & set(happened.sides):
                told.append((happened.at, f"     == {happened.text}"))
                if happened.until > happened.at:
                    told.append((happened.until, f"     over == {happened.text}"))
        told += self._passed(case)
        lines += self._timeline(sorted(told, key=lambda row: row[0]))
        return lines

    def _timeline(self, told: list[tuple[float, str]]) -> list[str]:
        """Return lines; of many events in a row the first and the last, of many lines the first and the last."""
        lines = []
        for are_events, group in groupby(told, key=lambda row: row[1].startswith(_EVENT)):
            rows = [f"{self._clock(at)} {text}" for at, text in group]
            if are_events and len(rows) > 4:
                rows[2:-2] = [f"{' ' * len(rows[0].partition(']')[0])}    … {len(rows) - 4} more"]
            lines += rows
        if len(lines) > LONGEST_TIMELINE:
            half = LONGEST_TIMELINE // 2
            lines[half:-half] = [f"… {len(lines) - 2 * half} lines left out …"]
        return lines

    def _events(self, case: Case) -> Iterator[tuple[float, str]]:
        """Tell which events came when, by Redis' clock."""
        for event in case.events:
            kind = event.type if not isinstance(event, StatusEvent) else f"status {event.status}"
            moment = self._monotonic(int(event.entry_id.partition("-")[0]) / 1000)
            yield moment, f"{_EVENT}{event.attempt}/{event.seq} {kind}"

    def _passed(self, case: Case) -> Iterator[tuple[float, str]]:
        """Tell what went through the proxies that names this task: calls, and answers with its payload."""
        named = case.task_id.encode()
        for side, proxy in self._run.proxies.items():
            for piece in proxy.trace:
                if named not in piece.said or (piece.way == "up" and _only_events(piece.said)):
                    continue
                what = f"{side} {piece.way} {piece.link}: {_commands(piece) or 'answer'}"
                if piece.passed is None:
                    yield piece.taken, f"  wire {what}, never passed on"
                elif piece.passed - piece.taken < LATE:
                    yield piece.taken, f"  wire {what}"
                else:
                    yield piece.taken, f"  wire {what}, held"
                    yield piece.passed, f"  wire {what}, {piece.passed - piece.taken:.1f} s late"

    def _logged(self, task_id: str, begin: float, end: float, sides: set[str]) -> Iterator[tuple[float, str]]:
        """Yield what workers logged of a task, and what else they warned of in that time."""
        for member in self._run.members:
            last = ""
            for line in member.log.read_text().splitlines():
                found = _LOG_TIME.match(line)
                if not found or member.side not in sides:
                    continue
                stamp, level, said = found.groups()
                epoch = datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC).timestamp()
                at = self._monotonic(epoch)
                mine = f"task_id={task_id}" in said
                other = level != "INFO" and "task_id=" not in said and said != last and begin <= at <= end
                if mine or other:
                    yield at, f"   {member.name} {level} {said[:200]}"
                if not mine:
                    last = said


@cache
def _scripts() -> dict[bytes, str]:
    """Return the names of the broker's scripts by what they are called by on the wire."""
    client = Redis()
    return {script(client, name).sha.encode(): name for name in names()}


def _commands(piece: Piece) -> str:
    """Return the commands that a piece seems to have, by name."""
    if piece.way == "down":
        return ""
    found = []
    for match in _COMMAND.finditer(piece.said):
        name, sha = match.groups()
        found.append(_scripts().get(sha, "a script") if sha else name.decode())
    return ", ".join(found) or "more of a call"


def _only_events(said: bytes) -> bool:
    return {_scripts().get(sha) for _, sha in _COMMAND.findall(said)} == {"core/append_events"}


def outcome_of(runs: Sequence[tuple[FaultRun, Judge]]) -> tuple[bool, str]:
    """Return whether all of these runs are right, and their reports."""
    reports = []
    for run, judge in runs:
        report = judge.report()
        (run.directory / "report.txt").write_text(report)
        reports.append(report)
    return not any(run.failures for run, _ in runs), "\n\n".join(reports)
