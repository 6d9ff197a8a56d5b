"""What must hold after a run, checked on its history alone: pure functions, each of which tells what it found wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from chaos.history import Claim, Happened, History, Run, Sample
from chaos.plan import FAILOVERS

# Seconds that a run may take to come to its next await, on a busy machine.
STOPPED_WITHIN = 0.35
# Losses of a moment: by how much two clocks that we read one after another may differ.
CLOSE = 0.15
# After how many runs that ended without an outcome a task may fail, at the earliest, and by which error.
GIVEN_UP_AFTER, GIVEN_UP = 4, frozenset({"WorkerLostError", "ExecutorDiedError"})
# Seconds of a run behind whose first quarter growth can be told from warming up.
LONG_ENOUGH = 600
# By how much what is taken may differ, beside a tenth.
MAY_DIFFER = {"workers": 8_000_000, "children": 8_000_000, "descriptors": 20, "connections": 10, "consumers": 2}
# Faults that cost no run.
GENTLE = frozenset({"end worker", "end deaf worker", "reset", "kill clients", "delay"})
# These cost none either, where a lease lasts for longer than several of them.
GENTLE_TO_LONG_LEASES = GENTLE | {"drop", "half-open"}
LONG_LEASE = 30
FINAL = {"completed": "completed", "failed": "error", "cancelled": "cancelled"}


@dataclass(frozen=True)
class Finding:
    """Something that does not hold.

    Attributes:
        check: What should.
        subject: The task, worker or key.
        text: What was found.
    """

    check: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.check}: {self.subject}: {self.text}"


@dataclass
class Verdict:
    """What is said of a run.

    Attributes:
        counts: How many there were of each: tasks, ends, runs, doubles and so on.
        recovery: By kind of fault, how many seconds each took until what it struck ran again.
        findings: What does not hold.
        topology: Where Redis was.
    """

    seed: int
    duration: float
    counts: dict[str, int]
    recovery: dict[str, list[float]]
    findings: list[Finding] = field(default_factory=list)
    topology: str = "single"


def judge(history: History) -> Verdict:
    """Check all of it."""
    found = [finding for check in CHECKS for finding in check(history)]
    excused = failed_over(history)
    findings = [finding for finding in found if finding.check not in OF_REPLICATION or finding.subject not in excused]
    numbers = counts(history) | {"not replicated": len({f.subject for f in found} - {f.subject for f in findings})}
    return Verdict(history.seed, history.duration, numbers, recovery(history), findings, history.topology)


# A failover can lose the last writes about a task: its record, its claim, its end.
OF_REPLICATION = frozenset(
    [
        "lost",
        "counted",
        "an end changed",
        "gaps",
        "final event",
        "recorded has run",
        "doubled under live leases",
        "entry lost",
        "subscriber",
    ]
)
# Seconds before a failover within which a write may not have reached the replica; and until its writer knows.
NOT_REPLICATED, NOT_KNOWN = 1.0, 2.0


def failed_over(history: History) -> set[str]:
    """Return the tasks that were submitted or ran beside a failover: replication is asynchronous."""
    times = [(fault.at, fault.until) for fault in history.faults if fault.kind in FAILOVERS]
    spans = [(at - NOT_REPLICATED, until + NOT_KNOWN) for at, until in times]
    found = {
        task
        for task, known in history.submitted.items()
        if any(began <= (known.accepted or known.began) and known.began <= over for began, over in spans)
    }
    return found | {run.task for run in history.runs if any(a <= run.until and run.began <= b for a, b in spans)}


# -- tasks -----------------------------------------------------------------------------------------------------------


def _accepted(history: History) -> Iterator[str]:
    return (task for task, known in history.submitted.items() if known.accepted is not None)


def lost(history: History) -> Iterator[Finding]:
    """An accepted task has a record; one that has not ended is held by its queue."""
    for task in _accepted(history):
        record = history.records.get(task)
        if record is None:
            yield Finding("lost", task, "it has no record")
        elif not record.ended and not record.held:
            yield Finding("lost", task, f"it is {record.status}, and the queue does not hold it")


def stuck(history: History) -> Iterator[Finding]:
    """An accepted task has ended once all is well again."""
    for task in _accepted(history):
        record = history.records.get(task)
        if record is not None and not record.ended and record.held:
            yield Finding("stuck", task, f"it is {record.status}")


def ends_as_it_must(history: History) -> Iterator[Finding]:
    """A task ends as its kind says, and an end never changes."""
    for task, record in history.records.items():
        known = history.submitted[task]
        if record.first_end and record.first_end != record.status:
            yield Finding("an end changed", task, f"it was {record.first_end}, then {record.status}")
        if record.ended and record.status not in known.ends and not given_up(history, task):
            what = f"{record.status} ({record.error_type}: {record.error})"
            check = "ends as it must" if known.guilty else "innocent failed"
            if record.error_type == "EntryLostError":
                # Its record was on another master of a cluster, which kept it: it says what was lost.
                check = "entry lost"
            yield Finding(check, task, f"{known.kind}: {what}")


def given_up(history: History, task: str) -> bool:
    """Tell whether a task failed as it may, as a fault of ours ended each of its runs (docs/reliability-limits.md)."""
    record = history.records[task]
    if record.losses < GIVEN_UP_AFTER or record.error_type not in GIVEN_UP or history.submitted[task].guilty:
        return False
    runs = [run for run in history.runs if run.task == task]
    return len(runs) >= GIVEN_UP_AFTER and all(
        any(
            fault.kind not in GENTLE
            and not fault.text.startswith("not done")
            and fault.worker in {"", run.worker}
            and run.began - CLOSE <= fault.until
            and fault.at <= run.until + STOPPED_WITHIN
            for fault in history.faults
        )
        for run in runs
    )


def charged(history: History) -> Iterator[Finding]:
    """No task is charged with a crash that has not done any harm, but for those that were killed while they ran alone.

    The first loss is beside others, and never charged; a later one may be (docs/protocol-losses.md).
    """
    for task, record in history.records.items():
        # What Temporal has knows crashes only, one for each worker that was lost.
        durable = history.topology == "temporal"
        if not durable and record.crashes and record.crashes >= record.losses and not history.submitted[task].guilty:
            text = f"{record.crashes} crashes, {record.losses} losses ({record.error})"
            yield Finding("innocent charged", task, text)


def counted(history: History) -> Iterator[Finding]:
    """Every run is counted, and an attempt number is of one run alone."""
    runs = _runs(history)
    for task, record in history.records.items():
        of_task = runs.get(task, [])
        lost_runs = record.losses + (record.crashes if history.topology == "temporal" else 0)
        budget = 1 + record.retries + lost_runs + record.handoffs
        shown = f"1 + {record.retries} retries + {lost_runs} losses + {record.handoffs} hand-offs"
        if len(of_task) > budget or record.attempt > budget:
            yield Finding("counted", task, f"{len(of_task)} runs, attempt {record.attempt}, but {shown}")
        if of_task and max(run.attempt for run in of_task) > record.attempt:
            yield Finding("counted", task, f"a later attempt ran than the record's {record.attempt}")
        for attempt, number in Counter(run.attempt for run in of_task).items():
            if number > 1:
                yield Finding("counted", task, f"attempt {attempt} ran {number} times")


def losses_have_a_cause(history: History) -> Iterator[Finding]:
    """Where nothing was killed, frozen or cut off for long, no run is lost."""
    gentle = GENTLE_TO_LONG_LEASES if history.lease >= LONG_LEASE else GENTLE
    if not gentle.issuperset(happened.kind for happened in history.faults):
        return
    if any(known.guilty for known in history.submitted.values()):
        return
    for task, record in history.records.items():
        if record.losses:
            yield Finding("a loss without a cause", task, f"{record.losses} losses ({record.status})")


def has_run(history: History) -> Iterator[Finding]:
    """What is recorded as completed has come to its end, in that attempt and on that worker."""
    runs = _runs(history)
    for task, record in history.records.items():
        if record.status != "completed":
            continue
        place = record.attempt, record.worker
        if place not in [(run.attempt, run.worker) for run in runs.get(task, []) if run.how == "ends"]:
            yield Finding("recorded has run", task, f"no run {place} came to its end")
        if record.said_by and tuple(record.said_by) != place:
            yield Finding("recorded has run", task, f"the result is of {record.said_by}, the record of {place}")


def early(history: History) -> Iterator[Finding]:
    """No task runs before its time."""
    for run in history.runs:
        if run.began < history.submitted[run.task].not_before - CLOSE:
            ahead = history.submitted[run.task].not_before - run.began
            yield Finding("early", run.task, f"attempt {run.attempt} began {ahead:.2f} s before its time")


# -- two at a time -----------------------------------------------------------------------------------------------------


def doubles(history: History) -> Iterator[tuple[Run, Run, bool]]:
    """Yield runs of one task that were under way at a time, and whether the lease of the first was live then."""
    for task, runs in _runs(history).items():
        for before, after in pairwise(runs):
            if before.until - after.began > STOPPED_WITHIN:
                yield before, after, _leased_until(history, task, before) > after.began + CLOSE


def _leased_until(history: History, task: str, run: Run) -> float:
    """Return until when a run had its lease: by the last renewal that was seen, or else by its beginning."""
    mine: Claim | None = None
    for claim in history.claims.get(task, []):
        if claim.worker == run.worker and claim.first <= run.began + CLOSE:
            mine = claim
    return (run.began if mine is None else mine.renewed) + history.lease


def doubled(history: History) -> Iterator[Finding]:
    """No task runs under two live leases."""
    for before, after, live in doubles(history):
        if live:
            both = f"attempt {before.attempt} on {before.worker} and {after.attempt} on {after.worker}"
            yield Finding(
                "doubled under live leases",
                before.task,
                f"{both}, for {min(before.until, after.until) - after.began:.2f} s",
            )


# -- events and readers ------------------------------------------------------------------------------------------------


def final_events(history: History) -> Iterator[Finding]:
    """The events of a task that has ended end with the one final event that fits."""
    for task, record in history.records.items():
        if not record.ended:
            continue
        events = history.events.get(task, [])
        finals = [place for place, event in enumerate(events) if event.final]
        if finals != [len(events) - 1]:
            yield Finding("final event", task, f"of {len(events)} events these are final: {finals}")
        elif events[-1].status != FINAL[record.status]:
            yield Finding("final event", task, f"{record.status}, but it says {events[-1].status}")


def gaps(history: History) -> Iterator[Finding]:
    """Attempts are in order, and the numbers of each are without a gap."""
    for task, events in history.events.items():
        attempts = [event.attempt for event in events]
        if attempts != sorted(attempts):
            yield Finding("gaps", task, f"attempts out of order: {attempts}")
        numbers = defaultdict(list)
        for event in events:
            numbers[event.attempt].append(event.seq)
        for attempt, found in numbers.items():
            if found != list(range(1, len(found) + 1)):
                yield Finding("gaps", task, f"attempt {attempt} has the numbers {found}")


def readers_end(history: History) -> Iterator[Finding]:
    """Everybody who reads a task's events comes to the final one."""
    for reader in history.readers:
        if reader.how != "final":
            yield Finding("hung subscriber" if reader.ended is None else "subscriber", reader.task, reader.how)


