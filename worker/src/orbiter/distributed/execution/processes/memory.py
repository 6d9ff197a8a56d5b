"""Memory of executor processes and of what their tasks have started, from /proc; nothing where that is not there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int | str) -> int:
    """Return the resident bytes of a process, 0 where it is gone or they are not known."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:  # noqa: PTH123 - four times a second
            return int(file.read(200).split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def resident_by_session(leaders: Collection[int]) -> dict[int, int]:
    """Return the resident bytes of each session that these processes lead: of them and of what they have started."""
    found = dict.fromkeys(leaders, 0)
    try:
        pids = [name for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208 - names, fast
    except OSError:
        return found
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
                # Behind the name, which may hold anything: state, parent, group, session, …; pages are the 22nd.
                fields = file.read(1000).rpartition(b")")[2].split()
            session = int(fields[3])
            if session in found:
                found[session] += int(fields[21]) * _PAGE
        except (OSError, IndexError, ValueError):
            continue
    return found
