"""The task of the gate is run once, by a command of the host or inside a container, and leaves nothing in the queue."""

from __future__ import annotations

import pytest
from ansible_collections.orbiter.fleet.plugins.module_utils._command import Command
from ansible_collections.orbiter.fleet.plugins.module_utils._task import try_out
from conftest import COMMAND


@pytest.fixture
def command(server):
    """Return the command with the test's Redis, run by another program, as inside a container."""
    return Command(COMMAND, through=("env", f"ORBITER_REDIS_URL={server.url}"))


def agent(name):
    """Return a task that runs a function of jobs.py."""
    return {"agent": {"runtime": "callable", "name": "smoke", "target": f"jobs:{name}"}}


def test_task_that_completes_is_its_record(command, worker):
    worker()
    record, wrong = try_out(command, agent("echo") | {"input": "hello", "metadata": {"a": 1}}, 30)
    assert wrong == ""
    assert (record["status"], record["result"]) == ("completed", {"output": "you said hello {'a': 1}"})
    assert record["task_id"].startswith("gate-")


def test_task_that_fails_is_tried_once_and_says_why(command, worker):
    worker(ORBITER_MAX_RETRIES="3")
    record, wrong = try_out(command, agent("fail"), 30)
    assert "this was not to be" in wrong
    assert (record["status"], record["attempt"]) == ("failed", 1)


def test_task_that_nobody_takes_does_not_stay_in_the_queue(command, server):
    record, wrong = try_out(command, agent("echo"), 10)  # longer than a busy machine takes to submit it
    assert "no live worker reads queue orbiter:tasks" in wrong
    assert "stays" not in wrong
    assert server.client.hget(f"orbiter:task:{record['task_id']}", "status") == "cancelled"


def test_command_that_cannot_be_run_names_the_variable(tmp_path):
    record, wrong = try_out(Command(str(tmp_path / "none")), agent("echo"), 3)
    assert record is None
    assert wrong.startswith("worker_gate_task: Cannot run")
