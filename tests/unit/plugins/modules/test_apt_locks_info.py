"""apt_locks_info names who keeps others from installing."""

from __future__ import annotations

import subprocess
import sys

import pytest

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
input()
"""


@pytest.fixture
def holder(tmp_path):
    """Return a process that has a lock, as apt has its own."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "held")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.communicate("\n")


@pytest.mark.parametrize("check", [False, True])
def test_process_that_has_a_lock_is_named(module, tmp_path, holder, check):
    (tmp_path / "free").touch()
    answer = module("apt_locks_info", check=check, paths=[str(tmp_path / name) for name in ("held", "free", "none")])
    assert answer["changed"] is False
    (found,) = answer["holders"]
    assert (found["pid"], found["paths"]) == (holder.pid, [str(tmp_path / "held")])
    assert found["command"].startswith(sys.executable)
    assert f"process {holder.pid} ({sys.executable}" in answer["sentence"]


def test_nobody_is_named_where_all_are_free(module, tmp_path):
    (tmp_path / "free").touch()
    answer = module("apt_locks_info", paths=[str(tmp_path / "free")])
    assert answer["holders"] == []
    assert answer["sentence"].startswith("nobody")