# -- the fleet ---------------------------------------------------------------------------------------------------------


def nothing_left(history: History) -> Iterator[Finding]:
    """The queue is empty in the end, and no key stays for ever that is not to."""
    if history.healed is None:
        yield Finding("leftovers", "queue", "it was not empty, or a task had not ended, when nobody waited any longer")
    for text in history.leftovers:
        yield Finding("leftovers", "queue", text)


def exits_when_asked(history: History) -> Iterator[Finding]:
    """A worker exits when it is told to, and with 0 where it was asked."""
    allowed = {"SIGTERM": {0, -15}, "SIGKILL": {-9}}
    for left in history.exits:
        if left.code not in {code for name in left.asked for code in allowed.get(name, ())}:
            asked = ", ".join(left.asked) or "nobody"
            yield Finding(
                "exits", left.worker, f"code {left.code} at {left.at - history.began:.1f} s, asked by {asked}"
            )


def nothing_grows(history: History) -> Iterator[Finding]:
    """What the fleet takes stays what it is, in a run that is long enough to tell."""
    samples = [sample for sample in history.samples if history.began <= sample.at <= history.over]
    if not samples or samples[-1].at - samples[0].at < LONG_ENOUGH:
        return
    quarter = len(samples) // 4
    early_on, late = samples[quarter : 2 * quarter], samples[-quarter:]
    for name, slack in MAY_DIFFER.items():
        before, after = (median(_taken(sample, name) for sample in part) for part in (early_on, late))
        if after > before * 1.1 + slack:
            yield Finding("growth", name, f"from {before:.0f} to {after:.0f}")


