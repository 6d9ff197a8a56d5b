"""WorkerSettings: sizes with a unit, and settings that must go together."""

from __future__ import annotations

from typing import Any

import pytest

from orbiter.distributed.errors import SettingsError
from orbiter.distributed.settings import WorkerSettings


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (5, 5),
        ("500", 500),
        ("400M", 400_000_000),
        ("400mb", 400_000_000),
        ("2G", 2_000_000_000),
        ("1.5 GiB", 1_610_612_736),
        ("64Ki", 65_536),
        ("0", 0),
    ],
)
def test_size_may_have_a_unit(size: Any, count: int) -> None:
    assert WorkerSettings.of(max_rss_per_process=size).max_rss_per_process == count


@pytest.mark.parametrize("size", ["", "M", "12X", "-1", "-5M", "1e9", "0x10", "4 0 M", "1.5"])
def test_size_that_is_none_is_refused(size: str) -> None:
    with pytest.raises(SettingsError, match="max_rss_per_process: "):
        WorkerSettings.of(max_rss_per_process=size)


def test_more_processes_than_tasks_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"--processes.*--concurrency"):
        WorkerSettings.of(processes=5, concurrency=4)
    assert WorkerSettings.of(processes=4, concurrency=4).processes == 4


@pytest.mark.parametrize("seconds", [0, -1, 1e300, float("inf"), float("nan"), "soon", 31_536_001])
def test_longest_time_of_tasks_has_an_end(seconds: Any) -> None:
    with pytest.raises(SettingsError, match="max_task_timeout: "):
        WorkerSettings.of(max_task_timeout=seconds)


def test_isolation_is_nothing_by_default_where_a_program_embeds_a_worker() -> None:
    settings = WorkerSettings.of()
    assert (settings.isolation, settings.processes, settings.max_tasks_per_process) == ("none", 1, 0)
    assert (settings.max_rss_per_process, settings.stall_timeout) == (350_000_000, 30.0)
