"""A life: one process's time under a worker id, told from another's by a token in the heartbeat; and its machine."""

from __future__ import annotations

import hashlib
import os
import secrets
from functools import cache
from pathlib import Path

_NOWHERE = "-"
_MACHINE = Path("/etc/machine-id")


@cache
def _place() -> str:
    """Return what names this boot of this kernel and our process ids on it, or ``-`` where the system does not say.

    Containers have process ids of their own, and hosts that were copied share name and machine id: no process id means
    anything without this. A hash: Redis keeps a heartbeat whose values have at most 64 bytes in a fourth of the memory.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        processes = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return _NOWHERE
    return _hash(f"{boot} {processes}") if boot else _NOWHERE


@cache
def machine_id() -> str:
    """Return what names this machine whatever its host name is, or nothing where it has no id.

    A hash: what has the machine's id itself could pass for the machine elsewhere. The collection's gate makes the same
    of the host that it looks at.
    """
    try:
        found = _MACHINE.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
    return _hash(f"orbiter {found}") if len(found) == 32 else ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def new_life() -> str:
    """Return a life that no other is equal to: ``{place}/{random}``."""
    return f"{_place()}/{secrets.token_hex(8)}"


def died_here(life: str, pid: str) -> bool:
    """Tell whether a life is over for certain: its process was one of ours, and there is no such process any more."""
    place = life.rpartition("/")[0]
    if place in {"", _NOWHERE} or place != _place() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
