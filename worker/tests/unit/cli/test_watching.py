"""``--watch`` may stand alone, before other words."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from orbiter.cli import main
from orbiter.cli.watching import _with_seconds


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["--watch"], ["--watch=2"]),
        (["--watch", "5"], ["--watch", "5"]),
        (["--watch", "0.5", "t1"], ["--watch", "0.5", "t1"]),
        (["--watch", "t1"], ["--watch=2", "t1"]),
        (["--watch", "--json"], ["--watch=2", "--json"]),
        (["t1", "--watch=3"], ["t1", "--watch=3"]),
        (["--", "--watch"], ["--", "--watch"]),
        (["--watch", "--", "5"], ["--watch=2", "--", "5"]),
        ([], []),
    ],
)
def test_seconds_may_be_left_out(given: list[str], read: list[str]) -> None:
    assert _with_seconds(given) == read


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "often"])
def test_an_odd_number_of_seconds_is_refused(seconds: str) -> None:
    command = ["queue", "info", "--redis-url", "redis://127.0.0.1:1", f"--watch={seconds}"]
    result = CliRunner().invoke(main, command, prog_name="orbiter")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "--watch" in line
