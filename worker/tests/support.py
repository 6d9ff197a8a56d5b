"""What several tests need. Import it as ``from tests.support import wait_until``."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
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

import psutil

from orbiter.distributed.connection.redis_url import connect_sync

T = TypeVar("T")

# Seconds within which what is certain to come has come, on a slow and busy machine as well. A wait for something costs
# no more than it takes; where the fault is a long wait, the test makes that one longer than this.
PATIENCE = 60.0

# The command runs here, so that a worker can import tests.integration.jobs.
WORKER_DIRECTORY = Path(__file__).parents[1]


async def wait_until(
    condition: Callable[[], T | Awaitable[T]], timeout: float = PATIENCE, *, interval: float = 0.02
) -> T:
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


def whole_lines(path: Path) -> list[str]:
    """Return the whole lines of a file that somebody may be writing to; none where it is not there yet."""
    return path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []


def complaints(errors: str) -> list[str]:
    """Return the lines of what ``python -X dev`` writes that are not of the machine: asyncio names slow steps."""
    return [line for line in errors.splitlines() if not line.startswith("Executing <")]


def slowness() -> float:
    """Return how many times longer some work takes at the moment than where limits of time were chosen: 1 at least.

    A slower machine counts like one on which others compute.
    """
    began = time.monotonic()
    for _ in range(_WORK):
        pass
    return max(1.0, (time.monotonic() - began) / 0.1)


# Turns of an empty loop that take a tenth of a second on two cores of a server of 2024, while nobody else computes.
_WORK = 2_500_000


def cost(work: Callable[[], object], enough: float) -> float:
    """Return how many times the processor time of a calibration some work takes: ``enough``, or the least of three.

    The calibration reads JSON and goes through it, right before the work and right after it. What makes the one slow
    (a slower machine, others on its cores and in its caches) makes the other slow. Objects that other tests have left
    count for neither.
    """
    least = float("inf")
    gc.collect()
    gc.freeze()
    try:
        for _ in range(3):
            before = _processor_time(_calibration)
            took = _processor_time(work)
            least = min(least, 2 * took / (before + _processor_time(_calibration)))
            if least <= enough:
                break
    finally:
        gc.unfreeze()
    return least


# Read in about a thirtieth of a second, like the largest task that a worker reads.
_TEXT = json.dumps([{"name": f"a{number}", "of": [number, 0.5, None]} for number in range(20_000)])


def _calibration() -> None:
    assert len({len(one["name"]) for one in json.loads(_TEXT) if one["of"]}) == 5


def _processor_time(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


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


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process runs. One that has ended and is not yet waited for does not, nor one that ends now."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_line(process: psutil.Process) -> list[str]:
    """Return the words of a process's command line; none where it has ended or ends now."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without settings of Orbiter, the terminal or Python's output, plus ``extra``.

    With ``PYTHONUNBUFFERED`` nothing is left to write when a program ends, so that nothing can fail there.
    """
    unwanted = ("ORBITER_", "OTEL_", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "NOTIFY_SOCKET", "PYTHONUNBUFFERED")
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
            deadline = time.monotonic() + PATIENCE
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
            process.wait(PATIENCE)
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
