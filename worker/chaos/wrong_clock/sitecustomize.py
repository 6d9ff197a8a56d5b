"""Makes the clock of a worker and its executor processes wrong, by the seconds that a file says; see ``Member.shift``.

Python imports this at its start where its folder is on the path. Not libfaketime: with it threads took seconds to
start now and then, which stalled what had started them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_FILE = Path(os.environ["WRONG_CLOCK"])
_RIGHT, _RIGHT_NS = time.time, time.time_ns
LOOK_EVERY = 1.0


class _Wrong:
    """How wrong it is, looked up once a second."""

    seconds = 0.0
    looked = float("-inf")

    @classmethod
    def by(cls) -> float:
        if time.monotonic() - cls.looked > LOOK_EVERY:
            cls.seconds, cls.looked = float(_FILE.read_text() or cls.seconds), time.monotonic()
        return cls.seconds


time.time = lambda: _RIGHT() + _Wrong.by()
time.time_ns = lambda: _RIGHT_NS() + int(_Wrong.by() * 1e9)
