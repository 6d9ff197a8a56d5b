"""worker_info lists who works in the fleet."""

from __future__ import annotations

import socket


def test_empty_fleet_has_no_workers(run):
    answer = run("worker_info")
    assert answer["workers"] == []
    assert (answer["alive"], answer["dead"], answer["slots"], answer["busy"]) == (0, 0, 0, 0)
    assert answer["changed"] is False


def test_workers_are_listed_and_added_up(run, worker):
    ids = {worker(ORBITER_CONCURRENCY="3").worker_id, worker(ORBITER_CONCURRENCY="2").worker_id}
    answer = run("worker_info", check=True)
    assert {one["worker_id"] for one in answer["workers"]} == ids
    assert (answer["alive"], answer["dead"], answer["slots"], answer["busy"]) == (2, 0, 5, 0)


def test_workers_of_named_hosts_and_queues_are_listed_only(run, worker):
    here = worker().worker_id
    there = worker(ORBITER_QUEUE="reports").worker_id
    by_queue = run("worker_info", queue="reports")
    assert [one["worker_id"] for one in by_queue["workers"]] == [there]
    name = socket.gethostname().partition(".")[0]
    assert {one["worker_id"] for one in run("worker_info", hosts=[f"{name}.example.net"])["workers"]} == {here, there}
    assert run("worker_info", hosts=["elsewhere"])["workers"] == []


def test_workers_of_another_namespace_are_not_there(run, worker):
    here = worker().worker_id
    assert run("worker_info", namespace="acme")["workers"] == []
    assert [one["worker_id"] for one in run("worker_info", namespace="orbiter")["workers"]] == [here]
    refused = run("worker_info", namespace="a:b")
    assert "a:b" in refused["msg"]


def test_redis_that_is_not_there_is_named_without_its_password(run):
    answer = run("worker_info", redis_url="redis://default:s3cret@127.0.0.1:1/0")
    assert answer["failed"]
    assert answer["msg"].startswith("Error: Cannot reach Redis at redis://127.0.0.1:1")
    assert "s3cret" not in str(answer)


def test_command_that_is_not_there_is_named(run, tmp_path):
    answer = run("worker_info", executable=str(tmp_path / "orbiter"))
    assert answer["failed"]
    assert answer["msg"] == f"Cannot run {tmp_path}/orbiter: No such file or directory"


def test_host_without_the_command_is_told_where_to_look(run, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("ansible_collections.orbiter.fleet.plugins.module_utils._command.PLACES", ["/nowhere"])
    answer = run("worker_info", executable=None)
    assert answer["failed"]
    assert "This host has no command orbiter" in answer["msg"]
