"""What came out: medians, as a table for people and as JSON for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of one round.

    Attributes:
        name: What was measured.
        unit: Of both numbers.
        ours: The worker's or the client's.
        floor: That of bare redis-py, where there is such a thing.
        wanted: What the ratio to the floor, or our number where there is no floor, has to be.
    """

    name: str
    unit: str
    ours: float
    floor: float | None = None
    wanted: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """The medians of one measure over all rounds."""

    name: str
    unit: str
    ours: float
    floor: float | None
    ratio: float | None
    wanted: str
    rounds: dict[str, list[float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the row for JSON."""
        return asdict(self)


def summarise(rounds: list[list[Measure]]) -> list[Row]:
    """Return the medians of rounds that measured the same things in the same order."""
    return [_row(list(measures)) for measures in zip(*rounds, strict=True)]


def _row(measures: list[Measure]) -> Row:
    first = measures[0]
    ours = [measure.ours for measure in measures]
    floors = [measure.floor for measure in measures if measure.floor is not None]
    middle, floor = median(ours), median(floors) if floors else None
    ratio = middle / floor if floor else None
    return Row(first.name, first.unit, middle, floor, ratio, first.wanted, {"ours": ours, "floor": floors})


def table(rows: list[Row]) -> str:
    """Return the rows as a table in Markdown, aligned for reading as it is."""
    cells = [("measure", "unit", "ours", "floor", "ours / floor", "wanted")]
    for row in rows:
        floor, ratio = _number(row.floor), "" if row.ratio is None else f"{row.ratio:.2f}"
        cells.append((row.name, row.unit, _number(row.ours), floor, ratio, row.wanted))
    widths = [max(len(line[at]) for line in cells) for at in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 100 else f"{value:.3g}"
