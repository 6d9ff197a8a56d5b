"""What a worker tells Prometheus on its health port, and a collector by OTLP."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orbiter.distributed.telemetry import metrics
from orbiter.distributed.telemetry.prometheus import CONTENT_TYPE, prometheus_text
from tests import keys
from tests.fleet import QUEUE, Fleet, job_payload, working
from tests.otlp_receiver import Receiver, receiving
from tests.support import PATIENCE, free_port, slowness, wait_until, worker_process

# Name, type and unit of everything that a worker can say, the guide's seven first.
METRICS = {
    "orbiter.distributed.tasks.submitted": ("counter", "{task}"),
    "orbiter.distributed.tasks.completed": ("counter", "{task}"),
    "orbiter.distributed.tasks.failed": ("counter", "{task}"),
    "orbiter.distributed.tasks.cancelled": ("counter", "{task}"),
    "orbiter.distributed.queue.depth": ("gauge", "{task}"),
    "orbiter.distributed.task.duration": ("histogram", "s"),
    "orbiter.distributed.task.wait_time": ("histogram", "s"),
    "orbiter.distributed.tasks.running": ("gauge", "{task}"),
    "orbiter.distributed.tasks.retried": ("counter", "{task}"),
    "orbiter.distributed.tasks.reclaimed": ("counter", "{task}"),
    "orbiter.distributed.tasks.handed_back": ("counter", "{task}"),
    "orbiter.distributed.tasks.dead_lettered": ("counter", "{task}"),
    "orbiter.distributed.leases.lost": ("counter", "{lease}"),
    "orbiter.distributed.redis.disruptions": ("counter", "{error}"),
    "orbiter.distributed.queue.pending": ("gauge", "{task}"),
    "orbiter.distributed.queue.delayed": ("gauge", "{task}"),
    "orbiter.distributed.queue.dead_letters": ("gauge", "{task}"),
    "orbiter.distributed.queue.oldest_wait": ("gauge", "s"),
    "orbiter.distributed.worker.processes": ("gauge", "{process}"),
    "orbiter.distributed.worker.memory": ("gauge", "By"),
    "orbiter.distributed.worker.loop_lag": ("gauge", "s"),
    "orbiter.distributed.worker.abandoned_threads": ("gauge", "{thread}"),
    "orbiter.distributed.worker.degraded": ("gauge", "{worker}"),
    "orbiter.distributed.queue.mended": ("counter", "{key}"),
    "orbiter.distributed.executor.losses": ("counter", "{process}"),
    "orbiter.distributed.redis.evicting": ("gauge", "{server}"),
    "orbiter.distributed.redis.unsaved": ("gauge", "{server}"),
    "orbiter.distributed.redis.unsaved_replicas": ("gauge", "{server}"),
    "orbiter.distributed.redis.memory_share": ("gauge", "1"),
}
Q, A = "orbiter.distributed.queue_name", "orbiter.distributed.agent_name"
CAUSE = "orbiter.distributed.cause"
STATUS, ERROR = "orbiter.distributed.task_status", "error.type"
# Nothing to tell where no executor process was lost.
LOSSES = "orbiter.distributed.executor.losses"
# The other is its submitter's to tell.
UNTOLD = {"orbiter.distributed.tasks.submitted", LOSSES}
OF_AGENTS = {"tasks.submitted", "tasks.completed", "tasks.failed", "tasks.cancelled", "task.wait_time"}


def _attributes_of(name: str) -> set[str]:
    """Return which attributes a metric has, all of them somewhere."""
    short = name.removeprefix("orbiter.distributed.")
    if short == "executor.losses":
        return {Q, CAUSE}
    return {Q, A, STATUS, ERROR} if short == "task.duration" else {Q, A} if short in OF_AGENTS else {Q}


def _label(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _prometheus_name(name: str) -> str:
    kind, unit = METRICS[name]
    return _label(name) + {"s": "_seconds", "By": "_bytes"}.get(unit, "") + ("_total" if kind == "counter" else "")


@contextmanager
def _told(fleet: Fleet, log: Path, *options: str, **env: str) -> Iterator[str]:
    """Run a worker that is asked for its metrics; give their address."""
    port = free_port()
    # A lease that no busy machine loses: none is to be lost.
    options = ("--health-port", str(port), "--heartbeat-ttl", "6", "--retry-backoff", "0", *options)
    with worker_process(fleet.url, "teller", log, *options, **env):
        yield f"http://127.0.0.1:{port}/metrics"


def _scrape(url: str) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """Return samples by name and labels."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.headers["Content-Type"] == CONTENT_TYPE
        text = answer.read().decode()
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            found[f"TYPE {name}"] = {frozenset({("type", kind)}): 1}
        elif not line.startswith("#"):
            name, labels, value = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line).groups()  # type: ignore[union-attr]
            found.setdefault(name, {})[frozenset(re.findall(r'(\w+)="([^"]*)"', labels or ""))] = float(value)
    return found


def _value(found: dict[str, Any], name: str, **labels: str) -> float:
    return float(found.get(name, {}).get(frozenset({Q: QUEUE, **labels}.items()), 0))


