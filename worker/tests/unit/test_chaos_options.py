"""What `python -m chaos` is asked for has to be there: it says so before it plays anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.__main__ import main
from chaos.releases import sources_of
from click.testing import CliRunner


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--topology", "sentinel", "--faults", "reset"], ["reset", "sentinel", "kill master"]),
        (["--faults", "kill master"], ["kill master", "single"]),
        (["--faults", "no such"], ["no such"]),
        (["--faults", "roll worker"], ["--older"]),
        (["--older", "HEAD"], ["roll worker"]),
        (["--topology", "elsewhere"], ["elsewhere", "cluster"]),
        (["--seed", "x"], ["--seed x"]),
    ],
)
def test_what_cannot_be_played_is_named(options: list[str], named: list[str]) -> None:
    said = CliRunner().invoke(main, options)
    assert said.exit_code == 2, said.output
    assert [word for word in named if word not in said.output] == []


def test_sources_of_another_commit_are_written_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    assert (sources_of("HEAD", tmp_path) / "orbiter" / "cli").is_dir()
    with pytest.raises(ValueError, match="'nowhere'"):
        sources_of("nowhere", tmp_path)
