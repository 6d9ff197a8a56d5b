"""One worker in a process of its own: kept running, and started again when its code has changed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from orbiter.dev.redis_server import stop
from orbiter.dev.tied import tied
from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.broker.storage import NOTHING_ON_DISK
from orbiter.distributed.connection.backoff import Backoff
from orbiter.distributed.connection.redis_url import connect
from orbiter.distributed.execution.processes.keeper import TRACEBACKS
from orbiter.distributed.execution.processes.pool import IMPORTED, REPLACED
from orbiter.distributed.names import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from asyncio import StreamReader
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable, Coroutine

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
# A worker that lived this long was well: the next crash is a new one.
_WELL_AFTER = 30.0
# The exit code of a command that refuses how it is called.
_USAGE = 2
# Time that a drained worker gets to hand back what is left, and to say goodbye.
_GRACE = 5.0
_LAST_WORDS_WITHIN = 0.5
# How long it is not said that a worker is ready, so that what it cannot import is said before.
_IMPORTS_WITHIN = 3.0
_CHUNK = 65_536
# What `orbiter start worker` prints first: all of it is known here, and it would come again with each reload.
_BANNER = (
    *("Orbiter Worker Starting", "  Worker ID:", "  Redis URL:", "  Queue:", "  Concurrency:"),
    "Press Ctrl+C to stop.",
)


class WorkerProcess:
    """Keeps a worker running.

    Args:
        redis_url: The Redis that it works on.
        options: Further options of ``orbiter start worker``.
        imports: Whether it imports what tasks may ask for, and says so.
        namespace: The first word of all keys.
        drain_timeout: Seconds that running tasks get to end when the worker is stopped or started again.
        report: Called with one line whenever something happens to the worker.
        show: Given each line that the worker writes.
    """

    def __init__(
        self,
        redis_url: str,
        options: list[str],
        *,
        imports: bool = False,
        namespace: str = DEFAULT_NAMESPACE,
        drain_timeout: float,
        report: Callable[[str], None],
        show: Callable[[str], None],
    ) -> None:
        self._redis_url = redis_url
        self._keys = Keys(namespace)
        self._options = [*options, "--redis-url", redis_url, "--namespace", namespace]
        self._options += ["--drain-timeout", f"{drain_timeout:g}"]
        self._grace = drain_timeout + _GRACE
        self._report = report
        self._show = show
        self._changed = asyncio.Event()
        self._process: Process | None = None
        self._imports = imports
        self._imported = asyncio.Event()
        self._ready = False
        self._reloaded = 0.0

    def reload(self) -> None:
        """Have the worker run tasks with the code as it is now; ends the pause after a crash, too."""
        self._reloaded = time.monotonic()
        if self._ready and self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)
        else:
            self._changed.set()

    def hurry(self) -> None:
        """Have a worker that drains hand back at once what still runs."""
        if self._process is not None and self._process.returncode is None:
            # Not a second SIGTERM: it would be one with a first that the worker has not come to yet.
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End the worker without a drain; :meth:`run` starts no other once it is cancelled."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def run(self) -> None:
        """Keep a worker running until cancelled; then drain it. Return where one refuses its settings: all would."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE, jitter=0)
        while True:
            self._changed.clear()
            began = time.monotonic()
            async with self._started() as process:
                await _first(process.wait(), self._changed.wait())
            if self._changed.is_set():
                backoff.reset()
                continue
            if process.returncode == _USAGE:
                return
            if time.monotonic() - began > _WELL_AFTER:
                backoff.reset()
            pause = backoff.pause()
            self._report(f"worker ended with {_how(process.returncode)}; starting another in {pause:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    @contextlib.asynccontextmanager
    async def _started(self) -> AsyncIterator[Process]:
        """Start a worker, write what it writes, say when it is ready, and drain it at the end."""
        worker_id = f"dev-{secrets.token_hex(4)}"
        here = str(Path.cwd())
        command = [sys.executable, "-m", "orbiter.cli", "start", "worker", "--worker-id", worker_id, *self._options]
        self._process = process = await asyncio.create_subprocess_exec(
            *tied(command, signal.SIGKILL),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH")))),
                "PYTHONUNBUFFERED": "1",
                TRACEBACKS: "1",
            },
        )
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        # A group: where what they tell cannot be written, all of this ends.
        self._imported.clear()
        async with asyncio.TaskGroup() as reporting:
            output = reporting.create_task(self._copy_output(process.stdout, worker_id))
            ready = reporting.create_task(self._report_when_ready(worker_id))
            try:
                yield process
            finally:
                self._ready = False
                ready.cancel()
                await stop(process, self._grace)
                # What a tool has started may still hold the pipe.
                await asyncio.wait({output}, timeout=_LAST_WORDS_WITHIN)
                output.cancel()

    async def _copy_output(self, pipe: StreamReader, worker_id: str) -> None:
        banner = True
        async with asyncio.TaskGroup() as reporting:
            async for line in _lines(pipe):
                banner = banner and line.startswith(_BANNER)
                if REPLACED in line:
                    self._imported.clear()
                    reporting.create_task(self._report_ready(worker_id, self._reloaded))
                elif IMPORTED in line:
                    self._imported.set()
                elif not banner and NOTHING_ON_DISK not in line:
                    # Who wants the data kept has said so to us, and this Redis keeps them.
                    self._show(line)

    async def _report_ready(self, worker_id: str, since: float) -> None:
        """Report that tasks can run; before it stands what the worker cannot import."""
        if self._imports:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IMPORTS_WITHIN):
                    await self._imported.wait()
        self._report(f"worker {worker_id} is ready after {time.monotonic() - since:.1f} s")

    async def _report_when_ready(self, worker_id: str) -> None:
        began = time.monotonic()
        client = connect(self._redis_url, max_connections=1)
        try:
            while True:
                with contextlib.suppress(RedisError, OSError):
                    state, isolation = await client.hmget(self._keys.worker(worker_id), "state", "isolation")
                    if state == "running":
                        break
                await asyncio.sleep(0.05)
        finally:
            await client.aclose()
        self._ready = True
        if isolation == "none":
            # It imports what a task asks for, and nothing before.
            self._imported.set()
        await self._report_ready(worker_id, began)


async def _lines(pipe: StreamReader) -> AsyncIterator[str]:
    """Yield lines, however long: one that is longer than a chunk comes in pieces. Empty ones are left out."""
    rest = b""
    while chunk := await pipe.read(_CHUNK):
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > _CHUNK:
            whole, rest = [*whole, rest], b""
        for line in whole:
            if line.strip():
                yield line.decode(errors="replace").rstrip("\r")
    if rest.strip():
        yield rest.decode(errors="replace")


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Return when the first of the coroutines has; the others are cancelled."""
    tasks = {asyncio.create_task(wait) for wait in waits}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"
