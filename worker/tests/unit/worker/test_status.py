"""Status: what a worker shows of itself."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from orbiter.distributed.execution.interface import ExecutorHealth
from orbiter.distributed.execution.metering import TaskMeter
from orbiter.distributed.execution.running import RunTable
from orbiter.distributed.execution.slot import Slot
from orbiter.distributed.settings import WorkerSettings
from orbiter.distributed.telemetry import metrics
from orbiter.distributed.worker.commands import Commands
from orbiter.distributed.worker.flow import ClaimFlow
from orbiter.distributed.worker.status import State, Status
from tests.unit.scripted import ScriptedExecutor, claim, publisher, queue_name


class Shown:
    """A status, with what it is made of."""

    def __init__(self) -> None:
        self.settings = WorkerSettings.of(worker_id="w1", queue=queue_name(), concurrency=4, heartbeat_ttl=9)
        self.flow, self.executor, self.commands = ClaimFlow(4, lease=9), ScriptedExecutor(), Commands()
        self.meter = TaskMeter(self.settings.queue, "w1")
        self.status = Status(self.settings, self.flow, self.executor, self.meter, self.commands)

    def hold(self, table: RunTable, task_id: str) -> None:
        table.add(Slot(claim(task_id, entry=f"{task_id}-0"), publisher().log(task_id, 1), 0, started=0))


def test_status_beats_at_once_when_the_state_changes() -> None:
    shown = Shown()
    shown.status.change(State.DRAINING)
    assert shown.commands.beat.is_set()
    assert shown.status.visible is State.DRAINING


def test_status_is_degraded_only_while_the_worker_runs() -> None:
    shown = Shown()
    shown.executor.degraded = True
    assert shown.status.visible is State.STARTING
    shown.status.change(State.RUNNING)
    assert shown.status.visible is State.DEGRADED


async def test_status_is_degraded_while_a_step_fails_for_longer_than_a_lease() -> None:
    shown, now = Shown(), 100.0
    shown.flow = ClaimFlow(4, lease=9, clock=lambda: now)
    shown.status = Status(shown.settings, shown.flow, shown.executor, shown.meter, shown.commands)
    shown.status.change(State.RUNNING)
    for _ in range(12):
        await shown.flow.troubles.failed("renew", ResponseError("no right"))
        now += 1
    beat = shown.status.heartbeat()
    assert (shown.status.visible, beat["state"]) == (State.DEGRADED, "degraded")
    assert "no right" in beat["problem"]
    assert "no right" in shown.status.problem
    assert metrics.DEGRADED.values()[shown.settings.queue,] == 1
    shown.flow.troubles.worked("renew")
    assert shown.status.heartbeat()["state"] == "running"
    assert metrics.DEGRADED.values()[shown.settings.queue,] == 0


async def test_status_counts_slots_and_what_the_executor_runs_besides() -> None:
    shown, besides = Shown(), RunTable()
    shown.executor.tables = (besides,)
    shown.hold(shown.flow.runs, "1")
    shown.hold(besides, "2")
    shown.flow.runs.completed, besides.completed = 3, 4
    shown.flow.runs.failed, besides.failed = 1, 0
    assert shown.status.running == ["1", "2"]
    assert (shown.status.completed, shown.status.failed) == (7, 1)


async def test_heartbeat_has_the_fields_of_0_1_and_ours() -> None:
    shown = Shown()
    shown.hold(shown.flow.runs, "1")
    shown.hold(shown.flow.runs, "2")
    shown.meter.recorded("failed", "a")
    shown.status.change(State.QUIET)
    beat = shown.status.heartbeat()
    assert {name: beat[name] for name in ("status", "current_task_id", "tasks_processed", "tasks_failed")} == {
        "status": "running",
        "current_task_id": "2",
        "tasks_processed": "0",
        "tasks_failed": "0",
    }
    assert (beat["state"], beat["active"], beat["concurrency"]) == ("quiet", "2", "4")
    assert (beat["pid"], beat["heartbeat_ttl"], beat["drain_deadline"]) == (str(os.getpid()), "9", "")
    assert (beat["recent_failed"], beat["recent_completed"]) == ("1", "0")


async def test_heartbeat_and_metrics_tell_how_the_executor_is() -> None:
    shown = Shown()
    queue = shown.settings.queue
    shown.executor.state_of_health = ExecutorHealth(
        processes=2,
        rss_bytes=300,
        loop_lag_ms=1500,
        blocked_by="t1",
        threads=3,
        problem="its processes die",
        failed_imports=("jobs: no module",),
    )
    beat = shown.status.heartbeat()
    assert (beat["isolation"], beat["processes"], beat["rss_bytes"]) == ("none", "2", "300")
    assert beat["loop_lag_ms"] == "1500.0"
    assert (beat["blocked_by"], beat["abandoned_threads"], beat["problem"]) == ("t1", "3", "its processes die")
    assert json.loads(beat["failed_imports"]) == ["jobs: no module"]
    readings = (metrics.PROCESSES, metrics.MEMORY, metrics.LOOP_LAG, metrics.ABANDONED_THREADS)
    assert [gauge.values()[queue,] for gauge in readings] == [2, 300, pytest.approx(1.5), 3]


@pytest.mark.parametrize(("state", "told"), [(State.RUNNING, True), (State.DRAINING, False)], ids=str)
def test_heartbeat_tells_systemd_while_the_worker_serves(
    state: State, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        shown = Shown()
        shown.status.change(state)
        beat = shown.status.heartbeat()
        if told:
            assert manager.recv(1000).startswith(b"STATUS=running")
        else:
            with pytest.raises(BlockingIOError):
                manager.recv(1000)
    assert beat["current_task_id"] == ""
