"""The log of ``orbiter dev``: who said what, when several speak at once."""

from __future__ import annotations

import io

from rich.console import Console

from orbiter.cli.live_log import LiveLog
from orbiter.distributed.models import StatusEvent, TextEvent

DONE = StatusEvent(status="completed")


def log() -> tuple[LiveLog, io.StringIO]:
    output = io.StringIO()
    return LiveLog(Console(file=output, width=1000, markup=False, highlight=False)), output


def test_a_task_alone_speaks_in_its_own_words() -> None:
    live, output = log()
    for text in ("one ", "two\nthr", "ee"):
        live.event("a" * 32, TextEvent(text=text))
    live.event("a" * 32, DONE)
    assert output.getvalue() == f"task {'a' * 32}\none two\nthree\nstatus completed\n"


def test_tasks_that_speak_at_once_are_told_apart_to_the_last_line() -> None:
    live, output = log()
    live.event("a" * 32, TextEvent(text="one "))
    live.event("b" * 32, TextEvent(text="uno\ndos"))
    live.event("a" * 32, TextEvent(text="two"))
    live.event("b" * 32, DONE)
    live.event("a" * 32, TextEvent(text="three"))
    live.event("a" * 32, DONE)
    assert output.getvalue().splitlines() == [
        f"task {'a' * 32}",
        "one ",
        f"task {'b' * 32}",
        "bbbbbbbb | uno",
        "bbbbbbbb | dos",
        "aaaaaaaa | two",
        "bbbbbbbb | status completed",
        "aaaaaaaa | three",
        "status completed",
    ]


def test_log_lines_end_an_open_line_and_cannot_rewrite_the_terminal() -> None:
    live, output = log()
    live.event("a", TextEvent(text="one\x1b[2J"))
    live.worker("a\x1b[2Jb")
    live.print("ready")
    assert output.getvalue() == "task a\none\\x1b[2J\nworker | a\\x1b[2Jb\nready\n"


def test_another_run_of_a_task_is_announced() -> None:
    live, output = log()
    live.event("a", TextEvent(text="one", attempt=1))
    live.event("a", TextEvent(text="one", attempt=2))
    assert output.getvalue() == "task a\none\nattempt 2\none"
