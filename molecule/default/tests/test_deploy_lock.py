"""Two deploys never run at the same time, and a lock never stays for good."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from fleet import wait_until

CHECKOUT = Path(__file__).parents[3]
KEY = "orbiter:deploy"
# What a deploy does at its beginning and its end, and in between whatever takes its time.
SLOW = """
- import_playbook: orbiter.fleet.lock
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.wait_for:
        path: {go}
- import_playbook: orbiter.fleet.finish
"""
ELSEWHERE = {
    "token": "0" * 32,
    "user": "alice",
    "controller": "laptop",
    "machine": "another",
    "pid": 17,
    "born": "1",
    "playbook": "site",
    "since": 1771324215900,
}


@pytest.fixture(autouse=True)
def nobody_deploys(fleet):
    """Begin and end without a lock."""
    fleet.redis.delete(KEY)
    yield
    fleet.redis.delete(KEY)


@pytest.fixture
def slow(fleet, inventory, tmp_path):
    """Return what runs a deploy that goes on until its block ends; it has the lock when the block begins."""
    playbook, go = tmp_path / "slow.yml", tmp_path / "go"
    playbook.write_text(SLOW.format(go=go))
    command = ["ansible-playbook", "--inventory", inventory, str(playbook)]

    @contextmanager
    def run():
        go.unlink(missing_ok=True)
        process = subprocess.Popen(
            command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        try:
            wait_until(lambda: held_by(fleet) == process.pid or process.poll() is not None, within=120, what=str)
            assert process.poll() is None, process.stdout.read()
            yield process
        finally:
            go.touch()
            print(process.communicate(timeout=120)[0])

    return run


def held_by(fleet):
    """Return the process that has the lock."""
    return json.loads(fleet.redis.get(KEY) or "{}").get("pid")


def said(done):
    return " ".join(done.stdout.split())


def test_second_deploy_fails_and_names_the_first_and_goes_after_it(slow, play, fleet, workers):
    with slow() as first:
        # Both ways to take it: with prepare.yml, as most do, and by themselves.
        for playbook in ("site.yml", *(f"playbooks/{name}.yml" for name in ("drain", "scale", "teardown"))):
            second = play(playbook, "--limit=worker1", orbiter_teardown=True)
            assert second.returncode != 0
            assert "Somebody else deploys: slow by " in said(second)
            assert f"@{socket.gethostname()} (process {first.pid}) since 20" in said(second)
            assert "-e orbiter_break_lock=true" in said(second)
            assert "changed: [" not in second.stdout
        assert held_by(fleet) == first.pid
        assert fleet.redis.ttl(KEY) > 0
        checked = play("playbooks/drain.yml", "--limit=worker1", "--check")
        assert checked.returncode == 0
        assert "Somebody else deploys now: slow" in said(checked)
    assert first.returncode == 0
    assert not fleet.redis.exists(KEY)
    assert not workers["worker1"].file("/etc/orbiter/drained").exists
    assert play("playbooks/scale.yml").returncode == 0
    assert not fleet.redis.exists(KEY)


def test_lock_of_a_deploy_that_was_killed_here_is_taken_over_at_once(slow, play, fleet):
    with slow() as killed:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait(60)
    assert held_by(fleet) == killed.pid
    checked = play("playbooks/lock.yml", "--check")
    assert "The lock will be taken from slow by" in said(checked)
    assert held_by(fleet) == killed.pid
    with slow() as next_one:
        pass
    assert next_one.returncode == 0
    assert not fleet.redis.exists(KEY)


def test_lock_of_another_controller_is_broken_by_order_only(play, fleet):
    fleet.redis.set(KEY, json.dumps(ELSEWHERE), ex=600)
    refused = play("playbooks/lock.yml")
    assert refused.returncode != 0
    assert "Somebody else deploys: site by alice@laptop (process 17) since 2026-02-17 10:30:15 UTC" in said(refused)
    broken = play("playbooks/lock.yml", orbiter_break_lock=True)
    assert broken.returncode == 0
    assert "The lock was taken from site by alice@laptop" in said(broken)
    assert held_by(fleet) != ELSEWHERE["pid"]


def test_where_nothing_can_hold_a_lock_the_deploy_goes_on_and_says_so(play):
    warning = "This deploy has no lock, let nobody start another one until it ends: "
    elsewhere = play("playbooks/lock.yml", orbiter_redis_hosts="nobody")
    assert elsewhere.returncode == 0
    assert f"{warning}no host of the inventory runs Redis" in said(elsewhere)
    absent = play("playbooks/lock.yml", lock_host="worker1")
    assert absent.returncode == 0
    assert f"{warning}worker1: there is no /etc/redis/redis.conf" in said(absent)


def test_every_playbook_that_changes_hosts_takes_the_lock_and_gives_it_back():
    parts = {
        "prepare",
        "reach",
        "lock",
        "hooks",
        "stage",
        "firewall",
        "move",
        "left_queue",
        "connect",
        "strangers",
        "targets",
        "dashboard",
        "finish",
    }
    harmless = {"demo_up", "demo_down", "status", "backup", "image", "logs", "exec"}
    for name in {path.stem for path in (CHECKOUT / "playbooks").glob("*.yml")} - parts - harmless:
        text = (CHECKOUT / f"playbooks/{name}.yml").read_text()
        assert "import_playbook: prepare.yml" in text or "name: orbiter.fleet.lock\n" in text, name
        assert yaml.safe_load(text)[-1].get("ansible.builtin.import_playbook") == "finish.yml", name
