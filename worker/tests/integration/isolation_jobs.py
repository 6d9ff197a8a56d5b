"""Callables that attack what runs them, by ``tests.integration.isolation_jobs:NAME``."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from orbiter.distributed.runtimes.user_code import RUN

if os.environ.get("BAD_HOST") and "orbiter.distributed.execution.processes.child" in " ".join(sys.orig_argv):
    # A host on which nothing lives long: a process is killed soon after it has become ready.
    threading.Timer(float(os.environ["BAD_HOST"]), os.kill, (os.getpid(), signal.SIGKILL)).start()

KEPT: list[Any] = []


def _note(context: Any, what: str) -> None:
    with Path(context.metadata["notes"]).open("a") as notes:
        notes.write(f"{what} {context.payload.task_id} {context.attempt} {time.monotonic()}\n")


async def innocent(context: Any) -> str:
    """Note the run, take some time, or wait until a file is there; answer."""
    _note(context, "innocent")
    if until := context.metadata.get("until"):
        while not Path(until).exists():
            await asyncio.sleep(0.02)
        return "done"
    await asyncio.sleep(context.metadata.get("seconds", 1.0))
    return "done"


def whereabouts(_: Any) -> str:
    """Answer with the process."""
    return str(os.getpid())


# -- ways to die -------------------------------------------------------------------------------------------------------


def segfault(context: Any) -> str:
    """Read where nothing is."""
    ctypes.string_at(0)
    return "not reached"


def exits(context: Any) -> str:
    """Leave without a word."""
    os._exit(0)


def alarm(context: Any) -> str:
    """Have the system end this process."""
    signal.alarm(1)
    time.sleep(20)
    return "not reached"


def kills_group(context: Any) -> str:
    """Kill its own process group."""
    os.killpg(0, signal.SIGKILL)
    return "not reached"


def overflows_stack(context: Any) -> str:
    """Recurse in C to the end of the stack."""
    sys.setrecursionlimit(1 << 30)
    kind = ctypes.CFUNCTYPE(ctypes.c_int)
    call: Any = kind(lambda: call())  # noqa: PLW0108 - it is not there yet
    return str(call())


def closes_descriptors(context: Any) -> str:
    """Close everything."""
    os.closerange(0, 1000)
    time.sleep(20)
    return "not reached"


async def closes_descriptors_in_loop(context: Any) -> str:
    """Close everything, the event loop's descriptors first."""
    os.closerange(0, 1000)
    await asyncio.sleep(20)
    return "not reached"


def closes_channel(context: Any) -> str:
    """Close what the supervisor is spoken to over."""
    os.close(int(sys.orig_argv[-3]))
    time.sleep(20)
    return "not reached"


def closes_guards_channel(context: Any) -> str:
    """Close what this process learns over that its supervisor lives."""
    os.close(int(sys.orig_argv[-2]))
    time.sleep(20)
    return "not reached"


def sends_too_much(context: Any) -> str:
    """Write a result of another size than a result may have to who started this process."""
    body = b'{"output": "%s"}' % (b"x" * 2_000_000)
    run = RUN.get()
    os.write(int(sys.orig_argv[-3]), struct.pack("!IBI", len(body), 18, run) + body[:1000])
    time.sleep(20)
    return "not reached"


async def holds_interpreter(context: Any) -> str:
    """Be an extension that does not let go of the interpreter."""
    ctypes.PyDLL(None).sleep(20)
    return "not reached"


def holds_interpreter_in_thread(context: Any) -> str:
    """Do the same in a thread."""
    ctypes.PyDLL(None).sleep(20)
    return "not reached"


async def blocks(context: Any) -> str:
    """Block the event loop, for some time or until a file is there."""
    _note(context, "blocks")
    if until := context.metadata.get("until"):
        while not Path(until).exists():
            time.sleep(0.02)
        return "blocked"
    time.sleep(context.metadata.get("seconds", 20))
    return "blocked"


def kills_supervisor(context: Any) -> str:
    """Kill who started this process."""
    _note(context, "kills")
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(5)
    return "not reached"


async def grows(context: Any) -> str:
    """Grow by 50 MB a second."""
    _note(context, "grows")
    while True:
        KEPT.append(bytearray(os.urandom(1) * 5_000_000))
        await asyncio.sleep(0.1)


# -- ways to do harm and live ------------------------------------------------------------------------------------------


def forks(context: Any) -> str:
    """Fork, and end the child in several ways."""
    codes = []
    for way in range(4):
        if (pid := os.fork()) == 0:
            if way == 0:
                os._exit(3)
            if way == 1:
                sys.exit(3)
            if way == 2:
                os.abort()
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(9)
        codes.append(os.waitpid(pid, 0)[1])
    return " ".join(map(str, codes))


def limits_files(context: Any) -> str:
    """Allow this process no more descriptors."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (10, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return "limited"


def limits_memory(context: Any) -> str:
    """Allow this process no more address space."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 20, resource.RLIM_INFINITY))
    return "limited"