def _taken(sample: Sample, name: str) -> float:
    """Return how much of something there was; of memory, that of the middle one of the processes."""
    taken = getattr(sample, name)
    return median(taken or [0]) if isinstance(taken, list) else float(taken)


CHECKS: Sequence[Callable[[History], Iterator[Finding]]] = (
    lost,
    stuck,
    ends_as_it_must,
    charged,
    counted,
    losses_have_a_cause,
    has_run,
    early,
    doubled,
    final_events,
    gaps,
    readers_end,
    nothing_left,
    exits_when_asked,
    nothing_grows,
)


# -- figures ---------------------------------------------------------------------------------------------------------


def counts(history: History) -> dict[str, int]:
    """Count what there was."""
    ends = Counter(record.status for record in history.records.values())
    found = [live for _, _, live in doubles(history)]
    records = history.records.values()
    return {
        "submitted": len(history.submitted),
        "accepted": sum(1 for _ in _accepted(history)),
        "completed": ends["completed"],
        "failed": ends["failed"],
        "cancelled": ends["cancelled"],
        "lost": sum(1 for _ in lost(history)),
        "stuck": sum(1 for _ in stuck(history)),
        "doubled under live leases": sum(found),
        "doubled after expiry": len(found) - sum(found),
        "given up after faults": sum(given_up(history, task) for task in history.records),
        "innocents charged": sum(1 for _ in charged(history)),
        "hung subscribers": sum(reader.ended is None for reader in history.readers),
        "subscribers": len(history.readers),
        "runs": len(history.runs),
        "retries": sum(record.retries for record in records),
        "losses": sum(record.losses for record in records),
        "hand-offs": sum(record.handoffs for record in records),
        "faults": sum(not happened.text.startswith("not done") for happened in history.faults),
        "worker exits": len(history.exits),
    }


