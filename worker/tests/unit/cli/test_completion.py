"""What the shell gets when somebody presses tab."""

from __future__ import annotations

import socket
import time

import pytest
from click.testing import CliRunner

from orbiter.cli import main
from tests.support import slowness


def complete(line: str, **env: str | None) -> list[str]:
    """Ask as bash does; the last word of the line is the incomplete one."""
    words = line.split(" ")
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_ORBITER_COMPLETE": "bash_complete"}
    result = CliRunner(env={"ORBITER_REDIS_URL": None} | asked | env).invoke(main, [], prog_name="orbiter")
    assert result.stderr == ""
    return [row.partition(",")[2] for row in result.stdout.splitlines() if row]


@pytest.mark.parametrize(
    ("shell", "sign"), [("bash", "complete -o nosort -F"), ("zsh", "#compdef orbiter"), ("fish", "complete --no-files")]
)
def test_the_script_comes_with_how_to_install_it(shell: str, sign: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell], prog_name="orbiter")
    assert result.exit_code == 0
    assert sign in result.stdout
    assert f"# Install, once: orbiter completion {shell} > " in result.stdout
    assert shell != "zsh" or result.stdout.startswith("#compdef orbiter\n")


def test_an_unknown_shell_names_the_known_ones() -> None:
    result = CliRunner().invoke(main, ["completion", "csh"], prog_name="orbiter")
    assert result.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in result.stderr


def test_commands_and_options_complete() -> None:
    assert {"task", "worker", "queue", "config"} <= set(complete("orbiter "))
    assert complete("orbiter worker dr") == ["drain"]
    assert complete("orbiter task dead re") == ["retry"]
    assert complete("orbiter task submit --not") == ["--not-before"]


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "nonsense", None])
def test_without_redis_no_id_is_offered_and_nothing_is_said(url: str | None) -> None:
    for command in ("task status ", "worker drain ", "task dead show "):
        assert complete(f"orbiter {command}", ORBITER_REDIS_URL=url) == []


def test_a_redis_that_does_not_answer_costs_half_a_second() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        complete("orbiter task status ")  # what is imported once is not counted
        began = time.monotonic()
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        assert complete("orbiter task status ", ORBITER_REDIS_URL=url) == []
        assert (time.monotonic() - began) / slowness() < 1.5
