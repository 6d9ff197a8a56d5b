"""The benchmarks run and say what they measured; how fast anything is, is not looked at here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import WORKER_DIRECTORY, environment


def benchmarks(*arguments: str, module: str = "benchmarks") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment(),
        cwd=WORKER_DIRECTORY,
        check=False,
    )


def test_quick_drain_measures_ours_beside_the_floor(tmp_path: Path):
    file = tmp_path / "bench.json"
    done = benchmarks("drain", "--quick", "--json", str(file))
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert (report["quick"], report["tasks"], list(report["benchmarks"])) == (True, 500, ["drain"])
    assert report["machine"]["loop"] in {"asyncio", "uvloop"}
    rows = {row["name"].removeprefix("drain: "): row for row in report["benchmarks"]["drain"]}
    assert {"rate", "commands", "script calls", "socket reads", "memory at start", "memory at end"} <= rows.keys()
    for name, row in rows.items():
        assert row["ours"] > 0, name
        assert len(row["rounds"]["ours"]) == 1, name
        assert name in done.stdout
    rate = rows["rate"]
    assert rate["ratio"] == rate["ours"] / rate["floor"]
    # The floor is what it claims to be: a read a batch, and HSET, XACK, XDEL a task.
    assert 3.0 < rows["commands"]["floor"] < 3.5
    assert rows["socket reads"]["floor"] < 0.2


@pytest.mark.nightly
def test_quick_temporal_measures_both_executors_and_worker_memory(tmp_path: Path):
    file = tmp_path / "bench.json"
    done = benchmarks("temporal", "--quick", "--json", str(file))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(file.read_text())["benchmarks"]["temporal"]}
    # Which executor ran each of them the benchmark sees for itself.
    for name in ("20 tasks at once", "submit to end, p50", "submit to end, p99"):
        row = rows[f"temporal: {name}"]
        assert min(row["ours"], row["floor"]) > 0, name
        assert row["ratio"] == row["ours"] / row["floor"], name
    assert len([name for name in rows if "memory of both" in name]) == 4


def test_unknown_benchmark_is_a_usage_error_that_names_the_known_ones():
    done = benchmarks("speed")
    assert done.returncode == 2
    assert "'drain', 'idle', 'submit', 'metrics', 'isolation', 'events', 'agents', 'memory', " in done.stderr
    assert "'listings', 'overview', 'shutdown', 'pages', 'temporal'" in done.stderr


@pytest.mark.nightly
def test_quick_events_memory_and_listings_measure_what_readers_and_operators_wait_for(tmp_path: Path):
    file = tmp_path / "bench.json"
    done = benchmarks("events", "agents", "memory", "listings", "--quick", "--tasks", "200", "--json", str(file))
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())["benchmarks"]
    rows = {name: {row["name"]: row["ours"] for row in rows} for name, rows in found.items()}
    assert all(value > 0 for names in rows.values() for value in names.values())
    assert rows["memory"]["memory: an event"] < 800
    assert rows["memory"]["memory: a worker's heartbeat"] < 1_500
    shown = [name for name in rows["listings"] if "memory" in name]
    # The command's own, and not its parent's; twice what it takes.
    assert [name for name in shown if not 20 < rows["listings"][name] < 100] == []


@pytest.mark.nightly
def test_peers_measure_ours_in_a_worker_and_in_its_executor_process(tmp_path: Path):
    file = tmp_path / "peers.json"
    options = ("--tasks", "300", "--waits", "12", "--rounds", "1", "--patience", "60", "--json", str(file))
    names = ("ours, isolated", "ours, lease of 3 s", "floor")
    done = benchmarks(str(tmp_path), *names, *options, module="benchmarks.peers")
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert list(report["rounds"]) == list(names[:2])
    isolated, short = report["rounds"].values()
    assert [len(values) for values in isolated.values()] == [1, 1, 1, 1, 1]
    assert all(value > 0 for [value] in isolated.values())
    # A worker that is killed keeps its tasks until its lease has run out.
    [[once], [soon]] = (values["killed to running again, s"] for values in (isolated, short))
    assert 20 < once < 60
    assert soon < 10
    assert {row["name"] for row in report["floor"]} >= {"idle: submit to start, p50", "client: submit"}
    assert all(row["ratio"] > 0 for row in report["floor"])


def test_an_unknown_peer_is_a_usage_error_that_names_the_known_ones(tmp_path: Path):
    done = benchmarks(str(tmp_path), "celery", module="benchmarks.peers")
    assert done.returncode == 2
    assert "bullmq, dramatiq, taskiq, huey, streaq, saq" in done.stderr


@pytest.mark.nightly
def test_quick_metrics_drains_with_readers_and_without(tmp_path: Path):
    file = tmp_path / "bench.json"
    done = benchmarks("metrics", "--quick", "--json", str(file))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(file.read_text())["benchmarks"]["metrics"]}
    assert [name.partition(",")[0] for name in rows] == ["metrics: rate", "metrics: CPU", "metrics: counting / all CPU"]
    for name, row in rows.items():
        assert row["ours"] > 0, name
        assert row["ratio"] == row["ours"] / row["floor"], name


def test_quick_overview_measures_what_nobody_looks_at(tmp_path: Path):
    file = tmp_path / "bench.json"
    done = benchmarks("overview", "--quick", "--json", str(file))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(file.read_text())["benchmarks"]["overview"]}
    counting, lists = rows["overview: counting / all CPU"], rows["overview: commands for lists / all"]
    assert 0 < counting["ours"] < counting["floor"]
    # A task's end is put on one list. What submitted it is not the worker's.
    assert 1 <= lists["ours"] < 1.2
    assert lists["ours"] < lists["floor"]


def test_quick_pages_measures_every_page_and_what_it_keeps(tmp_path: Path):
    file = tmp_path / "bench.json"
    done = benchmarks("pages", "--quick", "--json", str(file))
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())["benchmarks"]["pages"]
    rows = {row["name"].removeprefix("pages: "): row["ours"] for row in found}
    shown = {name.partition(",")[0] for name in rows if name.endswith("p95")}
    assert shown == {"fleet", "queue", "tasks", "task", "errors", "dead", "usage", "alerts", "actions"}
    assert all(rows[name] > 0 for name in rows if name.endswith("p95"))
    # A window of a thousand tasks, whatever there is beside it.
    assert 1000 <= rows["commands of Redis for one, at most"] < 1500
    (grown,) = (row for name, row in rows.items() if "growth" in name)
    assert grown < 50