def recovery(history: History) -> dict[str, list[float]]:
    """Return, by kind of fault, after how many seconds what it struck ran again.

    Of a fault of one worker: until each task runs again whose run it ended. Of Redis or its connections: from the end
    of the fault to the next beginning of any run.
    """
    found: dict[str, list[float]] = defaultdict(list)
    runs = _runs(history)
    for fault in history.faults:
        if fault.text.startswith("not done"):
            continue
        if fault.kind in {"kill worker", "kill executor"}:
            found[fault.kind] += _run_again(fault, runs)
        else:
            began = [run.began for run in history.runs if run.began >= fault.until]
            waiting = [
                known.began for known in history.submitted.values() if fault.at - 1 <= known.began <= fault.until + 1
            ]
            if began and waiting:
                found[fault.kind].append(min(began) - fault.until)
    return {kind: [round(seconds, 3) for seconds in times] for kind, times in found.items()}


def _run_again(fault: Happened, runs: dict[str, list[Run]]) -> Iterator[float]:
    for of_task in runs.values():
        for before, after in pairwise(of_task):
            struck = before.worker == fault.worker and before.how == "no end" and before.began < fault.at
            if struck and before.until < fault.at + 0.5 and after.began > fault.at:
                yield after.began - fault.at


def summary(times: Sequence[float]) -> tuple[float, float]:
    """Return median and longest."""
    return median(times), max(times)


def _runs(history: History) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(history.runs, key=lambda run: run.began):
        found[run.task].append(run)
    return found
