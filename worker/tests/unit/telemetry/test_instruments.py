"""Counters, gauges and histograms in memory, and their Prometheus text."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orbiter.distributed.telemetry import instruments, metrics
from orbiter.distributed.telemetry.instruments import Counter, Gauge, Histogram
from orbiter.distributed.telemetry.prometheus import prometheus_text
from tests.support import wait_until


def _counter() -> Counter:
    return Counter("orbiter.test.things", "{thing}", "Things", ("queue", "agent"))


def test_a_counter_counts_by_its_attributes() -> None:
    counter = _counter()
    counter.add(1, "q", "a")
    counter.add(2, "q", "a")
    counter.add(5, "q", "b")
    assert counter.values() == {("q", "a"): 3, ("q", "b"): 5}


def test_agents_beyond_the_limit_are_counted_together() -> None:
    counter = _counter()
    for number in range(instruments.SERIES_LIMIT + 50):
        counter.add(1, "q", f"agent {number}")
    values = counter.values()
    assert len(values) == instruments.SERIES_LIMIT + 1
    assert values["q", "(other)"] == 50
    counter.add(1, "q", "agent 7")
    assert counter.values()["q", "agent 7"] == 2


def test_a_name_of_any_length_takes_little_room() -> None:
    counter = _counter()
    counter.add(1, "q", "x" * 10_000)
    counter.add(1, "q", "x" * 10_001)
    assert counter.values() == {("q", "x" * 100): 2}


@pytest.mark.parametrize("name", ["\x1b[31m", "a\ud83d", "a\nb 1", "\u202e", "\x00", "\x9b2J", 'a"} 1\r'])
def test_a_label_is_printable_whatever_the_agent_is_called(name: str) -> None:
    counter = _counter()
    counter.add(1, "q", name)
    lines = prometheus_text([counter]).encode().decode().splitlines()
    assert len(lines) == 3
    assert [line for line in lines if not line.isprintable()] == []


def test_a_page_of_metrics_stays_short_whatever_agents_are_called() -> None:
    for instrument in metrics.INSTRUMENTS:
        instrument.clear()
    for number in range(5000):
        for record in (metrics.record_task_completed, metrics.record_task_failed, metrics.record_task_cancelled):
            times = {} if record is metrics.record_task_cancelled else {"duration": 1.0}
            record(task_id="", worker_id="", queue_name="q", agent_name=f"agent-{number}", **times)
        metrics.record_task_submitted(task_id="", queue_name="q", agent_name=f"agent-{number}")
        metrics.WAIT_TIME.record(1.0, "q", f"agent-{number}")
        metrics.DURATION.record(1.0, "q", "a", "failed", f"Error{number}")
    try:
        assert len(prometheus_text(metrics.INSTRUMENTS).splitlines()) < 3000
    finally:
        for instrument in metrics.INSTRUMENTS:
            instrument.clear()


async def test_a_reading_counts_only_as_long_as_it_is_valid() -> None:
    gauge = Gauge("orbiter.test.depth", "{task}", "Depth", ("queue",))
    gauge.set(10, "q", valid=60)
    gauge.set(10, "q", valid=60)
    assert gauge.values() == {("q",): 10}
    gauge.set(3, "q", valid=0.05)
    await wait_until(lambda: gauge.values() == {})


def test_a_histogram_counts_a_value_on_a_bound_below_it() -> None:
    histogram = Histogram("orbiter.test.time", "s", "Time", ("queue",))
    for value in (60, 60.001, 0, 99999):
        histogram.record(value, "q")
    (found,) = histogram.values().values()
    place = instruments.SECONDS_BOUNDS.index(60)
    assert (found.buckets[0], found.buckets[place], found.buckets[place + 1], found.buckets[-1]) == (1, 1, 1, 1)
    assert (found.count, found.total) == (4, pytest.approx(100119.001))


def test_several_values_at_once_count_like_one_after_another() -> None:
    heard: list[float] = []
    values = (0.25, 0.5, 99999.0)
    at_once, singly = (instruments.Distribution(also=heard.append) for _ in range(2))
    at_once.record_all(values)
    assert heard == list(values)
    for value in values:
        singly.record(value)
    assert at_once == singly


def test_the_prometheus_text_is_what_its_format_demands() -> None:
    counter = _counter()
    counter.add(1, 'q"1"', "a\\b\nc")
    counter.add(2, "q", "")
    histogram = Histogram("orbiter.test.time", "s", "Time", ("queue",))
    histogram.record(0.2, "q")
    lines = prometheus_text([counter, histogram, Gauge("orbiter.test.empty", "1", "Nothing", ())]).splitlines()
    assert lines[:4] == [
        "# HELP orbiter_test_things_total Things",
        "# TYPE orbiter_test_things_total counter",
        'orbiter_test_things_total{queue="q"} 2',
        'orbiter_test_things_total{queue="q\\"1\\"",agent="a\\\\b\\\\nc"} 1',
    ]
    assert "# TYPE orbiter_test_time_seconds histogram" in lines
    assert 'orbiter_test_time_seconds_bucket{queue="q",le="0.1"} 0' in lines
    assert 'orbiter_test_time_seconds_bucket{queue="q",le="0.25"} 1' in lines
    assert 'orbiter_test_time_seconds_bucket{queue="q",le="+Inf"} 1' in lines
    assert lines[-2:] == [
        'orbiter_test_time_seconds_sum{queue="q"} 0.2',
        'orbiter_test_time_seconds_count{queue="q"} 1',
    ]


def test_what_0_1_could_record_can_be_recorded_and_no_task_id_is_kept() -> None:
    metrics.record_task_submitted(task_id="t-1", queue_name="old")
    metrics.record_task_completed(task_id="t-1", worker_id="w", duration=1.5, wait_time=0.5)
    metrics.record_task_failed(task_id="t-1", worker_id="w", duration=1.5)
    metrics.record_task_cancelled(task_id="t-1", worker_id="w")
    for depth in (10, 10):
        metrics.record_queue_depth(depth=depth, queue_name="old")
    assert metrics.SUBMITTED.values()["old", ""] == 1
    assert metrics.COMPLETED.values()["", ""] == metrics.FAILED.values()["", ""] == 1
    assert metrics.CANCELLED.values()["", ""] == 1
    assert metrics.WAIT_TIME.values()["", ""].total == 0.5
    assert metrics.DURATION.values()["", "", "completed", ""].total == 1.5
    assert metrics.DEPTH.values()["old",] == 10
    assert "t-1" not in prometheus_text(metrics.INSTRUMENTS)


@pytest.mark.guide("Metrics", "in-memory fallback otherwise")
def test_without_opentelemetry_the_metrics_are_kept_in_memory() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
from orbiter.distributed.telemetry import metrics, tracing
from orbiter.distributed.worker import worker
from orbiter.distributed.telemetry.otel import exporting
with exporting("w"):
    metrics.record_task_submitted(task_id="t", queue_name="q")
assert not tracing.active()
print(metrics.SUBMITTED.values())
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.stdout.strip(), found.stderr) == ("{('q', ''): 1}", "")
