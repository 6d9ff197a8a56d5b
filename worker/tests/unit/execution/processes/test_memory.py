"""Memory of real processes, as /proc has it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from orbiter.distributed.execution.processes import memory
from orbiter.distributed.execution.processes.memory import resident, resident_by_session

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")

GROWN = 30_000_000
# Its child grows, too; both say so, and wait for the end of their input.
PARENT = f"""
import os, sys
pid = os.fork()
held = b"x" * {GROWN}
os.write(1, b"+")
os.read(0, 1)
"""


@contextmanager
def family() -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a session and has a child in it, both grown."""
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            said = b""
            while len(said) < 2:
                said += os.read(process.stdout.fileno(), 2)
            yield process
        finally:
            process.stdin.close()


def test_session_is_weighed_with_what_its_leader_has_started() -> None:
    with family() as process:
        alone = resident(process.pid)
        assert alone == pytest.approx(psutil.Process(process.pid).memory_info().rss, rel=0.05)
        assert alone > GROWN
        found = resident_by_session([process.pid, os.getpid() * 1000])
        assert found[process.pid] > alone + GROWN
        assert found[os.getpid() * 1000] == 0


def test_process_that_is_gone_weighs_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert resident(process.pid) == 0
    assert resident_by_session([process.pid]) == {process.pid: 0}


def test_zombie_weighs_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert resident(process.pid) == 0
    assert resident_by_session([process.pid]) == {process.pid: 0}
    process.wait()


def test_nothing_is_weighed_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> list[str]:
        raise FileNotFoundError(path)

    monkeypatch.setattr(memory.os, "listdir", fail)
    assert resident_by_session([os.getpid()]) == {os.getpid(): 0}
    assert resident("none") == 0
