"""Summing up many tasks, without a server."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbiter.cli.waiting import percentile, print_summary, progress, summarize, wait_for_tasks
from orbiter.distributed.models import TaskResult, TaskStatus


def _task(number: int, status: TaskStatus = TaskStatus.COMPLETED) -> TaskResult:
    return TaskResult(
        task_id=f"t{number}", status=status, created_at=100.0, started_at=100.0 + number, completed_at=101.0 + number
    )


def test_the_summary_counts_every_task_once() -> None:
    records = [*(_task(number) for number in range(9)), _task(9, TaskStatus.FAILED), None]
    summary = summarize(records)
    assert (summary["tasks"], summary["completed"], summary["failed"], summary["missing"]) == (11, 9, 1, 1)
    assert summary["seconds"] == pytest.approx(10)
    assert summary["tasks_per_second"] == pytest.approx(1)
    assert (summary["wait_p50"], summary["wait_p95"]) == (4, 9)


def test_the_summary_adds_up_what_runs_cost(capsys: pytest.CaptureFixture[str]) -> None:
    records = [TaskResult(retries=1, crashes=2, losses=3, handoffs=4), TaskResult(losses=1)]
    print_summary(summarize(records), records)
    assert "  Extra: 1 retries, 2 crashes, 4 losses, 4 hand-offs\n" in capsys.readouterr().out


def test_a_summary_of_nothing_known_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(summarize([None]), [None])
    assert "0 completed, 0 failed, 1 missing" in capsys.readouterr().out


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_one_of_the_values_and_high_enough(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9


class _Store:
    """Ends one more task at each look."""

    def __init__(self) -> None:
        self.looks = 0

    async def get_many(self, task_ids: list[str]) -> list[TaskResult | None]:
        self.looks += 1
        ended = [TaskStatus.COMPLETED if int(name[1:]) < self.looks else TaskStatus.RUNNING for name in task_ids]
        return [_task(int(name[1:]), status) for name, status in zip(task_ids, ended, strict=True)]


async def test_waiting_ends_with_the_last_task_and_keeps_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orbiter.cli.waiting._PAUSE", 0)
    monkeypatch.setattr("orbiter.cli.waiting._BATCH", 2)
    shown: list[Counter[str]] = []
    records = await wait_for_tasks(_Store(), ["t4", "t0", "t1"], lambda counts: shown.append(Counter(counts)))  # type: ignore[arg-type]
    assert [record.task_id for record in records if record] == ["t4", "t0", "t1"]
    assert shown[-1] == Counter(completed=3)
    assert all(sum(counts.values()) == 3 for counts in shown)


def test_without_a_terminal_progress_is_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbiter.cli.waiting._LINE_EVERY", 0)
    with progress(3) as show:
        show(Counter(completed=1, running=2))
        show(Counter(completed=1, running=2))
        show(Counter(completed=2, failed=1))
    assert capsys.readouterr().err.splitlines() == [
        "1/3 ended, 1 completed, 2 running",
        "3/3 ended, 2 completed, 1 failed",
    ]
