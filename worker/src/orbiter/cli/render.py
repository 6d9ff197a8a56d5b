"""What the commands print: times, durations, tables, tasks and events, with colours on a terminal only."""

from __future__ import annotations

import json
import math
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.box import SQUARE
from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from orbiter.cli.output import print_raw
from orbiter.distributed.errors import TEXT_CAP
from orbiter.distributed.inert import inert
from orbiter.distributed.models import TaskResult, TaskStatus
from orbiter.distributed.plain_json import whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import ConsoleOptions, RenderableType

STATUS_STYLES = {
    TaskStatus.PENDING: "yellow",
    TaskStatus.RUNNING: "blue",
    TaskStatus.COMPLETED: "green",
    TaskStatus.FAILED: "red",
    TaskStatus.CANCELLED: "dim",
    TaskStatus.RETRYING: "magenta",
    TaskStatus.UNREADABLE: "red",
}
# A pipe has no width: nothing may be cut or folded there.
_PIPE_WIDTH = 100_000
_RESULT_LIMIT = 200
_UNITS = ((86_400, "d"), (3600, "h"), (60, "m"))
# The longest name there may be is 200 characters; what Redis holds may be any length.
CELL_LIMIT = 1000
_LINE_LIMIT = TEXT_CAP


class _Console(Console):
    """Shows nothing that is not inert, whatever it is given to draw."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return what is drawn, in pieces."""
        for piece in super().render(renderable, options):
            text = piece.text
            if piece.control or text.isprintable() or text == "\n":
                yield piece
            else:
                yield Segment(inert(text, keep="\n\t"), piece.style)

    def on_broken_pipe(self) -> None:
        """Leave it to the command, as rich's own way of leaving is exit code 1."""
        raise  # noqa: PLE0704 - rich calls it where it has caught the error


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is: no markup, no guessed highlights."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return _Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def format_time(seconds: float | None) -> str:
    """Return an epoch time as ``2026-02-17 10:30:15 UTC``, or ``-``."""
    if seconds is None:
        return "-"
    try:
        return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return "-"


def format_ago(seconds: float | None, now: float) -> str:
    """Return an epoch time as ``12s ago``, ``5m ago``, ``3h ago``, ``2d ago``, or ``-``; one to come as ``in 5m``."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    away = abs(now - seconds)
    count, unit = next(((away / size, unit) for size, unit in _UNITS if away >= size), (away, "s"))
    return f"{int(count)}{unit} ago" if seconds <= now else f"in {int(count)}{unit}"


def format_seconds(seconds: float) -> str:
    """Return a duration as ``250ms``, ``12.3s`` or ``4.5m``."""
    seconds = max(0.0, seconds)
    if round(seconds * 1000) < 1000:
        return f"{seconds * 1000:.0f}ms"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f}s"
    return f"{seconds / 60:.1f}m"


def format_bytes(count: float) -> str:
    """Return a size as ``12 B``, ``1.5 MB`` or ``2.0 GB``."""
    for unit in ("B", "KB", "MB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GB"


def format_duration(task: TaskResult) -> str:
    """Return how long the last run took, ``running...`` while it has not ended, or ``-``."""
    if task.started_at is None:
        return "-"
    if task.status is TaskStatus.RUNNING or (task.completed_at is None and task.status.terminal is False):
        return "running..." if task.status is TaskStatus.RUNNING else "-"
    return "-" if task.duration is None else format_seconds(task.duration)


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a value as JSON in ASCII, which every reader takes: a number that is none is ``null``."""
    try:
        text = json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        text = json.dumps(_without_nan(value), indent=indent)
    print_raw(whole(text))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def status_text(task: TaskResult) -> Text:
    """Return a task's status in its colour, and what of its record cannot be read."""
    return Text(status_word(task.status, task.unreadable), style=STATUS_STYLES[task.status])


def status_word(status: str, unreadable: str | None) -> str:
    """Return a status with what cannot be read of where it stands: ``running, unreadable: retries: ...``."""
    words = status if status == "unreadable" or not unreadable else f"{status}, unreadable"
    return inert(f"{words}: {unreadable}" if unreadable else words, limit=CELL_LIMIT)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return a table; on a narrow terminal long values fold and are never cut."""
    drawn = Table(title=title, box=SQUARE)
    for column in columns:
        drawn.add_column(column, overflow="fold", min_width=max(len(word) for word in column.split()))
    for row in rows:
        drawn.add_row(*(cell if isinstance(cell, Text) else Text(inert(cell, limit=CELL_LIMIT)) for cell in row))
    return drawn


def page(title: str, lines: Iterable[tuple[str, str | Text]]) -> Text:
    """Return a title with labelled lines below it."""
    rows = [(inert(label, limit=CELL_LIMIT), value) for label, value in lines]
    width = max([9, *(len(label) for label, _ in rows)]) + 2
    parts = [Text(inert(title, limit=CELL_LIMIT), style="bold")]
    for label, value in rows:
        text = value if isinstance(value, Text) else Text(inert(value, limit=_LINE_LIMIT))
        parts.append(Text.assemble(f"  {label + ':':<{width}}", text))
    return Text("\n").join(parts)


def print_view(view: Table | Text) -> None:
    """Print a table or a page; a page's lines may be as long as they are."""
    console().print(view, soft_wrap=isinstance(view, Text))


def task_json(task: TaskResult) -> dict[str, Any]:
    """Return a task as a JSON object, with its duration and waiting time in seconds."""
    return task.model_dump(mode="json") | {"duration": task.duration, "wait_time": task.wait_time}


def print_task(task: TaskResult) -> None:
    """Print everything known of one task."""
    print_view(task_view(task))


def task_view(task: TaskResult, *, cancelling: bool = False) -> Text:
    """Return everything known of one task; ``cancelling`` where it runs and is to be cancelled."""
    status = status_text(task)
    lines: list[tuple[str, str | Text]] = [
        ("Status", status.append(" (cancel requested)") if cancelling else status),
        ("Worker", task.worker_id or "-"),
        ("Started", format_time(task.started_at)),
        ("Completed", format_time(task.completed_at)),
        ("Duration", format_duration(task)),
        ("Retries", str(task.retries)),
        ("Crashes", str(task.crashes)),
        ("Losses", str(task.losses)),
        ("Hand-offs", str(task.handoffs)),
        ("Attempt", str(task.attempt)),
    ]
    if task.last_loss:
        lines.append(("Last loss", task.last_loss))
    if task.next_attempt_at is not None and task.status is TaskStatus.RETRYING:
        lines.append(("Next run", format_time(task.next_attempt_at)))
    if task.agent_name:
        lines.append(("Agent", task.agent_name))
    if task.queue:
        lines.append(("Queue", task.queue))
    if task.error:
        lines.append(("Error", Text(inert(task.error, limit=_LINE_LIMIT), style="red")))
    if task.result is not None:
        result = json.dumps(task.result)
        lines.append(("Result", result if len(result) <= _RESULT_LIMIT else f"{result[:_RESULT_LIMIT]}..."))
    return page(f"Task {task.task_id}", lines)