def prints_for_ever(context: Any) -> str:
    """Leave a thread behind that prints for ever."""

    def shout() -> None:
        while True:
            print("x" * 200)

    threading.Thread(target=shout, daemon=True).start()
    time.sleep(1)
    return "printed"


def opens_files(context: Any) -> str:
    """Open 10 000 files, or as many as there may be, and keep them."""
    with contextlib.suppress(OSError):
        KEPT.extend(open(os.devnull) for _ in range(10_000))  # noqa: SIM115, PTH123
    return "opened"


async def runs_loop_in_loop(context: Any) -> str:
    """Call asyncio.run within the event loop."""
    work = asyncio.sleep(0)
    try:
        asyncio.run(work)
    finally:
        work.close()
    return "not reached"


def leaves_zombies(context: Any) -> str:
    """Start processes that nobody waits for."""
    KEPT.extend(subprocess.Popen(["true"]) for _ in range(20))
    return "left"


def daemon(context: Any) -> str:
    """Leave a process behind that has a session of its own."""
    if (pid := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", context.metadata["sleep"]])
        os._exit(0)
    os.waitpid(pid, 0)
    return "left"


def daemon_and_dies(context: Any) -> str:
    """Do that, and die."""
    daemon(context)
    os._exit(7)


def replaces_output(context: Any) -> str:
    """Put an object that raises in place of the streams."""

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    sys.stdout = sys.stderr = sys.stdin = Broken()  # type: ignore[assignment]
    return "replaced"


async def replaces_handlers(context: Any) -> str:
    """Take all signals and the fault handler."""
    faulthandler.disable()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGCHLD else lambda *_: None)
    signal.set_wakeup_fd(-1)
    return "replaced"


async def cancels_all(context: Any) -> str:
    """Cancel every asyncio task that there is."""
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
    return "cancelled"


async def stops_loop(context: Any) -> str:
    """Stop the event loop."""
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.1)
    return "stopped"


def changes_surroundings(context: Any) -> str:
    """Change directory, environment and defaults of this process."""
    import socket

    os.chdir("/")
    os.environ["ORBITER_REDIS_URL"] = "redis://nowhere"
    socket.setdefaulttimeout(0.01)
    sys.path.clear()
    return "changed"


def closes_streams(context: Any) -> str:
    """Close what everybody prints to."""
    sys.stdout.close()
    sys.stderr.close()
    os.close(1)
    return "closed"


def configures_logging(context: Any) -> str:
    """Set up logging as an application does, and switch it off."""
    import logging

    logging.basicConfig(force=True, level=logging.ERROR, format="APP %(message)s")
    logging.disable(logging.CRITICAL)
    return "configured"


VARIABLE: ContextVar[str] = ContextVar("variable", default="clean")


async def sets_context(context: Any) -> str:
    """Set a context variable."""
    VARIABLE.set("dirty")
    await asyncio.sleep(0.01)
    return VARIABLE.get()


def sets_context_in_thread(context: Any) -> str:
    """Set it in a thread."""
    VARIABLE.set("dirty")
    return VARIABLE.get()


async def shows_context(context: Any) -> str:
    """Answer what it is."""
    return VARIABLE.get()


def orphan(context: Any) -> str:
    """Wait for a program that takes long."""
    subprocess.run(["sleep", context.metadata["sleep"]], check=False)
    return "not reached"


def stuck(context: Any) -> str:
    """Sleep in a thread for ever."""
    time.sleep(3600)
    return "not reached"


# -- deaf ones ---------------------------------------------------------------------------------------------------------


def deaf_thread(context: Any) -> str:
    """Show life every 20 ms, and do not hear."""
    _note(context, "start")
    began = time.monotonic()
    while time.monotonic() < began + _long(context):
        _note(context, "alive")
        time.sleep(0.02)
    return "done"


async def deaf_coroutine(context: Any) -> str:
    """Do so as a coroutine."""
    _note(context, "start")
    began = time.monotonic()
    while time.monotonic() < began + _long(context):
        _note(context, "alive")
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.02)
    return "done"


def _long(context: Any) -> float:
    """Return the seconds that a run takes: its successor waits for a sign of life of it."""
    again = context.attempt > 1 and context.metadata.get("ends_later")
    return 0.5 if again else context.metadata.get("seconds", 30)


# -- a flood -----------------------------------------------------------------------------------------------------------


async def streams(context: Any) -> AsyncIterator[str]:
    """Say what time it is, 20 times a second."""
    for _ in range(context.metadata.get("words", 60)):
        yield f"{time.time()} "
        await asyncio.sleep(0.05)


def floods(context: Any) -> Iterator[str]:
    """Emit and print without pause until told to stop."""
    text = "x" * 1000
    while not Path(context.metadata["until"]).exists():
        print(text)
        yield text


async def floods_in_loop(context: Any) -> AsyncIterator[str]:
    """Do so on the event loop."""
    text = "x" * 1000
    while not Path(context.metadata["until"]).exists():
        for _ in range(100):
            print(text)
            yield text
