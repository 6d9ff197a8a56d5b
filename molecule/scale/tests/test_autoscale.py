"""Instances follow a load that rises and falls, and no task is lost or charged."""

from __future__ import annotations

import pytest

from fleet import Load

# Seconds are few, so that nobody has to wait for them.
RULES = {
    "worker_instances_min": 1,
    "worker_instances_max": 3,
    "worker_autoscale_wait": 2,
    "worker_autoscale_patience": 1,
}
LEAST, MOST = 2, 6  # on two hosts


def said(done):
    return " ".join(done.stdout.split())


@pytest.fixture(scope="module")
def followed(play, fleet):
    """Let the load rise until the fleet is as large as it may be, and fall until it is as small; note each step."""
    ids, runs = fleet.submit([3.0] * 480), []

    def follow(*options):
        done = play("playbooks/autoscale.yml", *options, **RULES)
        runs.append((done, len(fleet.instances())))

    follow("--check", "--diff")
    while runs[-1][1] < MOST and len(runs) < 6:
        follow()
    risen = len(runs)
    fleet.wait_until_done(ids, within=300)
    with Load(fleet, interval=1) as load:
        while runs[-1][1] > LEAST and len(runs) < risen + 12:
            follow()
    return {"ids": ids + load.ids, "check": runs[0], "up": runs[1:risen], "down": runs[risen:]}


def test_check_says_what_it_would_do_and_changes_nothing(followed):
    done, count = followed["check"]
    assert done.returncode == 0
    assert "2 instances on 2 hosts become 4: the oldest task has waited for" in said(done)
    assert "+worker2: 2" in done.stdout
    assert count == LEAST


def test_more_at_once_until_the_limit(followed):
    assert [done.returncode for done, _ in followed["up"]] == [0] * len(followed["up"])
    assert [count for _, count in followed["up"]] == [4, MOST]


def test_fewer_one_at_a_time_until_the_limit(followed):
    assert [done.returncode for done, _ in followed["down"]] == [0] * len(followed["down"])
    counts = [count for _, count in followed["down"]]
    assert sorted(set(counts), reverse=True) == [6, 5, 4, 3, LEAST]
    assert counts == sorted(counts, reverse=True)


def test_instances_end_at_the_minimum_of_each_host(followed, fleet):
    assert fleet.instances() == {("worker1", "1"), ("worker2", "1")}


def test_no_task_is_lost_or_charged(followed, fleet):
    assert len(followed["ids"]) > 480
    fleet.assert_nothing_lost(followed["ids"])


def test_where_nothing_is_to_do_nothing_changes(followed, play):
    done = play("playbooks/autoscale.yml", **RULES)
    assert done.returncode == 0
    assert "stay: every host has its least instances" in said(done)
    assert "changed: [" not in done.stdout


def test_a_run_that_fails_changes_nothing_and_lets_others_deploy(followed, play, fleet):
    before = fleet.instances()
    done = play("playbooks/autoscale.yml", **RULES | {"worker_instances_max": 0})
    assert done.returncode == 2
    assert "worker_instances_max is 0 and worker_instances 1" in said(done)
    assert fleet.instances() == before
    assert not fleet.redis.exists("orbiter:deploy")


def test_a_drained_host_stays_out(followed, play, fleet):
    assert play("playbooks/drain.yml", "--limit=worker2").returncode == 0
    done = play("playbooks/autoscale.yml", **RULES)
    assert done.returncode == 0
    assert "1 instances on 1 host stay" in said(done)
    assert fleet.instances() == {("worker1", "1")}
    assert play("playbooks/undrain.yml", "--limit=worker2").returncode == 0
    assert fleet.instances() == {("worker1", "1"), ("worker2", "1")}


def test_since_when_it_is_calm_is_kept_for_root_alone(followed, workers):
    kept = workers["worker1"].file("/etc/orbiter/autoscale.json")
    assert (kept.user, kept.mode) == ("root", 0o600)
    assert not workers["worker2"].file("/etc/orbiter/autoscale.json").exists
