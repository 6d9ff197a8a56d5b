"""worker_health: a heartbeat as others read it, whatever it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from orbiter.distributed.broker.worker_health import WorkerHealth, worker_health

ISOLATED = {
    "isolation": "process",
    "processes": "2",
    "rss_bytes": "123456789",
    "loop_lag_ms": "1500.5",
    "blocked_by": "t1",
    "abandoned_threads": "3",
    "problem": "its processes die",
    "failed_imports": '["jobs: no module", "more: hangs"]',
    "clock_skew_ms": "-1200.5",
    "machine_id": "5e1f",
    "unit": "orbiter-worker@1.service",
}


def fields_of(worker: WorkerHealth) -> dict[str, Any]:
    return {name: getattr(worker, name) for name in ISOLATED}


def test_heartbeat_tells_how_a_workers_processes_are() -> None:
    assert fields_of(worker_health("w", ISOLATED, now=0)) == {
        "isolation": "process",
        "processes": 2,
        "rss_bytes": 123456789,
        "loop_lag_ms": 1500.5,
        "blocked_by": "t1",
        "abandoned_threads": 3,
        "problem": "its processes die",
        "failed_imports": ("jobs: no module", "more: hangs"),
        "clock_skew_ms": -1200.5,
        "machine_id": "5e1f",
        "unit": "orbiter-worker@1.service",
    }


@pytest.mark.parametrize(
    "fields", [{}, dict.fromkeys(ISOLATED, ""), {"failed_imports": "{}", "rss_bytes": "much", "loop_lag_ms": "inf"}]
)
def test_what_a_heartbeat_does_not_say_has_its_default(fields: Mapping[str, str]) -> None:
    assert fields_of(worker_health("w", fields, now=0)) == fields_of(WorkerHealth("w", "running"))
