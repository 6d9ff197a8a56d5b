"""The end of `make test` says why a test has failed: pytest runs some, tools/reasons.py reads what it prints."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from terminal import CHECKOUT

FAILING = """
import asyncio
import pytest

def test_well(): pass

def deep(number):
    raise ValueError(f"number {number}")

def test_value():
    print("E   printed")
    deep(7)

def test_value_long():
    assert list(range(100)) == list(range(1, 101)), "\\n".join(f"line {n}" for n in range(30))

@pytest.mark.parametrize("text", ["a - b", "c::d"])
class TestGiven:
    def test_chain(self, text):
        try:
            1 / 0
        except ZeroDivisionError as error:
            raise LookupError(text) from error

async def fails(number):
    try:
        deep(number)
    except ValueError as error:
        raise LookupError(f"task {number}\\n  of two") from error

def test_group():
    async def both():
        async with asyncio.TaskGroup() as group:
            group.create_task(fails(1))
            group.create_task(fails(2))
    asyncio.run(both())

def test_nested():
    raise ExceptionGroup("out", [ExceptionGroup("in", [ValueError("innermost")]), ValueError("another")])

@pytest.fixture
def up():
    raise OSError("at setup")

@pytest.fixture
def down():
    yield
    raise OSError("at teardown")

def test_up(up): pass

def test_down(down): assert down
"""


def said_of(log):
    """Return what the tool says, by test."""
    command = [sys.executable, CHECKOUT / "tools" / "reasons.py", log]
    printed = subprocess.run(command, check=True, text=True, capture_output=True).stdout
    said, test = {}, ""
    for line in printed.splitlines():
        if line.startswith(" "):
            said[test].append(re.sub(r"\.py:\d+$", ".py:LINE", line[4:]))
        else:
            test = line.replace("test_failing.py::", "")
            assert test not in said
            said[test] = []
    return said


@pytest.mark.parametrize("options", [(), ("-n", "2"), ("--tb=short",), ("--color=yes",)], ids=str)
def test_every_failed_test_is_told_with_its_innermost_error(tmp_path, options):
    (tmp_path / "test_failing.py").write_text(FAILING)
    (tmp_path / "test_broken.py").write_text("import no_such_module\n")
    log = tmp_path / "log"
    command = [sys.executable, "-m", "pytest", "-ra", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    with log.open("w") as output:
        # As by make test, whose output says more than pytest's.
        print("FAILED to do something else", file=output, flush=True)
        subprocess.run([*command, *options], cwd=tmp_path, stdout=output, check=False)

    said = said_of(log)

    assert said.pop("FAILED to do something else") == []
    long = said.pop("FAILED test_value_long")
    assert long[:2] == ["AssertionError: line 0", "  line 1"]
    assert "..." in long
    assert len(long) == 12
    assert said.pop("ERROR test_broken.py")[-1] == "ModuleNotFoundError: No module named 'no_such_module'"
    assert said == {
        "FAILED test_value": ["ValueError: number 7"],
        "FAILED TestGiven::test_chain[a - b]": ["LookupError: a - b"],
        "FAILED TestGiven::test_chain[c::d]": ["LookupError: c::d"],
        "FAILED test_group": [
            *("in fails, test_failing.py:LINE", "LookupError: task 1", "  of two"),
            *("in fails, test_failing.py:LINE", "LookupError: task 2", "  of two"),
        ],
        "FAILED test_nested": ["ValueError: innermost", "ValueError: another"],
        "ERROR test_up": ["OSError: at setup"],
        "FAILED test_down": ["assert None"],
        "ERROR test_down": ["OSError: at teardown"],
    }


def test_nothing_is_said_where_nothing_failed(tmp_path):
    (tmp_path / "log").write_text("== 3 passed in 0.1s ==\n")
    assert said_of(tmp_path / "log") == {}
