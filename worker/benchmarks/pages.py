"""What the dashboard's pages take where a million tasks have ended and 200 workers run, and what memory that takes."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from benchmarks.listings import KEYS, PAGE, work
from benchmarks.machine import BenchmarkError, free_port
from benchmarks.report import Measure
from benchmarks.targets import resident
from orbiter.distributed.broker.records import ended_score
from orbiter.distributed.limits import MINUTES
from orbiter.distributed.models import DEFAULT_QUEUE, TaskPayload

if TYPE_CHECKING:
    from benchmarks.machine import Machine

AGENTS, KINDS = ("support", "triage", "billing"), ("RateLimited", "InvoiceError")
MODELS = ("openai:gpt-4o", "own:small")
# One task of so many has failed.
FAILED = 50
LETTERS = 500
DAYS = 35
DAY = 86_400
# Pages, and filters that find nothing in the window that one look has.
PATHS = {
    "fleet": "/fleet",
    "queue, an hour": "/queue?span=hour",
    "queue, a day": "/queue?span=day",
    "tasks": "/tasks",
    "tasks, failed": "/tasks?status=failed",
    "tasks, of an agent that has none": "/tasks?agent=nobody",
    "tasks, failed, of a kind that there is not": "/tasks?status=failed&error_type=none",
    "task": "/task?id=t{last}",
    "errors": "/errors",
    "dead": "/dead",
    "usage": "/usage?days=30",
    "alerts": "/alerts",
    "actions": "/actions",
}


@dataclass(slots=True)
class Pages:
    """A browser's connection to the dashboard, which stays open."""

    port: int
    connection: http.client.HTTPConnection | None = None

    def get(self, path: str) -> float:
        """Return the seconds from asking for a page to its last byte."""
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        began = time.perf_counter()
        try:
            self.connection.request("GET", path)
            with self.connection.getresponse() as answer:
                answer.read()
        except (OSError, http.client.HTTPException):
            self.connection = None
            raise
        took = time.perf_counter() - began
        if answer.status != 200:
            raise BenchmarkError(f"{path} was answered with {answer.status}")
        return took

    def answers(self) -> bool:
        """Tell whether somebody is there."""
        try:
            return self.get("/healthz") > 0
        except OSError:
            return False


def measure(machine: Machine, tasks: int, views: int) -> list[Measure]:
    """Look at every page, one after the other, until there were so many views."""
    machine.client.flushall()
    _finished(machine, tasks)
    work(machine)
    _counted(machine)
    paths = {name: path.format(last=tasks - 1) for name, path in PATHS.items()}
    pages = Pages(free_port())
    took: dict[str, list[float]] = {name: [] for name in paths}
    with machine.dashboard(pages.port) as process:
        machine.wait(process, "the dashboard answers", pages.answers)
        before = resident(process.pid)
        commands = max(_commands(machine, pages, path) for path in paths.values())
        for _ in range(-(-views // len(paths))):
            for name, path in paths.items():
                took[name].append(pages.get(path))
        grown = resident(process.pid) - before
    rows = [
        Measure(f"pages: {name}, p95", "ms", quantiles(seconds, n=20)[-1] * 1e3, wanted="≤ 200 ms")
        for name, seconds in took.items()
    ]
    count = sum(map(len, took.values()))
    return [
        *rows,
        Measure("pages: commands of Redis for one, at most", "", commands, wanted="≤ 1 500"),
        Measure(f"pages: growth of memory by {count} views", "MB", grown / 1e6, wanted="≤ 50 MB"),
    ]


def _commands(machine: Machine, pages: Pages, path: str) -> int:
    """Return how many commands one view takes."""

    def processed() -> int:
        return int(machine.client.info("stats")["total_commands_processed"])

    before = processed()
    pages.get(path)
    return processed() - before - 1


def _finished(machine: Machine, number: int) -> None:
    """Write finished tasks of a day, as a worker leaves them, the last of them the newest; and dead letters."""
    now, of_queue = int(time.time() * 1000), KEYS.of_queue(DEFAULT_QUEUE)
    letters = min(LETTERS, number // FAILED)
    for start in range(0, number, PAGE):
        tasks = range(start, min(start + PAGE, number))
        times = {f"t{task}": now - (number - task) * DAY * 1000 // (2 * number) for task in tasks}
        with machine.client.pipeline(transaction=False) as pipeline:
            for task, (task_id, at) in zip(tasks, times.items(), strict=True):
                pipeline.hset(KEYS.task(task_id), mapping=_record(task, at / 1000))
                if task % FAILED == 0 and task // FAILED < letters:
                    payload = TaskPayload(task_id=task_id, input="x" * 1000).to_json()
                    letter: dict[Any, Any] = {"task_id": task_id, "reason": "429", "payload": payload}
                    pipeline.xadd(of_queue.dead, letter)
            pipeline.sadd(KEYS.index, *times)
            for name in (KEYS.by_time, of_queue.tasks):
                pipeline.zadd(name, times)
            ended = zip(tasks, times.items(), strict=True)
            pipeline.zadd(KEYS.ended, {task_id: ended_score(_status(task), at) for task, (task_id, at) in ended})
            pipeline.execute()


def _status(task: int) -> str:
    return "completed" if task % FAILED else "failed"


def _record(task: int, at: float) -> dict[Any, Any]:
    record = {
        "task_id": f"t{task}",
        "status": _status(task),
        "queue": DEFAULT_QUEUE,
        "agent_name": AGENTS[task % len(AGENTS)],
        "created_at": f"{at - 2:.3f}",
        "started_at": f"{at - 1:.3f}",
        "completed_at": f"{at:.3f}",
        "worker_id": f"w{task % 200}",
        "attempt": "1",
        "retries": "0",
    }
    if task % FAILED:
        return record | {"result": json.dumps({"output": "x" * 40, "usage": {"input_tokens": 9, "output_tokens": 9}})}
    return record | {"error": "429 Too Many Requests", "error_type": KINDS[task // FAILED % len(KINDS)]}


def _counted(machine: Machine) -> None:
    """Write what workers count: each minute of a day, and five weeks of usage; and what people did."""
    now, of_queue = int(time.time()), KEYS.of_queue(DEFAULT_QUEUE)
    last = now // 60
    counts = "7 9 8 1 1 2 3 1 1 1 0 0 0 0 0 0 0"
    ring: dict[Any, Any] = {minute % MINUTES: f"{minute} {counts}" for minute in range(last - MINUTES + 1, last + 1)}
    with machine.client.pipeline(transaction=False) as pipeline:
        pipeline.hset(of_queue.minutes, mapping=ring)
        for day in range(now // DAY - DAYS, now // DAY + 1):
            used: dict[Any, Any] = {
                f"{json.dumps([model, agent], separators=(',', ':'))} {kind}": 1000
                for model in MODELS
                for agent in AGENTS
                for kind in ("requests", "input", "output")
            }
            pipeline.hset(f"{of_queue.usage}{day}", mapping=used)
        for number in range(100):
            deploy: dict[Any, Any] = {"user": "anna", "controller": "laptop", "playbook": "site", "token": f"t{number}"}
            pipeline.xadd(KEYS.deploys, {**deploy, "release": "1.0.0", "outcome": "ended"})
            action: dict[Any, Any] = {"who": "anna", "where": "10.0.0.1", "what": "retry", "target": f"t{number}"}
            pipeline.xadd(KEYS.audit, {**action, "outcome": "runs again"})
        pipeline.execute()
