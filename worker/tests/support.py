"""What several tests need. Import it as ``from tests.support import wait_until``."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from orbiter.distributed.connection.redis_url import connect_sync

T = TypeVar("T")

# The command runs here, so that a worker can import tests.integration.jobs.
WORKER_DIRECTORY = Path(__file__).parents[1]


async def wait_until(condition: Callable[[], T | Awaitable[T]], timeout: float = 20.0, *, interval: float = 0.02) -> T:
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


def slowness() -> float:
    """Return how many times longer than its CPU time some work takes at the moment: 1 where nobody else computes."""
    began, computing = time.monotonic(), time.process_time()
    while (used := time.process_time() - computing) < 0.1:
        pass
    return max(1.0, (time.monotonic() - began) / used)


# Below the ports that systems give to outgoing connections: one of those would take a port before its server does.
_PORTS = range(10_000, 32_000)
_reserved: list[socket.socket] = []


def free_port() -> int:
    """Return a TCP port of the loopback interface on which nothing listens, and which no other test run is given."""
    for port in random.sample(_PORTS, len(_PORTS)):
        # A name that every test run on this machine sees, and that the system frees whatever ends this process.
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0orbiter-test-port-{port}")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            reservation.close()
        else:
            _reserved.append(reservation)
            return port
    raise AssertionError("no free port")


def environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without settings of Orbiter or the terminal, plus ``extra``."""
    unwanted = ("ORBITER_", "OTEL_", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "NOTIFY_SOCKET")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)} | extra


def orbiter(*arguments: str, stdin: str = "", timeout: float = 60.0, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the real command in a process of its own, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "orbiter.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**env),
        cwd=WORKER_DIRECTORY,
        check=False,
    )


@contextmanager
def worker_process(
    redis_url: str, worker_id: str, log: Path, *options: str, namespace: str = "", **env: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``orbiter start worker`` that may import ``tests.integration.jobs``, ready; at the end it is drained."""
    command = [sys.executable, "-m", "orbiter.cli", "start", "worker", "--redis-url", redis_url]
    command += ["--worker-id", worker_id, "--allow-import", "tests.integration.jobs", "--drain-timeout", "1", *options]
    command += ["--namespace", namespace] if namespace else []
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment(**env), cwd=WORKER_DIRECTORY)
    try:
        with connect_sync(redis_url) as client:
            deadline = time.monotonic() + 40
            heartbeat = f"{namespace or 'orbiter'}:workers:{worker_id}"
            # Its own heartbeat: that of an earlier process of this id may still stand.
            while client.hmget(heartbeat, "state", "pid") != ["running", str(process.pid)]:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"the worker did not start:\n{log.read_text()}")
                time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start_orbiter(*arguments: str, **env: str) -> subprocess.Popen[str]:
    """Start the real command; the caller ends it and closes its pipes (``with`` does the latter)."""
    return subprocess.Popen(
        [sys.executable, "-m", "orbiter.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**env),
        cwd=WORKER_DIRECTORY,
    )
