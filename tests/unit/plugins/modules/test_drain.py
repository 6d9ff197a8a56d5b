"""drain lets workers end their tasks and leave."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import wait_until

HERE = socket.gethostname()
SLEEP = {"runtime": "callable", "target": "jobs:sleep"}


def test_named_worker_leaves_and_the_other_stays(run, worker):
    leaver, stayer = worker(), worker()
    answer = run("drain", worker_ids=[leaver.worker_id])
    assert answer["changed"]
    assert answer["drained"] == [leaver.worker_id]
    assert answer["outcomes"][0]["state"] == "gone"
    assert leaver.has_left()
    assert [one["worker_id"] for one in run("worker_info")["workers"]] == [stayer.worker_id]


def test_all_workers_of_a_host_leave(run, worker):
    ids = sorted([worker().worker_id, worker().worker_id])
    assert run("drain", hosts=["elsewhere"])["changed"] is False
    assert run("drain", hosts=[HERE])["drained"] == ids
    assert run("worker_info")["workers"] == []


def test_those_that_come_in_their_place_are_told_to_claim_nothing(run, worker):
    gone = worker()
    with ThreadPoolExecutor() as pool:
        # As systemd does, which restarts what has ended.
        successor = pool.submit(lambda: wait_until(gone.has_left, within=30) or worker())
        answer = run("drain", hosts=[HERE], quiet_successors=60)
        assert answer["drained"] == [gone.worker_id]
        assert answer["quieted"] == [successor.result().worker_id]
    assert [one["state"] for one in run("worker_info")["workers"]] == ["quiet"]


def test_nobody_that_comes_in_their_place_is_waited_for_longer_than_told(run, worker):
    worker()
    assert run("drain", hosts=[HERE], quiet_successors=1)["quieted"] == []


def test_all_workers_of_a_queue_leave(run, worker):
    stayer, leaver = worker(), worker(ORBITER_QUEUE="reports")
    assert run("drain", all=True, queue="reports")["drained"] == [leaver.worker_id]
    assert [one["worker_id"] for one in run("worker_info")["workers"]] == [stayer.worker_id]


def test_worker_that_is_not_there_is_no_change(run):
    answer = run("drain", worker_ids=["gone-1-a1b2c3d4"])
    assert answer["changed"] is False
    assert answer["drained"] == []


def test_check_mode_says_who_would_be_drained(run, worker):
    one = worker()
    answer = run("drain", check=True, all=True)
    assert answer["changed"]
    assert answer["drained"] == [one.worker_id]
    assert answer["diff"] == {"before": f"{one.worker_id} running\n", "after": ""}
    assert run("worker_info")["slots"] == 1


def test_worker_that_takes_longer_than_the_limit_is_named(run, worker):
    one = worker(ORBITER_DRAIN_TIMEOUT="5")
    run("task", agent=SLEEP, metadata={"seconds": 60}, task_id="long", wait=False)
    while run("worker_info")["busy"] == 0:
        pass
    answer = run("drain", worker_ids=[one.worker_id], timeout=1)
    assert answer["failed"]
    assert answer["msg"] == f"Worker {one.worker_id} is still draining after 1 s."
    again = run("drain", worker_ids=[one.worker_id])
    assert again["changed"] is False  # it was not this task that told it
    assert one.has_left()


@pytest.mark.parametrize("options", [{}, {"all": True, "hosts": [HERE]}, {"all": True, "worker_ids": ["a"]}])
def test_who_is_meant_must_be_said_once(run, options):
    answer = run("drain", **options)
    assert answer["failed"]
    assert answer["msg"] == "Give exactly one of worker_ids, hosts and all."