async def _some_of_everything(fleet: Fleet, log: Path) -> list[str]:
    """Let tasks complete, fail, be retried and be cancelled."""
    tasks = [await fleet.submit("echo", "hello") for _ in range(3)]
    tasks += [await fleet.submit("fail", max_retries=1)]
    cancelled = await fleet.submit("sleep", metadata={"seconds": 600, "log": str(log)})
    # Its record says so a moment before it runs: what is cancelled in between has taken no time.
    await wait_until(log.exists)
    await fleet.broker.cancel(cancelled)
    tasks.append(cancelled)
    for task_id in tasks:
        await fleet.ends(task_id)
    return tasks


def _as_prometheus(labels: dict[str, str]) -> dict[str, str]:
    return {_label(name): value for name, value in labels.items()}


@pytest.mark.guide("Metrics", "the seven metrics, in both executors: names, types, from `/metrics`")
async def test_the_health_port_tells_prometheus_what_became_of_tasks(
    fleet: Fleet, tmp_path: Path, executor: dict[str, str]
) -> None:
    with _told(fleet, tmp_path / "log", "--concurrency", "4", **executor) as url:
        tasks = await _some_of_everything(fleet, tmp_path / "runs")
        duration = "orbiter_distributed_task_duration_seconds"

        def counted() -> dict[str, Any]:
            found = _scrape(url)
            done = {key: found.get(f"orbiter_distributed_tasks_{key}_total", {}) for key in ("completed", "cancelled")}
            # Readings of the queue and of Redis are taken now and then, and count for a few seconds only.
            read = all(f"TYPE orbiter_distributed_{name}" in found for name in ("queue_depth", "redis_evicting"))
            return found if read and all(sum(rows.values()) for rows in done.values()) else {}

        found = await wait_until(counted)
        text = str(found)

        def value(name: str, **labels: str) -> float:
            return found[name][frozenset(_as_prometheus({Q: QUEUE, **labels}).items())]

        assert value("orbiter_distributed_tasks_completed_total", **{A: "echo"}) == 3
        assert value("orbiter_distributed_tasks_failed_total", **{A: "fail"}) == 1
        assert value("orbiter_distributed_tasks_failed_total", **{A: "echo"}) == 0
        assert value("orbiter_distributed_tasks_cancelled_total", **{A: "sleep"}) == 1
        assert value("orbiter_distributed_tasks_retried_total") == 1
        assert value("orbiter_distributed_tasks_dead_lettered_total") == 1
        assert value("orbiter_distributed_tasks_running") == 0
        for name in ("tasks_reclaimed", "tasks_handed_back", "leases_lost", "redis_disruptions"):
            assert value(f"orbiter_distributed_{name}_total") == 0
        assert value(f"{duration}_count", **{A: "echo", STATUS: "completed"}) == 3
        assert value(f"{duration}_count", **{A: "fail", STATUS: "failed", ERROR: "RuntimeError"}) == 1
        assert value(f"{duration}_count", **{A: "fail", STATUS: "retrying", ERROR: "RuntimeError"}) == 1
        assert value(f"{duration}_count", **{A: "sleep", STATUS: "cancelled"}) == 1
        assert value("orbiter_distributed_task_wait_time_seconds_count", **{A: "fail"}) == 2
        for name, (kind, _) in METRICS.items():
            if name not in UNTOLD:
                assert found[f"TYPE {_prometheus_name(name)}"] == {frozenset({("type", kind)}): 1}, name
                parts = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
                rows = [row for part in parts for row in found[_prometheus_name(name) + part]]
                labels = {label for row in rows for label, _ in row} - {"le"}
                assert labels == {_label(attribute) for attribute in _attributes_of(name)}, name
        assert {name for name in found if not name.startswith("TYPE orbiter_distributed_")} == {
            _prometheus_name(name) + part
            for name, (kind, _) in METRICS.items()
            if name not in UNTOLD
            for part in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
        }
        assert not [task_id for task_id in tasks if task_id in text]


