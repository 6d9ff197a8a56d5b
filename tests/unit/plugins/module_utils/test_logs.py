"""Log lines are read from what journalctl and docker write, and those about a task are found with their tracebacks."""

from __future__ import annotations

import json
import sys

import pytest
from ansible_collections.orbiter.fleet.plugins.module_utils import _logs
from ansible_collections.orbiter.fleet.plugins.module_utils._systemd import GateError

NOW = 1771324215.0  # 2026-02-17 10:30:15 UTC


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10 min ago", 600), ("1 day ago", 86400), ("2h", 7200), ("90 s", 90), ("3 Hours ago", 10800), ("0 s", 0)],
)
def test_a_time_ago_is_counted_from_now(text, seconds):
    assert _logs.moment(text, NOW) == NOW - seconds


@pytest.mark.parametrize("text", ["2026-02-17 10:30:15", "2026-02-17T10:30:15Z", " 2026-02-17T10:30:15 "])
def test_a_time_is_one_of_utc(text):
    assert _logs.moment(text, 0) == NOW


@pytest.mark.parametrize("text", ["", "yesterday", "10", "5 weeks ago", "2026-02-30", "-1 day ago"])
def test_what_is_no_time_is_refused_with_those_that_are(text):
    with pytest.raises(ValueError, match="10 min ago"):
        _logs.moment(text, NOW)


def row(message, unit="orbiter-worker@2.service", **fields):
    """Return a row as `journalctl --output=json` writes it."""
    entry = {"__REALTIME_TIMESTAMP": "1771324215250000", "MESSAGE": message, "_SYSTEMD_UNIT": unit, "PRIORITY": "6"}
    return json.dumps(entry | fields)


def test_a_row_of_the_journal_has_time_instance_level_and_text():
    assert _logs.of_journal(row("task completed task_id=a")) == [
        {"at": NOW + 0.25, "instance": "2", "level": "INFO", "text": "task completed task_id=a"}
    ]
    assert _logs.of_journal(row("claim failed", PRIORITY="4"))[0]["level"] == "WARNING"


def test_what_systemd_says_of_an_instance_is_that_instance_s():
    [found] = _logs.of_journal(row("Started.", "init.scope", UNIT="orbiter-worker@7.service"))
    assert found["instance"] == "7"


@pytest.mark.parametrize(
    ("message", "texts"),
    [([104, 105, 255], ["hi\ufffd"]), (["a", [98]], ["a", "b"]), (None, []), ("two\nlines", ["two", "lines"])],
)
def test_a_message_that_is_no_text_is_read(message, texts):
    assert [one["text"] for one in _logs.of_journal(row(message))] == texts


def test_a_row_of_a_container_has_its_time_once():
    own = "2026-02-17T10:30:15.250000001Z 2026-02-17 10:30:15.249Z WARNING claim failed error=x\n"
    assert _logs.of_container("1", own) == [
        {"at": pytest.approx(NOW + 0.25), "instance": "1", "level": "WARNING", "text": "claim failed error=x"}
    ]
    [printed] = _logs.of_container("1", "2026-02-17T10:30:15Z hello there task_id=a\n")
    assert (printed["level"], printed["text"]) == ("", "hello there task_id=a")
    [traceback] = _logs.of_container("1", "2026-02-17T10:30:15Z     File x\n")
    assert traceback["text"] == "    File x"
    assert _logs.of_container("1", "Error: No such container\n") == []


def lines(*pairs):
    return [_logs.line(NOW, instance, "INFO", text) for instance, text in pairs]


def test_lines_about_a_task_come_with_their_tracebacks_and_no_others():
    every = lines(
        ("1", "task failed task_id=ab"),
        ("2", "    of another instance"),
        ("1", "    Traceback"),
        ("1", "    ValueError"),
        ("1", "claim"),
        ("1", "    of another line"),
        ("1", 'said "ab"'),
    )
    found = [one["text"] for one in _logs.about("ab", every)]
    assert found == ["task failed task_id=ab", "    Traceback", "    ValueError", 'said "ab"']


def test_an_id_that_is_part_of_another_one_is_not_meant():
    every = lines(("1", "task_id=ab-1"), ("1", "task_id=xab"), ("1", "task_id=ab_2"), ("1", "task ab."))
    assert [one["text"] for one in _logs.about("ab", every)] == ["task ab."]
    assert list(_logs.about("a.", lines(("1", "task_id=ab")))) == []
    assert _logs.about("", every) is every


def written(tmp_path, text, code=0):
    """Return a command that writes a text and ends with a code."""
    script = tmp_path / "writes.py"
    script.write_text(f"import sys\nsys.stdout.write({text!r})\nsys.exit({code})\n")
    return [sys.executable, str(script)]


def test_of_a_command_s_lines_the_last_ones_are_kept(tmp_path):
    command = written(tmp_path, "".join(row(f"{number} task_id=t{number % 2}") + "\n" for number in range(10)))
    assert [one["text"][0] for one in _logs.last(command, _logs.of_journal, "", 3)] == ["7", "8", "9"]
    assert [one["text"][0] for one in _logs.last(command, _logs.of_journal, "t1", 3)] == ["5", "7", "9"]


def test_a_command_that_fails_says_why(tmp_path):
    command = written(tmp_path, row("fine") + "\nNo journal files\x1b[2J were found.\n", code=1)
    with pytest.raises(GateError, match="No journal files") as failed:
        _logs.last(command, _logs.of_journal, "", 3)
    assert str(failed.value).isprintable()
    with pytest.raises(GateError, match="nothing-there: No such file"):
        _logs.last(["nothing-there"], _logs.of_journal, "", 3)


@pytest.mark.parametrize(("option", "said"), [({"lines": 0}, "logs_lines"), ({"since": "soon"}, "logs_since")])
def test_the_module_refuses_what_it_cannot_do(module, option, said):
    assert said in module("worker_logs", **option)["msg"]
