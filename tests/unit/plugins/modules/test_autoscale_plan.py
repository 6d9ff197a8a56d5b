"""autoscale_plan tells how many instances each host is to have."""

from __future__ import annotations

import json
import time

import pytest

HOSTS = [
    {"name": "worker1", "instances": 1, "min": 1, "max": 4, "slots": 4},
    {"name": "worker2", "instances": 2, "min": 1, "max": 4, "slots": 4},
]
BUSY = {"queue": "orbiter:tasks", "waiting": 5, "running": 12, "oldest_waiting": 41.2}
IDLE = {"queue": "orbiter:tasks", "waiting": 0, "running": 1, "oldest_waiting": None}


@pytest.fixture
def plan(module):
    """Return a function that runs the module."""

    def run(queue, **options):
        return module("autoscale_plan", **{"queue": queue, "hosts": HOSTS} | options)

    return run


@pytest.mark.parametrize("check", [False, True])
def test_a_long_wait_is_a_reason_for_more(plan, check):
    answer = plan(BUSY, check=check, diff=True)
    assert answer["changed"] is True
    assert (answer["direction"], answer["instances"]) == ("up", {"worker1": 3, "worker2": 2})
    assert "41 s" in answer["reason"]
    assert answer["diff"]["before"] == "worker1: 1\nworker2: 2\n"
    assert answer["diff"]["after"] == "worker1: 3\nworker2: 2\n"


def test_what_is_as_it_should_be_is_no_change(plan):
    answer = plan(BUSY, target_wait=100, diff=True)
    assert (answer["changed"], answer["direction"]) == (False, "stay")
    assert answer["diff"]["before"] == answer["diff"]["after"]


def test_calm_is_remembered_from_run_to_run_and_ends_with_a_step_down(plan, tmp_path):
    memory = tmp_path / "memory.json"
    began = time.time()
    first = plan(IDLE, memory=str(memory))
    assert (first["direction"], first["calm"]) == ("stay", 0)
    kept = json.loads(memory.read_text())
    assert began <= kept["calm_since"] <= time.time()
    memory.write_text(json.dumps(kept | {"calm_since": kept["calm_since"] - 300}))
    second = plan(IDLE, memory=str(memory))
    assert (second["direction"], second["instances"]) == ("down", {"worker1": 1, "worker2": 1})
    # The next step has to wait as long.
    assert json.loads(memory.read_text())["calm_since"] >= began
    assert plan(IDLE, memory=str(memory))["direction"] == "stay"
    assert memory.stat().st_mode & 0o777 == 0o600


def test_what_waits_ends_the_calm(plan, tmp_path):
    memory = tmp_path / "memory.json"
    plan(IDLE, memory=str(memory))
    plan(BUSY, memory=str(memory))
    assert json.loads(memory.read_text())["calm_since"] is None


def test_a_check_remembers_nothing(plan, tmp_path):
    memory = tmp_path / "memory.json"
    assert plan(IDLE, memory=str(memory), check=True)["calm"] == 0
    assert list(tmp_path.iterdir()) == []
    memory.write_text(json.dumps({"queue": "orbiter:tasks", "calm_since": 1, "looked": time.time()}))
    assert plan(IDLE, memory=str(memory), check=True)["direction"] == "down"
    assert json.loads(memory.read_text())["calm_since"] == 1


@pytest.mark.parametrize(
    "kept",
    ["", "[1]", '{"calm_since": 1}', '{"queue": "orbiter:other", "calm_since": 1, "looked": 9e9}'],
)
def test_a_memory_that_is_none_or_of_another_queue_knows_nothing(plan, tmp_path, kept):
    memory = tmp_path / "memory.json"
    memory.write_text(kept)
    assert plan(IDLE, memory=str(memory))["direction"] == "stay"
    assert json.loads(memory.read_text())["queue"] == "orbiter:tasks"


@pytest.mark.parametrize(("ago", "patience", "direction"), [(290, 60, "down"), (310, 60, "stay"), (590, 600, "down")])
def test_nobody_has_looked_where_the_last_run_was_too_long_ago(plan, tmp_path, ago, patience, direction):
    memory, now = tmp_path / "memory.json", time.time()
    memory.write_text(json.dumps({"queue": "orbiter:tasks", "calm_since": now - 5000, "looked": now - ago}))
    assert plan(IDLE, memory=str(memory), patience=patience)["direction"] == direction


def test_calm_that_somebody_else_has_seen_counts(plan):
    assert plan(IDLE, calm=299)["direction"] == "stay"
    assert plan(IDLE, calm=301)["direction"] == "down"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"queue": {"waiting": 1, "running": 1}, "target_wait": -1}, "target_wait is -1"),
        ({"queue": {"running": 1}}, "waiting: None"),
        ({"queue": {"waiting": 1, "running": "many"}}, "running: 'many'"),
        ({"hosts": [HOSTS[0], HOSTS[0]]}, "worker1 more than once"),
        ({"hosts": [HOSTS[0] | {"min": 5}]}, "worker1: instances 1, min 5, max 4"),
        ({"hosts": [HOSTS[0] | {"slots": 0}]}, "slots 0"),
        ({"hosts": [HOSTS[0] | {"instances": "two"}]}, "instances"),
        ({"memory": "/nowhere/memory.json"}, "cannot write /nowhere/memory.json"),
    ],
)
def test_wrong_options_are_refused_by_name(module, options, named):
    answer = module("autoscale_plan", **{"queue": IDLE, "hosts": HOSTS} | options)
    assert answer["failed"]
    assert named in answer["msg"]
