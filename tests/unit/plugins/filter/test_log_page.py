"""The lines of all hosts stand in the order of time, each with its host and instance."""

from __future__ import annotations

from ansible_collections.orbiter.fleet.plugins.filter.log_page import log_page


def line(at, instance, text, level="INFO"):
    return {"at": at, "instance": instance, "level": level, "text": text}


SAID = {
    "worker1": {"lines": [line(1771324215.25, "1", "b"), line(1771324217, "1", "d")]},
    "worker12": {"lines": [line(1771324215, "2", "a", "WARNING"), line(1771324215.25, "2", "c")]},
}


def test_lines_of_all_hosts_are_merged_by_time():
    assert log_page(SAID) == [
        "2026-02-17 10:30:15.000 worker12/2  WARNING  a",
        "2026-02-17 10:30:15.250 worker1/1   INFO     b",
        "2026-02-17 10:30:15.250 worker12/2  INFO     c",
        "2026-02-17 10:30:17.000 worker1/1   INFO     d",
    ]


def test_the_last_lines_are_shown():
    assert [one[-1] for one in log_page(SAID, lines="2")] == ["c", "d"]


def test_a_host_that_did_not_answer_has_no_lines():
    assert log_page({"worker1": {"unreachable": True, "msg": "no route"}}) == []
