"""task submits a task and waits for its end."""

from __future__ import annotations

import os
import subprocess

from conftest import COMMAND, wait_until

ECHO = {"runtime": "callable", "target": "jobs:echo"}
FAIL = {"runtime": "callable", "target": "jobs:fail"}


def test_task_runs_and_its_result_is_returned(run, worker):
    worker()
    answer = run("task", agent=ECHO, input="--help 'me'", metadata={"a": [1, "x=y"], "b": "true"})
    assert answer["changed"]
    assert answer["status"] == "completed"
    assert answer["result"] == {"output": "you said --help 'me' {'a': [1, 'x=y'], 'b': 'true'}"}
    assert answer["task"]["attempt"] == 1


def test_same_task_id_is_one_task(run, worker, server):
    worker()
    first = run("task", agent=ECHO, task_id="once", input="first")
    again = run("task", agent=ECHO, task_id="once", input="second")
    assert (first["changed"], again["changed"]) == (True, False)
    assert again["result"] == first["result"]
    assert server.client.scard("orbiter:task:index") == 1


def test_task_id_that_another_one_begins_with_is_new(run, server):
    for longer, task_id in (("smoke-10", "smoke-1"), ("cafe" + "0" * 28, "cafe")):
        run("task", agent=ECHO, task_id=longer, wait=False)
        assert run("task", check=True, agent=ECHO, task_id=task_id)["changed"] is True
        answer = run("task", agent=ECHO, task_id=task_id, wait=False)
        assert (answer["changed"], answer["task"]["task_id"]) == (True, task_id)
    assert server.client.scard("orbiter:task:index") == 4


def test_task_that_fails_is_told_with_its_own_error(run, worker):
    worker()
    answer = run("task", agent=FAIL, task_id="unlucky")
    assert answer["failed"]
    assert answer["msg"].startswith("Task unlucky failed in its attempt 1: ")
    assert "this was not to be" in answer["msg"]
    assert answer["status"] == "failed"


def test_task_that_was_cancelled_is_told(run, server):
    run("task", agent=ECHO, task_id="unwanted", wait=False)
    environment = os.environ | {"ORBITER_REDIS_URL": server.url}
    subprocess.run([COMMAND, "task", "cancel", "unwanted"], env=environment, check=True)
    answer = run("task", agent=ECHO, task_id="unwanted")
    assert answer["failed"]
    assert answer["msg"] == "Task unwanted was cancelled."


def test_task_that_nobody_takes_is_told_with_the_reason(run):
    # It is there before its time begins, of which the command's start takes a part.
    run("task", agent=ECHO, task_id="lonely", wait=False)
    answer = run("task", agent=ECHO, task_id="lonely", wait_timeout=2)
    assert answer["failed"]
    assert answer["msg"] == (
        "Task lonely has not ended within 2 s: it is pending, and no live worker reads queue orbiter:tasks. "
        "It stays in the queue."
    )


def test_task_that_takes_too_long_is_told_with_the_load(run, worker):
    worker(ORBITER_CONCURRENCY="1")
    slow = {"runtime": "callable", "target": "jobs:sleep"}
    run("task", agent=slow, metadata={"seconds": 600}, wait=False)
    wait_until(lambda: run("worker_info")["busy"] == 1, within=60)
    run("task", agent=ECHO, task_id="patient", wait=False)
    answer = run("task", agent=ECHO, task_id="patient", wait_timeout=3)
    assert answer["failed"]
    assert "1 of 1 slots of queue orbiter:tasks are busy, and 1 tasks wait" in answer["msg"]


def test_nothing_is_waited_for_if_nobody_wants_to(run):
    answer = run("task", agent=ECHO, wait=False)
    assert answer["changed"]
    assert answer["status"] == "pending"


def test_check_mode_submits_nothing_and_says_what_is_new(run, server):
    answer = run("task", check=True, agent=ECHO, task_id="maybe")
    assert answer["changed"]
    assert answer["diff"]["after"] == "task maybe\n"
    assert not server.client.exists("orbiter:task:maybe")
    run("task", agent=ECHO, task_id="maybe", wait=False)
    assert run("task", check=True, agent=ECHO, task_id="maybe")["changed"] is False


def test_agent_that_is_none_is_refused(run, server):
    answer = run("task", agent={"runtime": "callable"})
    assert answer["failed"]
    assert "target" in answer["msg"]
    assert not server.client.exists("orbiter:tasks")
