"""A callable that searches for a credential. It needs nothing but Python: tests of virtual hosts run it there."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SECRET = re.compile(rb"se[c]ret-[0-9a-f]{32}")
_SOME = 1 << 26


def searches(context: Any) -> dict[str, Any]:
    """Look for a credential wherever this process can read; return where it is, and what could be done to whom."""
    wanted = context.metadata["sha256"]
    found: list[str] = []
    read: dict[str, int] = {}

    def look(where: str, data: bytes) -> None:
        kind = where.split("/")[1] if where.startswith("/") else where
        read[kind] = read.get(kind, 0) + 1
        if any(hashlib.sha256(match).hexdigest() == wanted for match in _SECRET.findall(data)):
            found.append(where)

    def look_at(path: str) -> None:
        with contextlib.suppress(OSError), open(path, "rb", opener=_without_waiting) as file:
            look(path, file.read(_SOME))

    look("environment", repr(dict(os.environ)).encode())
    for top in ("/etc", "/run"):
        for directory, _, names in os.walk(top):
            for name in names:
                path = os.path.join(directory, name)  # noqa: PTH118
                if not os.path.islink(path) and os.path.isfile(path):  # noqa: PTH113, PTH114
                    look_at(path)
    others = set(map(str, context.metadata["others"]))
    for pid in filter(str.isdecimal, set(os.listdir("/proc")) - others):  # noqa: PTH208
        for name in ("environ", "cmdline", "stack", "auxv", "syscall"):
            look_at(f"/proc/{pid}/{name}")
        for data in _memory_of(pid):
            look(f"/proc/{pid}/mem", data)
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
                path = f"/proc/{pid}/fd/{descriptor}"
                if os.path.isfile(path):  # noqa: PTH113
                    look_at(path)
    return {"found": found, "read": read, "supervisor": _access_to(os.getppid()), "may": _capabilities()}


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _memory_of(pid: str) -> Iterator[bytes]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:  # noqa: PTH123
        for line in maps:
            area, rights = line.split()[:2]
            if not rights.startswith("rw"):
                continue
            start, end = (int(at, 16) for at in area.split("-"))
            with contextlib.suppress(OSError, OverflowError, ValueError):
                memory.seek(start)
                while start < end and (data := memory.read(min(end - start, 1 << 22))):
                    start += len(data)
                    yield data


def _capabilities() -> int:
    return int(re.findall(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())[0], 16)


def _access_to(pid: int) -> dict[str, bool]:
    libc = ctypes.CDLL(None, use_errno=True)
    access = {}
    for name in ("environ", "mem", "maps", "auxv"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as file:  # noqa: PTH123
            # Opening environ is allowed where reading is not.
            access[name] = name == "mem" or bool(file.read(1))
    for name in ("fd/0", "cwd", "exe", "root"):
        with contextlib.suppress(OSError):
            access[name] = bool(os.readlink(f"/proc/{pid}/{name}"))  # noqa: PTH115
    # PTRACE_SEIZE, which stops nobody, and PTRACE_DETACH.
    if libc.ptrace(0x4206, pid, None, None) == 0:
        access["ptrace"] = True
        libc.ptrace(17, pid, None, None)
    with contextlib.suppress(OSError):
        descriptor = os.pidfd_open(pid)
        # pidfd_getfd
        access["getfd"] = any(libc.syscall(438, descriptor, number, 0) >= 0 for number in range(64))
    return {name: can for name, can in access.items() if can}
