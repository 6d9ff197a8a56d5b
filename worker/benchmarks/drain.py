"""How fast one worker process with 16 slots works off tasks that do nothing, and what that costs the server."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from benchmarks import floor
from benchmarks.machine import BenchmarkError, payload
from benchmarks.report import Measure
from orbiter.distributed import TaskBroker, TaskPayload, TaskStore
from orbiter.distributed.models import DEFAULT_QUEUE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.machine import Machine
    from orbiter.distributed import TaskResult

SLOTS = 16
# Of input, beside the small payload that all other rows are of.
LARGE = 8_000
PAGE = 1000


def measure(machine: Machine, tasks: int) -> list[Measure]:
    """Drain the same tasks by the floors and by workers. The first tenth warms up and does not count."""
    warm = tasks // 10
    raw, plain = (_floor(machine, tasks, warm, plain=plain) for plain in (False, True))
    ours = drained(machine, tasks, warm, "--isolation", "none")
    raw_large = _floor(machine, tasks, warm, size=LARGE)
    large = drained(machine, tasks, warm, "--isolation", "none", size=LARGE)
    return [
        Measure("drain: rate", "tasks/s", 1 / ours["seconds"], 1 / raw["seconds"], "≥ 0.8"),
        Measure("drain: …, beside redis-py alone", "tasks/s", 1 / ours["seconds"], 1 / plain["seconds"], "≥ 0.8"),
        Measure("drain: …, payloads of 8 KB", "tasks/s", 1 / large["seconds"], 1 / raw_large["seconds"], "≥ 0.8"),
        Measure("drain: two workers on two cores, beside one", "tasks/s", _two(machine, tasks), 1 / ours["seconds"]),
        Measure("drain: CPU of the process", "µs/task", ours["cpu"] * 1e6, raw["cpu"] * 1e6),
        Measure(
            "drain: CPU of redis-server", "µs/task", ours["server CPU"] / tasks * 1e6, raw["server CPU"] / tasks * 1e6
        ),
        *(
            Measure(f"drain: {name}", "per task", ours[name] / tasks, raw[name] / tasks)
            for name in ("commands", "script calls", "socket reads")
        ),
        Measure("drain: memory at start", "MB", ours["rss_start"] / 1e6),
        Measure("drain: memory at end", "MB", ours["rss_end"] / 1e6),
    ]


def _tasks(tasks: int, warm: int, size: int = 1) -> list[TaskPayload]:
    """Return the tasks; the one after the warm-up and the last one gauge the process."""
    gauges = {warm, tasks - 1}
    return [payload("gauge" if number in gauges else "nothing", f"task-{number}", size) for number in range(tasks)]


def _two(machine: Machine, tasks: int) -> float:
    """Return the rate at which two workers drain a queue together, both on both cores, which Redis needs, too."""
    machine.client.flushall()
    asyncio.run(_submit(machine.url, _tasks(tasks, 0)))
    options = ("--concurrency", str(SLOTS), "--isolation", "none")
    with machine.another_worker("one", *options) as one, machine.another_worker("two", *options):
        machine.wait(one, "a tenth is done", lambda: machine.client.xlen(DEFAULT_QUEUE) <= tasks * 0.9)
        began, left = time.monotonic(), machine.client.xlen(DEFAULT_QUEUE)
        machine.wait(one, "queue is drained", lambda: machine.client.xlen(DEFAULT_QUEUE) == 0)
        return float(left / (time.monotonic() - began))


def _floor(machine: Machine, tasks: int, warm: int, *, plain: bool = False, size: int = 1) -> dict[str, float]:
    machine.client.flushall()
    machine.client.xgroup_create(floor.QUEUE, floor.GROUP, id="0", mkstream=True)
    with machine.client.pipeline(transaction=False) as pipeline:
        for task in _tasks(tasks, warm, size):
            pipeline.xadd(floor.QUEUE, {"payload": task.to_json()})
        pipeline.execute()
    before = machine.counters()
    measured: dict[str, float] = machine.floor("drain", tasks, warm, plain=plain)
    return measured | _difference(before, machine.counters())


def drained(
    machine: Machine,
    tasks: int,
    warm: int,
    *options: str,
    environment: Mapping[str, str] | None = None,
    size: int = 1,
) -> dict[str, float]:
    """Let a worker with these options drain the queue; return what that took, a task."""
    machine.client.flushall()
    payloads = _tasks(tasks, warm, size)
    asyncio.run(_submit(machine.url, payloads))
    before, looks = machine.counters(), 0

    def drained() -> bool:
        nonlocal looks
        looks += 1
        return machine.client.xlen(DEFAULT_QUEUE) == 0

    with machine.worker("--concurrency", str(SLOTS), *options, environment=environment) as process:
        machine.wait(process, "queue is drained", drained)
        counted = _difference(before, machine.counters())
    for name in ("commands", "socket reads"):
        counted[name] -= looks
    return counted | asyncio.run(_outcome(machine.url, [task.task_id for task in payloads], warm))


async def _submit(url: str, payloads: list[TaskPayload]) -> None:
    broker = TaskBroker(url)
    await broker.connect()
    await broker.submit_many(payloads)
    await broker.disconnect()


async def _outcome(url: str, ids: list[str], warm: int) -> dict[str, float]:
    """Return what the tasks' records tell; their times are of the server's clock."""
    store = TaskStore(url)
    await store.connect()
    found: list[TaskResult | None] = []
    for at in range(0, len(ids), PAGE):
        found += await store.get_many(ids[at : at + PAGE])
    await store.disconnect()
    ended = sorted(task.completed_at or 0.0 for task in found if task and task.status == "completed")
    if len(ended) != len(ids):
        raise BenchmarkError(f"only {len(ended)} of {len(ids)} tasks completed")
    start, end = _gauged(found[warm]), _gauged(found[-1])
    counted = len(ids) - warm
    return {
        "seconds": (ended[-1] - ended[warm - 1]) / counted,
        "cpu": (end["cpu"] - start["cpu"]) / counted,
        "rss_start": start["rss"],
        "rss_end": end["rss"],
    }


def _gauged(task: TaskResult | None) -> dict[str, Any]:
    return (task.result if task else None) or {}


def _difference(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: after[name] - count for name, count in before.items()}