def test_prometheus_accepts_the_text(tmp_path: Path) -> None:
    for instrument in metrics.INSTRUMENTS:
        instrument.cell(*(f'a "{name}"' for name in instrument.attributes))
    program = shutil.which("promtool")
    assert program is not None, "promtool is not installed: apt-get install prometheus"
    text = prometheus_text(metrics.INSTRUMENTS)
    checked = subprocess.run([program, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.guide("Metrics", "OpenTelemetry when available: names, types, units, attributes")
async def test_opentelemetrys_own_variables_send_every_metric_by_otlp(
    fleet: Fleet, tmp_path: Path, executor: dict[str, str]
) -> None:
    with receiving() as receiver:
        env = executor | {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_METRIC_EXPORT_INTERVAL": "100"}
        env |= {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test", "OTEL_TRACES_EXPORTER": "none"}
        with worker_process(fleet.url, "w1", tmp_path / "log", "--heartbeat-ttl", "1", "--retry-backoff", "0", **env):
            await fleet.broker.submit(job_payload("submits", fleet.url))
            tasks = await _some_of_everything(fleet, tmp_path / "runs")
            await wait_until(lambda: receiver.points("orbiter.distributed.tasks.submitted"))
            await wait_until(lambda: receiver.metrics.keys() >= METRICS.keys() - {LOSSES})
            await wait_until(lambda: sum(point.as_int for _, point in receiver.points(f"{TASKS}.cancelled")) == 1)
        _check_otlp(receiver, tasks)


TASKS = "orbiter.distributed.tasks"


def _check_otlp(receiver: Receiver, tasks: list[str]) -> None:
    for name, (kind, unit) in METRICS.items():
        if name == LOSSES:
            continue
        metric = receiver.metrics[name]
        assert (metric.unit, bool(metric.description)) == (unit, True), name
        assert metric.WhichOneof("data") == {"counter": "sum"}.get(kind, kind), name
        if kind == "counter":
            assert metric.sum.is_monotonic
            assert metric.sum.aggregation_temporality == 2
        for labels, _ in receiver.points(name):
            assert labels[Q] == QUEUE
            assert not set(labels.values()) & set(tasks)
        said = {attribute for labels, _ in receiver.points(name) for attribute in labels}
        assert said == _attributes_of(name), name
    completed = {labels[A]: point.as_int for labels, point in receiver.points(f"{TASKS}.completed")}
    assert completed["echo"] == 3
    durations = {(labels[A], labels[STATUS]): point for labels, point in receiver.points(f"{TASKS[:-1]}.duration")}
    assert durations["echo", "completed"].count == 3
    assert len(durations["echo", "completed"].bucket_counts) == len(durations["echo", "completed"].explicit_bounds) + 1
    assert receiver.resources[0]["service.name"] == "orbiter-worker"
    assert receiver.resources[0]["service.instance.id"] == "w1"
    assert receiver.resources[0]["deployment.environment"] == "test"
    assert (receiver.spans, receiver.unknown) == ([], [])


async def test_a_collector_that_is_away_does_not_hold_up_the_end(fleet: Fleet, tmp_path: Path) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_METRIC_EXPORT_INTERVAL": "100"}
    with worker_process(fleet.url, "w1", tmp_path / "log", **env) as process:
        await fleet.ends(await fleet.submit("echo"))
        began = time.monotonic()
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert (time.monotonic() - began) / slowness() < 3


@pytest.mark.guide("Metrics", "`queue.depth`")
async def test_the_depth_is_read_also_while_every_worker_is_busy(fleet: Fleet) -> None:
    async with working(fleet, heartbeat_ttl=1, drain_timeout=0.2):
        await fleet.submit("sleep", metadata={"seconds": 600})
        await wait_until(lambda: metrics.RUNNING.values()[QUEUE,] == 1)
        metrics.DEPTH.clear()
        await fleet.submit_many("echo", 7)
        await wait_until(lambda: metrics.DEPTH.values().get((QUEUE,)) == 7)
        assert metrics.PENDING.values()[QUEUE,] == 1
        await wait_until(lambda: metrics.OLDEST.values()[QUEUE,] > 0.3)
    assert metrics.HANDED_BACK.values()[QUEUE,] >= 1


async def test_delayed_tasks_and_dead_letters_stand_beside_the_depth(fleet: Fleet) -> None:
    await fleet.submit("echo", not_before=time.time() + 600)
    await fleet.client.xadd(keys.tagged(QUEUE, "dead"), {"task_id": "x"})
    async with working(fleet, heartbeat_ttl=1):
        await wait_until(lambda: metrics.DELAYED.values().get((QUEUE,)) == 1)
        assert (metrics.DEAD_LETTERS.values()[QUEUE,], metrics.DEPTH.values()[QUEUE,]) == (1, 0)


@pytest.mark.guide("Metrics", "`tasks.submitted`")
async def test_a_submission_is_counted_once_however_often_it_is_repeated(fleet: Fleet) -> None:
    metrics.SUBMITTED.clear()
    await fleet.broker.submit_many([job_payload("echo", task_id=f"t{n}") for n in range(3)])
    await fleet.broker.submit_many([job_payload("echo", task_id=f"t{n}") for n in range(4)])
    assert metrics.SUBMITTED.values() == {(QUEUE, "echo"): 4}


async def test_tasks_of_a_dead_worker_are_counted_as_reclaimed(fleet: Fleet) -> None:
    before = metrics.RECLAIMED.values().get((QUEUE,), 0)
    await fleet.submit_many("echo", 3)
    await fleet.broker.fetch("gone", 3)
    async with working(fleet, heartbeat_ttl=1, concurrency=4):
        await wait_until(lambda: metrics.RECLAIMED.values()[QUEUE,] == before + 3)


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_the_checks_are_served_as_before(fleet: Fleet, tmp_path: Path, path: str) -> None:
    with (
        _told(fleet, tmp_path / "log") as url,
        urllib.request.urlopen(url.replace("/metrics", path), timeout=30) as answer,
    ):
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
