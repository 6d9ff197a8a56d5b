"""A moment as people write it: a date with its zone, or so long from now."""

from __future__ import annotations

import re
import time
from datetime import datetime

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_FROM_NOW = re.compile(r"\+(\d{1,9}(?:\.\d{1,6})?)([smhd])", re.ASCII)


def read_moment(text: str) -> float:
    """Return ``2026-02-17T10:30:00Z`` or ``+30s``, ``+5m``, ``+2h``, ``+1d`` as epoch seconds.

    Raises:
        ValueError: It is neither, or a date without its zone.
    """
    if found := _FROM_NOW.fullmatch(text):
        return time.time() + float(found[1]) * _SECONDS[found[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} must be written +30s, +5m, +2h or 2026-02-17T10:30:00Z") from None
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} names no zone: write 2026-02-17T10:30:00Z for UTC, or an offset such as +01:00")
    return moment.timestamp()
