"""``orbiter worker list``: what its table says of a worker, without a server."""

from __future__ import annotations

import pytest

from orbiter.cli.listing import Choice
from orbiter.cli.render import print_view
from orbiter.cli.worker import workers_view
from orbiter.distributed.broker.worker_health import WorkerHealth

ISOLATED = WorkerHealth(
    "w1",
    "running",
    version="1.2",
    queue="q",
    state="degraded",
    isolation="process",
    processes=2,
    rss_bytes=150 * 1024 * 1024,
    loop_lag_ms=1500,
    blocked_by="t1",
    abandoned_threads=3,
    problem="three tasks died alone in a row",
    failed_imports=("jobs: no module", "more: hangs"),
)


def cells(worker: WorkerHealth, capsys: pytest.CaptureFixture[str], *, wide: bool) -> dict[str, str]:
    print_view(workers_view([worker], Choice(wide=wide)))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    head, row = ([cell.strip() for cell in line.strip("│").split("│")] for line in rows)
    return dict(zip(head, row, strict=True))


def test_wide_table_shows_how_a_workers_processes_are(capsys: pytest.CaptureFixture[str]) -> None:
    shown = cells(ISOLATED, capsys, wide=True)
    assert list(shown.items())[8:] == [
        ("Version", "1.2"),
        ("Queue", "q"),
        ("Isolation", "process"),
        ("Processes", "2"),
        ("Memory", "150.0 MB"),
        ("Loop lag", "1.5s"),
        ("Blocked by", "t1"),
        ("Threads", "3"),
        ("Problem", "three tasks died alone in a row; import of jobs: no module; import of more: hangs"),
    ]
    assert shown["Status"] == "degraded"


@pytest.mark.parametrize(
    ("skew_ms", "told"),
    [(-600_000.0, "its clock is 10.0m behind Redis'"), (1001.0, "its clock is 1.0s ahead of Redis'"), (999.0, "-")],
)
def test_wide_table_tells_of_a_clock_that_is_wrong(
    capsys: pytest.CaptureFixture[str], skew_ms: float, told: str
) -> None:
    assert cells(WorkerHealth("w1", "running", clock_skew_ms=skew_ms), capsys, wide=True)["Problem"] == told


def test_table_says_why_a_worker_is_degraded(capsys: pytest.CaptureFixture[str]) -> None:
    shown = cells(ISOLATED, capsys, wide=False)
    assert shown["Status"] == "degraded: three tasks died alone in a row"
    assert "Problem" not in shown


def test_problem_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    odd = WorkerHealth("w1", "running", state="degraded", problem="\x1b[2J")
    for wide in (True, False):
        assert "\\x1b[2J" in str(cells(odd, capsys, wide=wide))


def test_worker_that_tells_nothing_of_its_processes_has_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    shown = cells(WorkerHealth("w1", "running"), capsys, wide=True)
    assert set(list(shown.values())[8:]) == {"-"}


def test_of_a_dead_worker_whose_heartbeat_is_gone_no_number_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    gone = cells(WorkerHealth("w1", "dead", alive=False, recorded=False), capsys, wide=False)
    assert [gone[name] for name in ("Tasks", "Failed", "Concurrency")] == ["-", "-", "-"]
    late = cells(WorkerHealth("w1", "dead", alive=False, tasks_processed=8, concurrency=4), capsys, wide=False)
    assert [late[name] for name in ("Tasks", "Failed", "Concurrency")] == ["8", "0", "4"]
