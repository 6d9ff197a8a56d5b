"""Charts: what a queue's counts look like as shapes, in parts of a hundred of the place that the page gives them.

Nothing here is text of a task. Shapes are SVG's, as the page's policy allows no style of an element's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from orbiter.dashboard.view import rate, span
from orbiter.distributed.client.overview import together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orbiter.distributed.client.overview import Deploy, Period

# Minutes that a page shows, by the name of that, and how many each column has.
SPANS = {"hour": (60, 1), "day": (1440, 15)}
# What the top of an axis may be: these times a power of ten; of seconds, these.
_STEPS = (1, 2, 4, 10)
_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 4, 10, 20, 40, 60, 120, 240, 600, 1200, 2400, 3600, 7200)


@dataclass(frozen=True, slots=True)
class Shape:
    """One series of a chart.

    Attributes:
        name: What it shows.
        look: How it looks: a class of the style sheet.
        path: Its path in a square of 100 by 100, whose upper edge is the axis' top.
    """

    name: str
    look: str
    path: str


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a chart: what is said of it where somebody points at it.

    Attributes:
        x: Its left edge.
        width: Its width.
        text: What it says.
    """

    x: float
    width: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart.

    Attributes:
        id: Its name on the page.
        title: Its title.
        summary: What it shows in words.
        axis: What stands beside the axis: at its top, in its middle, at its foot.
        shapes: Its series, the first one at the back.
        columns: Its columns.
    """

    id: str
    title: str
    summary: str
    axis: tuple[str, str, str]
    shapes: tuple[Shape, ...]
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A deploy in all charts.

    Attributes:
        x: Where it began.
        width: How long it took.
        number: By which it is found in the list.
        text: Which one it was, and what became of it.
        bad: Whether it failed.
    """

    x: float
    width: float
    number: int
    text: str
    bad: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One period of the table of numbers; rates are tasks a minute, waits seconds."""

    at: int
    known: bool
    started: float
    ended: float
    failed: float
    usual: float | None
    longest: float | None
    depth: int


@dataclass(frozen=True, slots=True)
class Charts:
    """The charts of a queue.

    Attributes:
        charts: Each of them.
        marks: Deploys in them.
        rows: Their numbers, the newest first.
        ticks: What stands below their time axis, from left to right.
        known: Whether workers counted anything at all in that time.
    """

    charts: tuple[Chart, ...]
    marks: tuple[Mark, ...]
    rows: tuple[Row, ...]
    ticks: tuple[str, ...]
    known: bool


def draw(minutes: Sequence[Period], deploys: Sequence[Deploy], *, name: str, now: float) -> Charts:
    """Return the charts of a queue.

    Args:
        minutes: What was counted, that of now last.
        deploys: Deploys, the newest first.
        name: Of :data:`SPANS`.
        now: Redis' clock, epoch seconds.
    """
    width = SPANS[name][1]
    periods = together(minutes, width)
    rows = [_row(period, width, now) for period in periods]
    return Charts(
        charts=(_tasks(rows, minutes, now), _waits(rows, minutes, now), _depth(rows, now)),
        marks=tuple(_marks(deploys, periods[0].at, periods[-1].at + 60 * width)),
        rows=tuple(reversed(rows)),
        ticks=("1 h ago", "30 min ago", "now") if name == "hour" else ("24 h ago", "12 h ago", "now"),
        known=any(row.known for row in rows),
    )


def _row(period: Period, width: int, now: float) -> Row:
    # Of the last one some minutes are to come.
    passed = min(width, max(1.0, (now - period.at) / 60)) if width > 1 else 1
    return Row(
        at=period.at,
        known=period.minutes > 0,
        started=period.started / passed,
        ended=period.ended / passed,
        failed=period.failed / passed,
        usual=period.wait(0.5),
        longest=period.wait(0.95),
        depth=period.depth,
    )


def _tasks(rows: Sequence[Row], minutes: Sequence[Period], now: float) -> Chart:
    top = _top(max(max(row.started, row.ended) for row in rows))
    started, ended, failed = (sum(getattr(one, name) for one in minutes) for name in ("started", "ended", "failed"))
    well = [row.ended - row.failed for row in rows]
    return Chart(
        id="tasks",
        title="Tasks a minute",
        summary=f"{_text(started)} started, {_text(ended)} ended, {_text(failed)} of these failed",
        axis=_axis(top, rate),
        shapes=(
            Shape("completed or cancelled", "bars", _bars(well, [0.0] * len(rows), top)),
            Shape("failed", "bars-bad", _bars([row.failed for row in rows], well, top)),
            Shape("started", "steps", _steps([row.started if row.known else None for row in rows], top)),
        ),
        columns=_columns(
            rows, now, lambda row: f"{_text(row.started)} started, {_text(row.ended)} ended, {_text(row.failed)} failed"
        ),
    )


def _waits(rows: Sequence[Row], minutes: Sequence[Period], now: float) -> Chart:
    highest = max((row.longest or 0 for row in rows), default=0)
    top = next((step for step in _SECONDS if step >= highest), _SECONDS[-1])
    whole = together(minutes, 10**9)[0]
    half, most = whole.wait(0.5), whole.wait(0.95)
    return Chart(
        id="waits",
        title="Wait until a task starts",
        summary="no task started" if half is None else f"half of the tasks up to {span(half)}, 95 % up to {span(most)}",
        axis=_axis(top, span),
        shapes=(
            Shape("95 %", "line-faint", _steps([row.longest for row in rows], top)),
            Shape("half", "line", _steps([row.usual for row in rows], top)),
        ),
        columns=_columns(
            rows,
            now,
            lambda row: (
                "none started" if row.usual is None else f"half up to {span(row.usual)}, 95 % up to {span(row.longest)}"
            ),
        ),
    )


def _depth(rows: Sequence[Row], now: float) -> Chart:
    top = _top(max(row.depth for row in rows))
    last = next((row.depth for row in reversed(rows) if row.known), 0)
    return Chart(
        id="depth",
        title="Tasks that wait",
        summary=f"{_text(max(row.depth for row in rows))} at most, {_text(last)} lately",
        axis=_axis(top, rate),
        shapes=(
            Shape("most in a column", "area", _bars([float(row.depth) for row in rows], [0.0] * len(rows), top, gap=0)),
        ),
        columns=_columns(rows, now, lambda row: f"{_text(row.depth)} waited"),
    )


def _columns(rows: Sequence[Row], now: float, describe: Callable[[Row], str]) -> tuple[Column, ...]:
    width = 100 / len(rows)
    return tuple(
        Column(width * at, width, f"{_before(row.at, now)}: {describe(row) if row.known else 'no worker was there'}")
        for at, row in enumerate(rows)
    )


def _before(at: int, now: float) -> str:
    # In whole minutes: a page that nothing else changes stays the same for one.
    minutes = int(now // 60) - at // 60
    return "now" if minutes <= 0 else f"{minutes} min ago" if minutes < 120 else f"{minutes / 60:.0f} h ago"


def _marks(deploys: Iterable[Deploy], since: float, until: float) -> Iterable[Mark]:
    def x(at: float) -> float:
        return 100 * (min(max(at, since), until) - since) / (until - since)

    for number, deploy in enumerate(deploys, 1):
        times = [at for at in (deploy.began, deploy.ended) if at is not None]
        if times and times[-1] >= since and times[0] <= until:
            text = f"{deploy.what} by {deploy.who}: {deploy.outcome or 'began'}"
            yield Mark(x(times[0]), x(times[-1]) - x(times[0]), number, text, bad=deploy.outcome == "failed")


def _top(highest: float) -> float:
    power = 1
    while True:
        for step in _STEPS:
            if step * power >= highest:
                return max(4, step * power)
        power *= 10


def _axis(top: float, text: Callable[[float], str]) -> tuple[str, str, str]:
    return text(top), text(top / 2), "0"


def _text(number: float) -> str:
    # Within a text no space may look like another character.
    return rate(number).replace("\u202f", " ")


def _y(value: float, top: float) -> float:
    return 100 - 100 * min(1.0, value / top)


def _bars(values: Sequence[float], below: Sequence[float], top: float, *, gap: float = 0.2) -> str:
    """Return a bar for each value above another one."""
    width = 100 / len(values)
    return "".join(
        f"M{width * (at + gap / 2):.2f} {_y(base, top):.2f}V{_y(base + value, top):.2f}"
        f"h{width * (1 - gap):.2f}V{_y(base, top):.2f}z"
        for at, (value, base) in enumerate(zip(values, below, strict=True))
        if value > 0
    )


def _steps(values: Sequence[float | None], top: float) -> str:
    """Return a line that holds each value for the width of its column, with gaps where there is none."""
    width, parts = 100 / len(values), []
    for known, group in groupby(enumerate(values), lambda row: row[1] is not None):
        if known:
            run = list(group)
            parts.append(f"M{width * run[0][0]:.2f} {_y(run[0][1] or 0, top):.2f}")
            parts += [f"V{_y(value or 0, top):.2f}H{width * (at + 1):.2f}" for at, value in run]
    return "".join(parts)
