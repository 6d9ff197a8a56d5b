"""queue_info tells what a queue looks like."""

from __future__ import annotations

ECHO = {"runtime": "callable", "target": "jobs:echo"}


def test_queue_that_does_not_exist_is_an_empty_one(run):
    answer = run("queue_info", queue="nobody")
    assert answer["changed"] is False
    assert answer["info"]["queue"] == "nobody"
    assert answer["info"]["waiting"] == answer["info"]["workers"] == 0


def test_waiting_tasks_are_counted(run):
    run("task", agent=ECHO, wait=False, queue="reports")
    assert run("queue_info", queue="reports", check=True)["info"]["waiting"] == 1
    assert run("queue_info")["info"]["waiting"] == 0


def test_wrong_url_is_refused_with_the_rule(run):
    answer = run("queue_info", redis_url="http://redis1")
    assert answer["failed"]
    assert "redis://" in answer["msg"]
