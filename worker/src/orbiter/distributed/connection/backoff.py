"""Backoff: pauses between tries, longer each time."""

from __future__ import annotations

import random


class Backoff:
    """Pauses that double up to a limit.

    Args:
        first: The longest first pause, seconds.
        longest: The longest of all, seconds.
        jitter: The share of a pause that is left to chance, so that many do not try at once.
    """

    __slots__ = ("_first", "_jitter", "_longest", "_next")

    def __init__(self, first: float, longest: float, *, jitter: float = 0.5) -> None:
        self._first = first
        self._longest = longest
        self._jitter = jitter
        self._next = first

    def pause(self) -> float:
        """Return how long to wait before the next try, seconds."""
        pause = self._next * random.uniform(1 - self._jitter, 1)  # noqa: S311 - jitter
        self._next = min(self._longest, self._next * 2)
        return pause

    def reset(self) -> None:
        """Begin anew: a try has succeeded."""
        self._next = self._first
