"""Where the benchmarks run: a redis-server of their own on one core, the measured process on another."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from orbiter.distributed import TaskBroker, TaskPayload, TaskStore
from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.models import DEFAULT_QUEUE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PATIENCE = 120.0
WORKER_ID = "measured"
HERE = Path(__file__).parents[1]


class BenchmarkError(Exception):
    """A benchmark could not be measured; the message says why, and shows the log where there is one."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a benchmark is given.

    Attributes:
        url: The benchmarks' own Redis.
        client: A client of it, for looking on.
        server_core: The core of redis-server and of whoever looks on; ``None`` where processes cannot be pinned.
        measured_core: The core of the process that is measured.
        directory: For logs; gone afterwards.
        loop: The worker's kind of event loop, ``asyncio`` or ``uvloop``; the floors use the same.
    """

    url: str
    client: redis.Redis
    server_core: int | None
    measured_core: int | None
    directory: Path
    loop: str = "asyncio"

    @property
    def cores(self) -> set[int]:
        """Both cores, or none where processes cannot be pinned."""
        return {core for core in (self.server_core, self.measured_core) if core is not None}

    def floor(self, name: str, *arguments: object, plain: bool = False) -> Any:
        """Run a floor to its end, on the measured core, and return what it measured."""
        with self.floor_process(name, *arguments, plain=plain) as process:
            return self.answer(process)

    @contextmanager
    def floor_process(self, name: str, *arguments: object, plain: bool = False) -> Iterator[subprocess.Popen[bytes]]:
        """Run a floor while the caller does its part; ``plain`` is redis-py without what makes it faster."""
        kind = "plain" if plain else self.loop
        command = [sys.executable, "-m", "benchmarks.floor", name, self.url, kind, *map(str, arguments)]
        with self._measured(command, subprocess.PIPE) as process:
            yield process

    def answer(self, process: subprocess.Popen[bytes]) -> Any:
        """Wait for a floor's end and return what it measured."""
        if _exit_status(process) != 0:
            raise BenchmarkError(f"the floor failed:\n{self._log_end()}")
        return json.loads(process.communicate()[0])

    @contextmanager
    def worker(self, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """Run ``orbiter start worker`` on the measured core; at the end it has left."""
        command = [sys.executable, "-m", "orbiter.cli", "start", "worker", "--redis-url", self.url]
        command += ["--worker-id", WORKER_ID, "--allow-import", "benchmarks", "--log-level", "warning", *options]
        with self._measured(command, subprocess.DEVNULL, environment) as process:
            yield process

    @contextmanager
    def dashboard(self, port: int) -> Iterator[subprocess.Popen[bytes]]:
        """Run ``orbiter dashboard`` on the measured core; at the end it has left."""
        command = [sys.executable, "-m", "orbiter.cli", "dashboard", "--redis-url", self.url, "--port", str(port)]
        with self._measured(command, subprocess.DEVNULL) as process:
            yield process

    @contextmanager
    def another_worker(self, name: str, *options: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run one of several workers, pinned to no core; at the end it has left."""
        command = [sys.executable, "-m", "orbiter.cli", "start", "worker", "--redis-url", self.url]
        command += ["--worker-id", name, "--allow-import", "benchmarks", "--log-level", "warning", *options]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("ORBITER_", "TEMPORAL_"))}
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=inherited | environment, cwd=HERE)  # noqa: S603
        try:
            pin(process.pid, *sorted(self.cores))
            yield process
        finally:
            end(process)

    def wait(self, process: subprocess.Popen[bytes], what: str, condition: Callable[[], object]) -> None:
        """Look again and again until the condition holds, while the measured process lives."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"{what}: not within {PATIENCE:g} s\n{self._log_end()}")
            time.sleep(0.02)

    def wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the worker takes tasks and waits for the next one."""
        self.wait(process, "worker is ready", lambda: self.client.hget(Keys().worker(WORKER_ID), "state") == "running")
        self.wait(process, "worker waits", lambda: self.client.info("clients")["blocked_clients"])

    def counters(self) -> dict[str, float]:
        """Return what the server has counted; commands are also those that scripts call."""
        stats, cpu = self.client.info("stats"), self.client.info("cpu")
        called = self.client.info("commandstats")

        def calls(*names: str) -> int:
            return sum(called.get(f"cmdstat_{name}", {}).get("calls", 0) for name in names)

        return {
            "commands": stats["total_commands_processed"],
            "script calls": calls("evalsha"),
            # Of tasks by their queue, time and status.
            "list commands": calls("sadd", "srem", "zadd", "zrem"),
            "socket reads": stats["total_reads_processed"],
            "server CPU": cpu["used_cpu_user"] + cpu["used_cpu_sys"],
        }

    @contextmanager
    def _measured(
        self, command: list[str], output: int, added: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        ours = ("ORBITER_", "OTEL_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        environment |= added or {}
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(command, stdout=output, stderr=log, env=environment, cwd=HERE)  # noqa: S603
        try:
            pin(process.pid, self.measured_core)
            yield process
        finally:
            end(process)

    def _log_end(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-2000:]


@contextmanager
def open_machine() -> Iterator[Machine]:
    """Start a Redis that writes nothing to disk, and choose the cores.

    Raises:
        BenchmarkError: redis-server is missing or does not start.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise BenchmarkError("redis-server is not installed: apt-get install redis-server")
    with tempfile.TemporaryDirectory(prefix="orbiter-bench-") as name:
        directory, port = Path(name), free_port()
        command = [
            program,
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            # As the role redis sets it, for the floors as well.
            "--stream-node-max-bytes",
            "1024",
            "--dir",
            name,
        ]
        with (directory / "redis.log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603
        client = redis.Redis(port=port, decode_responses=True)
        try:
            server_core, measured_core = _cores()
            pin(server.pid, server_core)
            _wait_for_answer(server, client, directory / "redis.log")
            yield Machine(f"redis://127.0.0.1:{port}/0", client, server_core, measured_core, directory)
        finally:
            client.close()
            end(server)


def worker_loop(machine: Machine) -> str:
    """Ask a worker what kind of event loop it has."""
    with machine.worker() as process:
        machine.wait_ready(process)
        asyncio.run(_submit(machine.url, "loop-kind"))
        machine.wait(process, "first task has ended", lambda: machine.client.xlen(DEFAULT_QUEUE) == 0)
    return asyncio.run(_result(machine.url, "loop-kind"))


async def _submit(url: str, task_id: str) -> None:
    broker = TaskBroker(url)
    await broker.connect()
    await broker.submit(payload("loop_kind", task_id))
    await broker.disconnect()


async def _result(url: str, task_id: str) -> str:
    store = TaskStore(url)
    await store.connect()
    task = await store.get_status(task_id)
    await store.disconnect()
    if task is None or task.result is None:
        raise BenchmarkError(f"the first task failed: {task and task.error}")
    return str(task.result["output"])


def payload(target: str, task_id: str, size: int = 1) -> TaskPayload:
    """Return a task that runs one of :mod:`benchmarks.targets`; some 230 bytes of JSON, and ``size`` of input."""
    config = {"runtime": "callable", "target": f"benchmarks.targets:{target}"}
    return TaskPayload(task_id=task_id, agent_config=config, input="x" * size, created_at=time.time())


def pin(pid: int, *cores: int | None) -> None:
    """Keep a process (0: this one) and the threads it will have on one core, or on these."""
    if wanted := {core for core in cores if core is not None}:
        os.sched_setaffinity(pid, wanted)


def end(process: subprocess.Popen[bytes]) -> None:
    """Make sure that a process is gone: asked first, then killed."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _exit_status(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"a floor did not end within {PATIENCE:g} s") from None


def _cores() -> tuple[int | None, int | None]:
    """Return two cores: the first and the last that we may use, as neighbours are often threads of one core."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[-1]) if len(cores) > 1 else (None, None)


def free_port() -> int:
    """Return a TCP port of the loopback interface on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_answer(server: subprocess.Popen[bytes], client: redis.Redis, log: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            client.ping()
        except redis.ConnectionError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"redis-server did not start:\n{log.read_text()}") from None
            time.sleep(0.02)
        else:
            return
