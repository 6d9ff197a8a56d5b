"""What tasks run in executor processes of the tests."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from orbiter.distributed.runtimes import RunContext
from orbiter.distributed.runtimes.threads import in_thread

# Memory that outlives its task.
HOARD: list[bytes] = []


async def echo(context: RunContext) -> dict[str, Any]:
    """Emit the input by letters, and return where this ran."""
    for letter in context.input:
        context.emit(letter)
        await asyncio.sleep(0)
    return {"output": context.input, "pid": os.getpid(), "attempt": context.attempt}


async def sleeps(context: RunContext) -> None:
    """Sleep as long as the input says, or for ever."""
    context.emit("started")
    await asyncio.sleep(float(context.input or 1e6))


async def streams(context: RunContext) -> str:
    """Emit many texts, as fast as it may."""
    for number in range(int(context.input)):
        context.emit(f"{number:06}" + "x" * 994)
        await context.pace()
    return "done"


def in_thread_for_ever(context: RunContext) -> None:
    """Be deaf, in a thread."""
    context.emit("started")
    while True:
        time.sleep(0.01)


def in_thread_a_while(context: RunContext) -> str:
    """Be deaf in a thread, for as long as the input says after it is cancelled."""
    context.emit("started")
    while not context.cancelled:
        time.sleep(0.01)
    time.sleep(float(context.input))
    return "late"


async def deaf_coroutine(context: RunContext) -> None:
    """Swallow each cancellation."""
    context.emit("started")
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1e6)


async def blocks(context: RunContext) -> None:
    """Keep the loop from turning."""
    context.emit("started")
    await asyncio.sleep(0.05)
    time.sleep(60)


async def cancels_itself(context: RunContext) -> None:
    """End as if cancelled, while a thread of its own still runs."""
    work = asyncio.ensure_future(in_thread(lambda: time.sleep(0.2)))
    await asyncio.sleep(0.05)
    work.cancel()
    raise asyncio.CancelledError


async def fails(context: RunContext) -> None:
    """Raise."""
    raise LookupError(context.input)


async def prints(context: RunContext) -> None:
    """Write in every way there is."""
    print("by print")
    print("to stderr", file=sys.stderr)
    logging.getLogger("tool").warning("by a logger")
    os.write(1, b"by a C library\n")


async def ends_process(context: RunContext) -> None:
    """End this process as the input says: by a status, by a signal, or by a fault in C."""
    context.emit("started")
    await asyncio.sleep(0.05)
    match context.input:
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case status:
            os._exit(int(status))


async def environment(context: RunContext) -> dict[str, Any]:
    """Return what it finds around it."""
    found = [str(entry.readlink()) for entry in list(Path("/proc/self/fd").iterdir()) if entry.is_symlink()]
    return {"output": "", "environ": dict(os.environ), "argv": sys.argv, "sid": os.getsid(0), "open": found}


async def leaves_a_child(context: RunContext) -> dict[str, Any]:
    """Start a process that outlives the task."""
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    return {"output": "", "pid": process.pid}


async def grows(context: RunContext) -> None:
    """Take as many bytes as the input says, in steps."""
    held = []
    for _ in range(int(context.input) // 10_000_000):
        held.append(b"x" * 10_000_000)
        await asyncio.sleep(0.01)
    await asyncio.sleep(1e6)


async def grows_and_leaves(context: RunContext) -> None:
    """Take memory that stays after its end, all of it, however soon it is asked to stop; block the loop then."""
    steps = int(context.input) // 10_000_000
    try:
        while len(HOARD) < steps:
            HOARD.append(b"x" * 10_000_000)
            await asyncio.sleep(0.01)
        await asyncio.sleep(1e6)
    finally:
        HOARD.extend(b"x" * 10_000_000 for _ in range(steps - len(HOARD)))
        # As a collection of much garbage does on a slow machine: for longer than any other run has to stop.
        time.sleep(4)


async def grows_deaf(context: RunContext) -> None:
    """Take memory, and keep it whoever asks."""
    held = []
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            while len(held) < int(context.input) // 10_000_000:
                held.append(b"x" * 10_000_000)
                await asyncio.sleep(0.01)
            await asyncio.sleep(1e6)


async def grows_in_a_child(context: RunContext) -> None:
    """Start a process that takes memory."""
    code = f"held = b'x' * {context.input}; import time; time.sleep(1000)"
    await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    await asyncio.sleep(1e6)


async def journaled(context: RunContext) -> dict[str, Any]:
    """Replay one step, keep another; go on when the run is over."""
    journal = context.journal
    assert journal is not None
    before = journal.replay("one")
    await journal.append("two", {"x": 2})
    journal.save({"at": 2})

    async def late() -> None:
        await asyncio.sleep(0.05)
        journal.save({"at": 3})
        await journal.append("three", 3)

    LEFT.add(asyncio.get_running_loop().create_task(late()))
    return {"output": "", "before": before, "checkpoint": journal.checkpoint}


LEFT: set[asyncio.Task[Any]] = set()


async def keeps_much(context: RunContext) -> None:
    """Keep a step, then a checkpoint, of so many characters."""
    assert context.journal is not None
    much = "x" * int(context.payload.input)
    await context.journal.append("much", much)
    context.journal.save(much)


def answers(context: RunContext) -> str:
    """Answer with so many characters."""
    return "x" * int(context.payload.input)


async def many_threads(context: RunContext) -> None:
    """Start threads that never end."""
    for _ in range(30):
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
