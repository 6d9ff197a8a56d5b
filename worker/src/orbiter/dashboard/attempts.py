"""Attempts: how often somebody may try to log in. What it keeps is limited, whoever tries."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

WITHIN = 60.0
OF_AN_ADDRESS = 5
IN_ALL = 30
_ADDRESSES = 1000


class Attempts:
    """Counts failed logins of the last minute, by address and in all.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all: deque[float] = deque(maxlen=IN_ALL)
        self._by_address: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Return the seconds until this address may try again; 0 where it may now."""
        rows = [(self._all, IN_ALL), (self._by_address.get(address, deque()), OF_AN_ADDRESS)]
        return max(self._left(row, most) for row, most in rows)

    def failed(self, address: str) -> None:
        """Count a wrong password. It counts before it is known to be wrong, so that many at once are counted, too."""
        now = self._clock()
        self._all.append(now)
        row = self._by_address.setdefault(address, deque(maxlen=OF_AN_ADDRESS))
        row.append(now)
        self._by_address.move_to_end(address)
        if len(self._by_address) > _ADDRESSES:
            self._by_address.popitem(last=False)

    def succeeded(self, address: str) -> None:
        """Forget what was counted of an address: its password was right."""
        row = self._by_address.pop(address, deque())
        for _ in range(min(1, len(row), len(self._all))):
            self._all.pop()

    def _left(self, row: deque[float], most: int) -> float:
        now = self._clock()
        while row and now - row[0] >= WITHIN:
            row.popleft()
        return WITHIN - (now - row[0]) if len(row) >= most else 0.0
