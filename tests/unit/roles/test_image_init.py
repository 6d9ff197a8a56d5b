"""A container's first process hides its environment, hands signals on, reaps orphans, and ends as its command does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INIT = Path(__file__).parents[3] / "roles/image/files/init.py"


@pytest.fixture
def init() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts a command below the init; all that it started ends with the test, or after 30 s."""
    started: list[tuple[subprocess.Popen[str], threading.Timer]] = []

    def end(one: subprocess.Popen[str]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)

    def start(*command: str, **options: Any) -> subprocess.Popen[str]:
        # As text, and with Debian's own Python: another user may not look into root's home.
        words = ["/usr/bin/python3", "-I", "-c", INIT.read_text(), *command]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        one = subprocess.Popen(words, text=True, start_new_session=True, **pipes, **options)
        started.append((one, threading.Timer(30, end, [one])))
        started[-1][1].start()
        return one

    yield start
    for one, timer in started:
        timer.cancel()
        end(one)
        one.communicate()


def wait_until(true: Callable[[], object], *, within: float = 20) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143)]
)
def test_init_ends_as_its_command_does(init, script, code):
    assert init("sh", "-c", script).wait(20) == code


def test_init_says_what_it_cannot_start(init):
    one = init("no-such-command", "argument")
    assert one.wait(20) == 127
    assert one.stderr.read() == "no-such-command: No such file or directory\n"


def test_signals_reach_the_command(init):
    names = ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2")
    traps = "".join(f"trap 'echo {name}' {name}; " for name in names)
    one = init("sh", "-c", f"{traps} echo ready; while :; do sleep 0.01; done")
    assert one.stdout.readline() == "ready\n"
    for name in names:
        os.kill(one.pid, signal.Signals[f"SIG{name}"])
        assert one.stdout.readline() == f"{name}\n"


def test_command_starts_without_blocked_signals(init):
    one = init("sh", "-c", "grep '^SigBlk' /proc/self/status")
    assert one.wait(20) == 0
    blocked = [line.split()[1] for line in one.stdout.read().splitlines() if line.startswith("SigBlk")]
    assert blocked == ["0000000000000000"]


def test_command_starts_without_ignored_signals(init):
    one = init("sh", "-c", "grep -E '^SigIgn' /proc/self/status")
    assert int(one.communicate()[0].split()[1], 16) & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGTERM - 1) == 0


def test_orphans_are_reaped(init):
    # Their parents, the shells in parentheses, end before they do.
    one = init("sh", "-c", "for i in 1 2 3; do (exec >&- 2>&-; sleep 60 & echo $! >&3); done 3>&1; echo; exec sleep 60")
    orphans = []
    while line := one.stdout.readline().strip():
        orphans.append(Path(f"/proc/{line}"))
    assert len(orphans) == 3
    wait_until(lambda: all(f"PPid:\t{one.pid}\n" in (orphan / "status").read_text() for orphan in orphans))
    for orphan in orphans:
        os.kill(int(orphan.name), signal.SIGKILL)
    wait_until(lambda: not any(orphan.exists() for orphan in orphans))
    assert one.poll() is None


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to look as another user")
def test_environment_cannot_be_read_by_the_same_user(init):
    user = 65534
    script = (
        "until grep -q s3cret /proc/$$/environ; do :; done; "  # its own
        'for file in environ mem maps; do head -c 1 /proc/$PPID/$file >/dev/null 2>&1 && echo "read $file"; done; '
        "echo looked"
    )
    one = init("sh", "-c", script, env={"PATH": "/usr/bin:/bin", "PASSWORD": "s3cret"}, user=user, group=user)
    assert one.communicate(timeout=20)[0] == "looked\n"
    assert one.returncode == 0
