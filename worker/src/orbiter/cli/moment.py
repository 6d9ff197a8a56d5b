"""A moment as people write it: a date with its zone, or so long from now."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_FROM_NOW = re.compile(r"\+(\d{1,9}(?:\.\d{1,6})?)([smhd])", re.ASCII)


def read_moment(text: str) -> datetime | timedelta:
    """Return ``2026-02-17T10:30:00Z`` as a date, and ``+30s``, ``+5m``, ``+2h``, ``+1d`` as what it is from now.

    Now is by Redis' clock, which is asked when there is a connection; this machine's may be wrong.

    Raises:
        ValueError: It is neither, or a date without its zone.
    """
    if found := _FROM_NOW.fullmatch(text):
        return timedelta(**{_UNITS[found[2]]: float(found[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} must be written +30s, +5m, +2h or 2026-02-17T10:30:00Z") from None
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} names no zone: write 2026-02-17T10:30:00Z for UTC, or an offset such as +01:00")
    return moment
