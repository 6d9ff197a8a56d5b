"""What several tests need. Import it as ``from tests.support import wait_until``."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def wait_until(condition: Callable[[], T | Awaitable[T]], timeout: float = 10.0, *, interval: float = 0.02) -> T:
    """Call ``condition`` (plain or async) until it returns something true; return that.

    Raises:
        AssertionError: It stayed false for ``timeout`` seconds; the message shows what it last returned.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        value: T = await found if inspect.isawaitable(found) else found  # type: ignore[assignment]
        if value:
            return value
        if time.monotonic() > deadline:
            name = getattr(condition, "__name__", repr(condition))
            raise AssertionError(f"{name} was still {value!r} after {timeout} s")
        await asyncio.sleep(interval)


def free_port() -> int:
    """Return a TCP port of the loopback interface on which nothing listens at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without settings of Orbiter or the terminal, plus ``extra``."""
    unwanted = ("ORBITER_", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "NOTIFY_SOCKET")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)} | extra


def orbiter(*arguments: str, stdin: str = "", timeout: float = 60.0, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the real command in a process of its own, to its end."""
    command = [sys.executable, "-m", "orbiter.cli", *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=timeout, env=environment(**env), check=False
    )


def start_orbiter(*arguments: str, **env: str) -> subprocess.Popen[str]:
    """Start the real command; the caller ends it and closes its pipes (``with`` does the latter)."""
    command = [sys.executable, "-m", "orbiter.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**env))
