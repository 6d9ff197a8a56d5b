"""Callables that take memory, start processes or do no harm, by ``vm_tasks:NAME``."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import runpy
import time
from pathlib import Path
from typing import Any

KEPT: list[Any] = []
# Memory of which every page was written to.
STEP = 5_000_000


async def innocent(context: Any) -> str:
    """Take some time, answer with the process."""
    await asyncio.sleep(context.metadata.get("seconds", 1.0))
    return str(os.getpid())


async def grows(context: Any) -> str:
    """Grow by 50 MB a second."""
    while True:
        KEPT.append(bytearray(b"x" * STEP))
        await asyncio.sleep(0.1)


def leaps(context: Any) -> str:
    """Take 1 GB at once, when it is told to."""
    ready = Path(context.metadata["ready"])
    ready.touch()
    while ready.exists():
        time.sleep(0.1)
    KEPT.append(mmap.mmap(-1, 1_000_000_000, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE))
    time.sleep(60)
    return "not reached"


def daemon_grows(context: Any) -> str:
    """Leave a process behind that has a session of its own and no parent, and takes memory, 50 MB a second."""
    program = f"import time\nkept = []\nwhile True: kept.append(b'x' * {STEP}), time.sleep(0.1)"
    _leave("/usr/bin/python3", "-c", program, context.metadata["mark"])
    time.sleep(600)
    return "not reached"


def daemon(context: Any) -> str:
    """Leave a process behind that has a session of its own and no parent."""
    _leave("sleep", context.metadata["sleep"])
    return "left"


def _leave(*command: str) -> None:
    if (pid := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp(command[0], command)
        os._exit(0)
    os.waitpid(pid, 0)


def bombs(context: Any) -> int:
    """Start processes until none can be; return how many there were."""
    started = 0
    with contextlib.suppress(OSError):
        while started < 5000:
            if os.fork() == 0:
                os.execvp("sleep", ["sleep", context.metadata["sleep"]])
            started += 1
    time.sleep(context.metadata.get("seconds", 5.0))
    return started


def cgroup(context: Any) -> str:
    """Answer with the cgroup of version 2 that this runs in, and what it was told."""
    (path,) = (line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    names = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max")
    found = {name: Path("/sys/fs/cgroup" + path, name) for name in names}
    return "\n".join([path, *(f"{name} {file.read_text().strip()}" for name, file in found.items() if file.exists())])


def runs_file(context: Any) -> Any:
    """Run a function of a file."""
    return runpy.run_path(context.metadata["file"])[context.metadata["function"]](context)
