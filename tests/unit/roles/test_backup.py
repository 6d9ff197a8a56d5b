"""An AOF that is copied while Redis writes it: its open end goes, and damage is not taken for one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "roles/redis/files/backup.py"
COMMAND = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n"


@pytest.fixture(scope="module")
def backup():
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("backup", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def files(tmp_path):
    """Return where Redis' own file is, and its copy."""
    return tmp_path / "own.aof", tmp_path / "copy.aof"


@pytest.mark.parametrize("torn", [1, 10, len(COMMAND) - 1])
def test_a_command_that_was_just_being_written_is_taken_whole_or_not_at_all(backup, files, torn):
    own, copy = files
    copy.write_bytes(COMMAND * 3 + COMMAND[:torn])
    own.write_bytes(COMMAND * 5 + COMMAND[:torn])  # by now
    backup.cut_open_end(own, copy)
    assert copy.read_bytes() == COMMAND * 5


def test_a_whole_one_stays_as_it_is(backup, files):
    own, copy = files
    copy.write_bytes(COMMAND * 3)
    own.write_bytes(COMMAND * 4)
    backup.cut_open_end(own, copy)
    assert copy.read_bytes() == COMMAND * 3


@pytest.mark.parametrize("damaged", [COMMAND * 2 + b"XX" + COMMAND * 2, COMMAND * 2 + COMMAND[:-2]])
def test_what_does_not_become_whole_stays_for_the_checker_to_refuse(backup, files, damaged, monkeypatch):
    own, copy = files
    copy.write_bytes(damaged)
    own.write_bytes(damaged)
    monkeypatch.setattr(backup, "OPEN_END", 0.5)
    backup.cut_open_end(own, copy)
    assert copy.read_bytes() == damaged
    with pytest.raises(SystemExit, match="no good backup"):
        backup.checked("redis-check-aof", copy)
