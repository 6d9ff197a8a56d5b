"""Waits for many tasks at once: shows how far they are, and sums them up."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import Counter, deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from orbiter.cli.output import print_line
from orbiter.cli.render import console, format_seconds
from orbiter.distributed.connection.patience import patiently
from orbiter.distributed.models import TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orbiter.distributed.broker.store import TaskStore
    from orbiter.distributed.models import TaskResult

_PAUSE = 0.2
_BATCH = 1000
_LINE_EVERY = 2.0
_FAILURES_SHOWN = 5


async def wait_for_tasks(
    store: TaskStore, task_ids: Sequence[str], show: Callable[[Counter[str]], None]
) -> list[TaskResult | None]:
    """Return every task's record once it has ended, in order; ``None`` for one whose record is gone.

    ``show`` is called after each look with the number of tasks by status.
    """
    records: dict[str, TaskResult | None] = {}
    seen = dict.fromkeys(task_ids, "pending")
    counts = Counter(seen.values())
    waiting = deque(seen)
    while waiting:
        # One batch a look, the longest unseen first: what a look costs does not grow with the number of tasks.
        batch = [waiting.popleft() for _ in range(min(_BATCH, len(waiting)))]
        records_now = await patiently(partial(store.get_many, batch))
        for task_id, record in zip(batch, records_now, strict=True):
            status = "missing" if record is None else record.status.value
            counts[seen[task_id]] -= 1
            counts[status] += 1
            seen[task_id] = status
            if record is None or record.status.lasting:
                records[task_id] = record
            else:
                waiting.append(task_id)
        show(counts)
        if waiting:
            await asyncio.sleep(_PAUSE)
    return [records[task_id] for task_id in task_ids]


@contextmanager
def progress(total: int) -> Iterator[Callable[[Counter[str]], None]]:
    """Give a function that shows counts: a bar on a terminal, else a line every two seconds. On stderr."""
    if not sys.stderr.isatty():
        yield _Lines(total)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bars:
        bar = bars.add_task("waiting", total=total)
        yield lambda counts: bars.update(bar, completed=_ended(counts), description=_words(counts))


class _Lines:
    def __init__(self, total: int) -> None:
        self._total = total
        self._next = time.monotonic() + _LINE_EVERY
        self._last = ""

    def __call__(self, counts: Counter[str]) -> None:
        ended = _ended(counts)
        line = f"{ended}/{self._total} ended, {_words(counts)}"
        now = time.monotonic()
        if line != self._last and (now >= self._next or ended == self._total):
            print_line(line, err=True)
            self._last = line
            self._next = now + _LINE_EVERY


def _ended(counts: Counter[str]) -> int:
    return sum(counts[name] for name in ("completed", "failed", "cancelled", "missing", "unreadable"))


def _words(counts: Counter[str]) -> str:
    names = ("completed", "failed", "cancelled", "missing", "unreadable", "running", "retrying", "pending")
    return ", ".join(f"{counts[name]} {name}" for name in names if counts[name])


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least ``share`` of all values do not exceed, or ``None`` of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def summarize(records: Sequence[TaskResult | None]) -> dict[str, Any]:
    """Return counts, rate and waiting times of tasks that have ended; times are seconds."""
    known = [record for record in records if record is not None]
    counts = Counter(record.status for record in known)
    begins = [record.created_at for record in known if record.created_at]
    ends = [record.completed_at for record in known if record.completed_at]
    seconds = max(ends) - min(begins) if begins and ends else None
    waits = [record.wait_time for record in known if record.wait_time is not None]
    return {
        "tasks": len(records),
        "completed": counts[TaskStatus.COMPLETED],
        "failed": counts[TaskStatus.FAILED],
        "cancelled": counts[TaskStatus.CANCELLED],
        "missing": len(records) - len(known),
        "unreadable": counts[TaskStatus.UNREADABLE],
        "retries": sum(record.retries for record in known),
        "crashes": sum(record.crashes for record in known),
        "losses": sum(record.losses for record in known),
        "handoffs": sum(record.handoffs for record in known),
        "seconds": seconds,
        "tasks_per_second": len(ends) / seconds if seconds and seconds > 0 else None,
        "wait_p50": percentile(waits, 0.50),
        "wait_p95": percentile(waits, 0.95),
    }


def print_summary(summary: dict[str, Any], records: Sequence[TaskResult | None]) -> None:
    """Print the summary, and the first failures with their errors."""
    ended = [f"{summary[name]} {name}" for name in ("completed", "failed")]
    ended += [f"{summary[name]} {name}" for name in ("cancelled", "missing", "unreadable") if summary[name]]
    took = "-" if summary["seconds"] is None else format_seconds(summary["seconds"])
    rate = "-" if summary["tasks_per_second"] is None else f"{summary['tasks_per_second']:.1f} tasks/s"
    waits = ["-" if summary[name] is None else format_seconds(summary[name]) for name in ("wait_p50", "wait_p95")]
    print_line(f"{summary['tasks']} tasks: {', '.join(ended)}")
    print_line(f"  Time:  {took} ({rate})")
    print_line(f"  Wait:  p50 {waits[0]}, p95 {waits[1]}")
    extra = [f"{summary[name]} {name}" for name in ("retries", "crashes", "losses")]
    print_line(f"  Extra: {', '.join(extra)}, {summary['handoffs']} hand-offs")
    failures = [record for record in records if record is not None and record.status is TaskStatus.FAILED]
    for record in failures[:_FAILURES_SHOWN]:
        print_line(f"  Task {record.task_id} failed: {record.error or 'unknown error'}")
    if len(failures) > _FAILURES_SHOWN:
        print_line(f"  ... and {len(failures) - _FAILURES_SHOWN} more: orbiter task list --status failed")
