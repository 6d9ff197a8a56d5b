"""Counters, gauges and histograms in memory: what every process keeps, whoever reads it.

Recording is a few dictionary operations under a lock, so it can stay switched on: OpenTelemetry and Prometheus read the
values when they want them (:mod:`orbiter.distributed.telemetry.otel`, :mod:`orbiter.distributed.telemetry.prometheus`).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass, field
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from orbiter.distributed.inert import inert

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Labels: TypeAlias = tuple[str, ...]
C = TypeVar("C")

# An agent's name comes with the task: whoever invents one for each must not fill the memory of workers and databases.
SERIES_LIMIT = 100
# A histogram has twenty samples for each series; all that a worker shows stays below 3 000 lines.
HISTOGRAM_SERIES_LIMIT = 50
OTHER = "(other)"
NAME_CAP = 100
SECONDS_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

_lock = Lock()


class Recorder(Protocol):
    """Takes a histogram's values as they come: OpenTelemetry's own histogram, where there is one."""

    def record(self, amount: float, attributes: dict[str, str]) -> None:
        """Take one value."""


class Instrument:
    """A measurement by name, with one value for each combination of attribute values, the queue's name first.

    Args:
        name: As in the guide.
        unit: UCUM: ``s``, ``{task}``.
        description: One line.
        attributes: Names of its attributes.
    """

    kind = ""

    def __init__(self, name: str, unit: str, description: str, attributes: Labels) -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self.attributes = attributes

    def named(self, labels: Labels) -> dict[str, str]:
        """Return attribute values by name; what is empty is not said."""
        return {name: value for name, value in zip(self.attributes, labels, strict=True) if value}


@dataclass(slots=True)
class Cell:
    """One value of a counter or gauge."""

    value: float = 0
    valid_until: float = inf

    def add(self, amount: float) -> None:
        """Count."""
        with _lock:
            self.value += amount


class Counter(Instrument):
    """Only goes up."""

    kind = "counter"

    def __init__(self, name: str, unit: str, description: str, attributes: Labels) -> None:
        super().__init__(name, unit, description, attributes)
        self._cells: dict[Labels, Cell] = {}

    def cell(self, *labels: str) -> Cell:
        """Return one value, for who counts often. It begins at 0, so that its first increase is seen as one."""
        with _lock:
            return _found(self._cells, labels, Cell, SERIES_LIMIT)

    def add(self, amount: float, *labels: str) -> None:
        """Count."""
        self.cell(*labels).add(amount)

    def values(self) -> dict[Labels, float]:
        """Return what counts."""
        now = time.monotonic()
        with _lock:
            return {labels: cell.value for labels, cell in self._cells.items() if cell.valid_until > now}

    def clear(self) -> None:
        """Forget everything."""
        with _lock:
            self._cells.clear()


class Gauge(Counter):
    """Goes up and down, by :meth:`add` or by :meth:`set`."""

    kind = "gauge"

    def set(self, value: float, *labels: str, valid: float = inf) -> None:
        """Take a reading, which counts for so many seconds: another process may take the next one."""
        cell = self.cell(*labels)
        with _lock:
            cell.value = value + 0  # OTLP does not take a bool for a number, and sends nothing then
            cell.valid_until = time.monotonic() + valid


# What is counted here is nobody's.
_NOWHERE = Cell()


@dataclass(slots=True)
class Distribution:
    """Values by size: how many lie between the bounds, and above the last; their sum and their number."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(SECONDS_BOUNDS) + 1))
    total: float = 0.0
    count: int = 0
    also: Callable[[float], None] | None = None

    def record(self, value: float, gauge: Cell = _NOWHERE, step: float = 0, counter: Cell = _NOWHERE) -> None:
        """Count one value; step a gauge and count up a counter with it, as each call and each lock is felt."""
        with _lock:
            self.buckets[bisect_left(SECONDS_BOUNDS, value)] += 1
            self.total += value
            self.count += 1
            gauge.value += step
            counter.value += 1
        if self.also is not None:
            self.also(value)

    def record_all(self, values: Sequence[float]) -> None:
        """Count several values at once."""
        with _lock:
            for value in values:
                self.buckets[bisect_left(SECONDS_BOUNDS, value)] += 1
            self.total += sum(values)
            self.count += len(values)
        if self.also is not None:
            for value in values:
                self.also(value)


class Histogram(Instrument):
    """Counts values by size, in seconds."""

    kind = "histogram"
    bounds = SECONDS_BOUNDS

    def __init__(self, name: str, unit: str, description: str, attributes: Labels) -> None:
        super().__init__(name, unit, description, attributes)
        self._cells: dict[Labels, Distribution] = {}
        self._also: Recorder | None = None

    def cell(self, *labels: str) -> Distribution:
        """Return one distribution, for who records often."""
        with _lock:
            return _found(self._cells, labels, lambda: self._linked(labels), HISTOGRAM_SERIES_LIMIT)

    def record(self, value: float, *labels: str) -> None:
        """Count one value."""
        self.cell(*labels).record(value)

    def values(self) -> dict[Labels, Distribution]:
        """Return copies of the distributions."""
        with _lock:
            return {
                labels: Distribution([*found.buckets], found.total, found.count)
                for labels, found in self._cells.items()
            }

    def clear(self) -> None:
        """Forget everything."""
        with _lock:
            self._cells.clear()

    @property
    def is_shared(self) -> bool:
        """Whether a recorder of OpenTelemetry is given every value too."""
        return self._also is not None

    def share(self, recorder: Recorder) -> None:
        """Give every value to a recorder too, from now on."""
        with _lock:
            self._also = recorder
            for labels, found in self._cells.items():
                found.also = self._linked(labels).also

    def _linked(self, labels: Labels) -> Distribution:
        recorder, named = self._also, self.named(labels)
        return Distribution(also=None if recorder is None else lambda value: recorder.record(value, named))


def _found(cells: dict[Labels, C], labels: Labels, make: Callable[[], C], limit: int) -> C:
    """Return the cell under these labels, or under ``(other)`` once there are too many."""
    found = cells.get(labels)
    if found is None:
        # Printable from here on: half a surrogate pair would end what is written of all of them.
        labels = tuple(inert(label[:NAME_CAP]) for label in labels)
        if labels not in cells and len(cells) >= limit:
            labels = (labels[0], *(OTHER for _ in labels[1:]))
        found = cells.get(labels)
        if found is None:
            found = cells[labels] = make()
    return found
