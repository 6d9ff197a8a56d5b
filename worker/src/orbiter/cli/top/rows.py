"""Rows: what the screen shows of workers, queue and tasks. Texts of others are inert here, and never markup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from rich.text import Text

from orbiter.cli.render import STATUS_STYLES, format_ago, format_bytes, format_seconds
from orbiter.cli.worker import known, state_text
from orbiter.distributed.inert import inert

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orbiter.cli.top.looks import Look
    from orbiter.distributed.client.overview import Period, WorkerHealth
    from orbiter.distributed.models import TaskResult

T = TypeVar("T")

# Blank cells on either side of a value.
PADDING = 1
# Characters of a text that are looked at: an input may be a megabyte, of which some words are shown.
_LOOKED_AT = 400
_MINUTE = 60


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A column of a table.

    Attributes:
        title: What stands above it.
        cell: Returns what it shows of something in a look.
        width: Cells that it has at least.
        most: Cells that it has where it fits.
        rank: The higher, the sooner it is left out where there is none; 0 for never.
    """

    title: str
    cell: Callable[[T, Look], str | Text]
    width: int
    most: int
    rank: int = 0


def _asked(task: TaskResult, look: Look) -> str:
    return task.error_type or look.inputs.get(task.task_id) or "-"


FLEET: tuple[Column[WorkerHealth], ...] = (
    Column("Host", lambda worker, _: worker.hostname or "-", 10, 24),
    Column("Worker", lambda worker, _: worker.worker_id, 18, 44),
    Column("State", lambda worker, _: state_text(worker, with_problem=False), 8, 10),
    Column("Slots", lambda worker, _: known(worker, f"{worker.active}/{worker.concurrency}"), 7, 9),
    Column("Memory", lambda worker, _: format_bytes(worker.rss_bytes) if worker.rss_bytes else "-", 8, 9),
    Column("Release", lambda worker, _: worker.version or "-", 7, 14),
    Column("Beat", lambda worker, look: format_ago(worker.last_heartbeat, look.now), 7, 8),
    Column("Done", lambda worker, _: known(worker, worker.tasks_processed), 6, 10, 1),
    Column("Failed", lambda worker, _: known(worker, worker.tasks_failed), 6, 10, 2),
    Column("Problem", lambda worker, _: worker.problem or "-", 12, 60, 3),
)
TASKS: tuple[Column[TaskResult], ...] = (
    Column("Task", lambda task, _: task.task_id, 10, 32),
    Column("Status", lambda task, _: Text(task.status, style=STATUS_STYLES[task.status]), 10, 10),
    Column("Agent", lambda task, _: task.agent_name or "-", 12, 24),
    Column("Age", lambda task, look: format_ago(task.created_at, look.now), 8, 8),
    Column("Input, or error", _asked, 20, 80),
    Column("Runs", lambda task, _: str(task.attempt), 4, 5, 1),
    Column("Worker", lambda task, _: task.worker_id or "-", 18, 44, 2),
)


def layout(columns: Sequence[Column[T]], width: int) -> list[tuple[Column[T], int]]:
    """Return the columns for which so many cells are enough, each with its width; what is left goes to the narrowest.

    At least those of rank 0 are there, whatever the width.
    """
    chosen = list(columns)
    while _left_over(chosen, width) < 0 and any(column.rank for column in chosen):
        chosen.remove(max(chosen, key=lambda column: column.rank))
    widths = [column.width for column in chosen]
    for _ in range(max(0, _left_over(chosen, width))):
        growing = [at for at, column in enumerate(chosen) if widths[at] < column.most]
        if not growing:
            break
        widths[min(growing, key=lambda at: widths[at] / chosen[at].most)] += 1
    return list(zip(chosen, widths, strict=True))


def _left_over(columns: Sequence[Column[T]], width: int) -> int:
    return width - sum(column.width + 2 * PADDING for column in columns)


def fitted(value: str | Text, width: int) -> Text:
    """Return a value on one line of so many cells, inert; a longer one ends in an ellipsis."""
    text = value if isinstance(value, Text) else Text(plain(value))
    text = Text(inert(text.plain), style=text.style, no_wrap=True)
    text.truncate(width, overflow="ellipsis")
    return text


def plain(text: str) -> str:
    """Return the beginning of a text of somebody else's: one line without anything but characters that print."""
    return inert(" ".join(text[:_LOOKED_AT].split()))


def queue_lines(look: Look) -> list[str]:
    """Return the lines about the queue."""
    info, minutes = look.info, look.minutes
    oldest = "" if info.oldest_waiting is None else f" (oldest {format_seconds(info.oldest_waiting)})"
    memory = "-" if info.memory_used is None else format_bytes(info.memory_used)
    limit = f" of {format_bytes(info.memory_max)}" if info.memory_max else ""
    return [
        f"waiting {info.waiting}{oldest}  running {info.running}  delayed {info.delayed}  dead {info.dead}",
        f"workers {info.workers}  slots {info.busy} of {info.slots} busy  Redis' memory {memory}{limit}",
        # The minute of now is not over: its counts say nothing of a rate.
        _rates("last minute", minutes[-2]) if len(minutes) > 1 else "",
        _rates("last hour  ", look.hour),
    ]


def _rates(name: str, period: Period) -> str:
    waits = [(share, period.wait(share / 100)) for share in (50, 95)]
    waits_text = "".join(f"  p{share} {format_seconds(wait)}" for share, wait in waits if wait is not None)
    line = f"{name}  started {period.started}  ended {period.ended}  failed {period.failed}"
    return f"{line}  waited{waits_text}" if waits_text else line


def fleet_title(look: Look) -> str:
    """Return what stands above the workers."""
    alive = [worker for worker in look.workers if worker.alive]
    hosts = len({worker.hostname for worker in alive})
    more = f", {look.more} more not shown" if look.more else ""
    return f"Fleet: workers {len(alive)}, hosts {hosts}, dead {len(look.workers) - len(alive)}{more}"


def tasks_title(look: Look, status: str) -> str:
    """Return what stands above the tasks."""
    page = look.page
    among = f" among the newest {page.looked_at}" if status else ""
    return f"Tasks: {status or 'all'}, {'the newest ' if page.after and not status else ''}{len(page.tasks)}{among}"
