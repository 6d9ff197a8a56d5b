"""Blame: who is at fault where an executor process died: one of its tasks, or this host."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

# So many processes in a row, with no task that was in two of them: the host is at fault.
ROW = 3


class Verdict(NamedTuple):
    """What a death proves.

    Attributes:
        works_well: This host runs tasks well: one has ended here since the death before. A task that died alone is
            guilty then.
        host: The host is at fault, and no task is.
    """

    works_well: bool
    host: bool


class Blame:
    """Keeps the last deaths and ends of this worker."""

    def __init__(self) -> None:
        self._row: list[frozenset[str]] = []
        self._well = False

    @property
    def bad_host(self) -> bool:
        """Whether it takes a task for each of the last deaths to explain them; none has ended in between.

        A task that was in two of them is suspected, and counted, so that it ends however few tasks there are besides.
        """
        return len(self._row) >= ROW and all(a.isdisjoint(b) for a, b in combinations(self._row, 2))

    def ended(self) -> None:
        """Take note that a task has ended here by itself, well or not."""
        self._well = True
        if self._row:
            self._row = []

    def died(self, tasks: Collection[str]) -> Verdict:
        """Take note that a process has died in which these tasks ran, and judge."""
        if tasks:
            self._row.append(frozenset(tasks))
            # What came before cannot make it worse: a fault of one task shows in the last few.
            self._row = self._row[-ROW:]
        works_well, self._well = self._well, False
        return Verdict(works_well, self.bad_host)
