"""Counting: adds up what a worker does between two heartbeats, for the queue's rates."""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import TYPE_CHECKING

from orbiter.distributed.broker.rates import WAIT_BOUNDS, Counts
from orbiter.distributed.inert import inert
from orbiter.distributed.telemetry.instruments import NAME_CAP, OTHER, SERIES_LIMIT

if TYPE_CHECKING:
    from collections.abc import Sequence

# No answer of a model has more tokens.
_MOST = 100_000_000


class Counting:
    """Told of every start and end; hands out counts, which stay the same until Redis has them."""

    def __init__(self) -> None:
        self._taken: Counts | None = None
        self._number = 0
        # Whoever reports usage may do so from a thread.
        self._lock = threading.Lock()
        self._clear()

    def start(self, runs: int, waits: Sequence[float] = ()) -> None:
        """Count runs that begin, and how many seconds tasks waited for that."""
        self._started += runs
        for seconds in waits:
            self._waits[bisect_left(WAIT_BOUNDS, seconds)] += 1

    def end(self, *, failed: bool = False) -> None:
        """Count a task that has ended."""
        self._ended += 1
        self._failed += failed

    def spend(self, model: str, agent: str, tokens_in: int, tokens_out: int) -> None:
        """Count an answer of a model, which is paid whatever becomes of the run. Callable from any thread.

        Args:
            model: ``provider:name``.
            agent: Whose.
            tokens_in: Tokens that the model was sent.
            tokens_out: Tokens that it answered.
        """
        label = inert(model[:NAME_CAP]), inert(agent[:NAME_CAP])
        with self._lock:
            if label not in self._usage and len(self._usage) >= SERIES_LIMIT:
                label = OTHER, OTHER
            sums = self._usage.setdefault(label, [0, 0, 0])
            for at, number in enumerate((1, tokens_in, tokens_out)):
                sums[at] += min(max(0, number), _MOST)

    def take(self) -> Counts:
        """Return what was counted since Redis had it last. Until :meth:`delivered` it is the same again."""
        if self._taken is None:
            self._number += 1
            with self._lock:
                usage = tuple((model, agent, *sums) for (model, agent), sums in self._usage.items())
                counts = self._started, self._ended, self._failed
                self._taken = Counts(self._number, *counts, tuple(self._waits), usage)  # type: ignore[arg-type]
                self._clear()
        return self._taken

    def delivered(self) -> None:
        """Note that Redis has what was taken last."""
        self._taken = None

    def _clear(self) -> None:
        self._started = self._ended = self._failed = 0
        self._waits = [0] * (len(WAIT_BOUNDS) + 1)
        self._usage: dict[tuple[str, str], list[int]] = {}
