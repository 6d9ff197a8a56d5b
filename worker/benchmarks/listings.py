"""What listings cost where there is much that they do not show: the commands, from their start to their end."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks.machine import BenchmarkError, pin
from benchmarks.report import Measure
from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.broker.records import ended_score
from orbiter.distributed.models import DEFAULT_QUEUE

if TYPE_CHECKING:
    from benchmarks.machine import Machine

WORKERS, SHOWN, PAGE = 200, 50, 5_000
OTHER = "other"
KEYS = Keys()
# ``orbiter`` as it is, and the most memory that it had; what its parent is told of it counts the parent's own, too.
COMMAND = """
import atexit, runpy, sys
def tell():
    with open("/proc/self/status") as status:
        sys.stderr.write(next(line for line in status if line.startswith("VmHWM")))
atexit.register(tell)
runpy.run_module("orbiter.cli", run_name="__main__", alter_sys=True)
"""


def measure(machine: Machine, tasks: int) -> list[Measure]:
    """List 50 tasks among so many that have completed, and 200 workers among four times as many keys."""
    machine.client.flushall()
    _finished(machine, "completed", DEFAULT_QUEUE, tasks)
    _finished(machine, "failed", OTHER, SHOWN)
    work(machine)
    for at in range(0, 3 * tasks, PAGE):
        machine.client.mset({f"another:{number}": "" for number in range(at, at + PAGE)})
    rows = []
    for name, arguments, limit in (
        ("task list --status failed", ("task", "list", "--status", "failed"), "≤ 0.5 s"),
        ("task list --queue other", ("task", "list", "--queue", OTHER), "≤ 0.5 s"),
        ("worker list", ("worker", "list"), "≤ 0.4 s"),
    ):
        seconds, memory = _run(machine, *arguments)
        rows.append(Measure(f"listings: {name}", "s", seconds, wanted=limit))
        rows.append(Measure(f"listings: {name}, memory", "MB", memory / 1e6, wanted="≤ 60 MB"))
    return rows


def _run(machine: Machine, *arguments: str) -> tuple[float, int]:
    """Return the seconds that a command took, and the most memory that it had, bytes."""
    command = [sys.executable, "-c", COMMAND, *arguments, "--json", "--redis-url", machine.url]
    began = time.monotonic()
    with (machine.directory / "listing").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE)  # noqa: S603
        pin(process.pid, machine.measured_core)
        _, told = process.communicate()
    took = time.monotonic() - began
    if process.returncode != 0:
        raise BenchmarkError(f"orbiter {' '.join(arguments)} failed:\n{told.decode(errors='replace')}")
    return took, int(told.split()[-2]) * 1024


def _finished(machine: Machine, status: str, queue: str, number: int) -> None:
    """Write finished tasks, as a worker leaves them."""
    now = int(time.time() * 1000)
    of_queue = KEYS.of_queue(queue)
    for at in range(0, number, PAGE):
        ids = [f"{status}-{task}" for task in range(at, min(at + PAGE, number))]
        fields: dict[Any, Any] = {
            "status": status,
            "queue": queue,
            "agent_name": "nothing",
            "created_at": str(now / 1000),
            "started_at": str(now / 1000),
            "completed_at": str(now / 1000),
            "worker_id": "w",
            "retries": "0",
        }
        with machine.client.pipeline(transaction=False) as pipeline:
            for task_id in ids:
                pipeline.hset(KEYS.task(task_id), mapping=fields | {"task_id": task_id})
            pipeline.sadd(KEYS.index, *ids)
            for name in (KEYS.by_time, of_queue.tasks):
                pipeline.zadd(name, dict.fromkeys(ids, now))
            pipeline.zadd(KEYS.ended, dict.fromkeys(ids, ended_score(status, now)))
            pipeline.execute()


def work(machine: Machine) -> None:
    """Write the heartbeats of a fleet."""
    now = time.time()
    with machine.client.pipeline(transaction=False) as pipeline:
        for number in range(WORKERS):
            beat: dict[Any, Any] = {
                "status": "running",
                "hostname": "host",
                "version": "1",
                "last_heartbeat": str(now),
            }
            beat |= {"version": "1", "queue": DEFAULT_QUEUE, "state": "running", "concurrency": "16"}
            pipeline.hset(KEYS.worker(f"w{number}"), mapping=beat)
            pipeline.zadd(KEYS.fleet, {f"w{number}": now * 1000})
        pipeline.execute()
