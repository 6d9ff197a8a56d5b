"""The Redis that workers are told of is one that they can reach, and no queue is left behind unseen."""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path

import pytest
from conftest import COMMAND, free_port

CHECKOUT = Path(__file__).parents[3]
HERE = f"ansible_connection=local ansible_python_interpreter={sys.executable} ansible_become=false"


def hosts(*variables, redis=""):
    """Return the lines of an inventory with a Redis host and a worker host, both this one."""
    lines = [f"redis1 {HERE} {redis}", f"worker1 {HERE}", "[redis]", "redis1", "[workers]", "worker1", "[all:vars]"]
    return [*lines, "orbiter_redis_password=operat0rs-password-of-this-test", *variables]


def said(done):
    """Return what a run has said, on one line."""
    return " ".join(done.stdout.split())


@pytest.fixture
def connect(ansible, tmp_path):
    """Return a function that connects; it is told the releases of each worker host, and where the run makes Redis."""

    def run(inventory, releases, *, made=()):
        plays = [
            *(
                {"hosts": host, "tasks": [{"set_fact": {"__worker_host": {"releases": has}}}]}
                for host, has in releases.items()
            ),
            *({"hosts": host, "tasks": [{"set_fact": {"__redis_fit": True}}]} for host in made),
        ]
        plays = [play | {"gather_facts": False} for play in plays]
        (tmp_path / "run.yml").write_text(
            json.dumps([*plays, {"import_playbook": str(CHECKOUT / "playbooks/connect.yml")}])
        )
        return ansible(inventory, tmp_path / "run.yml")

    return run


def test_workers_connect_where_they_are_told(connect):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        told = f"ansible_host=192.0.2.1 redis_address=127.0.0.1 redis_port={port}"
        done = connect(hosts(redis=told), {"worker1": []})
    assert done.returncode == 0, done.stdout
    assert "ok=2" in done.stdout.partition("RECAP")[2]


@pytest.mark.parametrize(("made", "tried"), [([], ["worker2", "worker4"]), (["redis1"], ["worker2"])])
def test_a_new_host_connects_too_where_redis_is_left_out_and_knows_no_new_hosts(connect, made, tried):
    """One host does for those that had workers before; who uses another Redis does for nobody."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        fleet = hosts(redis=f"redis_bind=127.0.0.1 redis_port={server.getsockname()[1]}")
        fleet[1] += " orbiter_redis_url=redis://elsewhere:1"
        more = [f"worker{number} {HERE}" for number in (2, 3, 4)]
        fleet = [*more, *fleet[:5], *(line.split()[0] for line in more), *fleet[5:]]
        done = connect(fleet, {"worker1": [], "worker2": ["1"], "worker3": ["1"], "worker4": []}, made=made)
    assert done.returncode == 0, done.stdout
    connected = done.stdout.partition("TASK [Connect")[2]
    assert sorted(re.findall(r"ok: \[(\w+)\]", connected)) == tried


def test_a_redis_that_a_worker_host_cannot_connect_to_is_told_in_seconds(connect):
    port = free_port()
    done = connect(hosts(redis=f"redis_bind=127.0.0.1 redis_port={port}"), {"worker1": ["1"]})
    assert done.returncode != 0
    assert f"worker1 cannot connect to Redis at 127.0.0.1, port {port}" in said(done)
    assert "redis_address" in said(done)


@pytest.fixture
def left(ansible):
    """Return a function that checks for a queue that is left behind."""

    def run(*options):
        return ansible(hosts(redis="ansible_host=192.0.2.1"), CHECKOUT / "playbooks/left_queue.yml", *options)

    return run


@pytest.mark.skipif(Path("/etc/orbiter").exists(), reason="is a worker host")
def test_hosts_without_workers_leave_no_queue(left):
    done = left()
    assert done.returncode == 0, done.stdout


@pytest.fixture
def moving(left, server, run, tmp_path, monkeypatch):
    """Return a function that checks a fleet whose workers use the test's Redis, where two tasks wait."""
    monkeypatch.setenv("PATH", f"{Path(COMMAND).parent}:/usr/bin:/bin")
    monkeypatch.setenv("ORBITER_REDIS_URL", server.url)  # the role's command reads the file
    settings = tmp_path / "worker.env"
    quoted = server.url.replace("\\", "\\\\").replace('"', '\\"')
    settings.write_text(f'ORBITER_REDIS_URL="{quoted}"\n')
    for number in range(2):
        run("task", agent={"name": "x", "model": "test"}, input="hello", task_id=f"left-{number}", wait=False)
    return lambda *options: left(f"-e__left_settings={settings}", *options)


def test_tasks_that_another_redis_would_leave_behind_stop_the_run_which_says_both_ways(moving):
    done = moving()
    assert done.returncode == 2
    for words in ("worker1: its workers use Redis at 127.0.0.1, where 2 tasks wait", "nothing was changed"):
        assert words in said(done)
    for way in ("orbiter.fleet.backup", "orbiter.fleet.restore", "-e orbiter_leave_queue=true"):
        assert way in said(done)


def test_a_queue_is_left_behind_where_that_is_said(moving):
    done = moving("-eorbiter_leave_queue=true")
    assert done.returncode == 0, done.stdout


def test_a_fleet_whose_redis_stays_leaves_nothing(moving):
    done = moving("-eredis_bind=127.0.0.1")
    assert done.returncode == 0, done.stdout


def test_an_old_redis_that_is_gone_is_told_and_stops_nothing(moving, server, monkeypatch):
    monkeypatch.setenv("ORBITER_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    done = moving()
    assert done.returncode == 0, done.stdout
    assert "its workers use Redis at 127.0.0.1, which cannot be asked" in said(done)


@pytest.mark.parametrize(
    ("host", "facts", "wanted"),
    [
        ("2001:db8::7", {"all_ipv6_addresses": ["2001:db8::7"]}, "2001:db8::7"),
        ("redis1.example.net", {"default_ipv6": {"address": "2001:db8::7"}}, "2001:db8::7"),
        ("192.0.2.7", {"all_ipv4_addresses": ["192.0.2.7", "10.0.0.7"]}, "192.0.2.7"),
        (
            "203.0.113.7",
            {"default_ipv4": {"address": "10.0.0.7"}, "default_ipv6": {"address": "2001:db8::7"}},
            "10.0.0.7",
        ),
    ],
)
def test_redis_listens_at_its_host_s_own_address_of_either_family(ansible, host, facts, wanted):
    none = {"all_ipv4_addresses": [], "all_ipv6_addresses": [], "default_ipv4": {}, "default_ipv6": {}}
    tasks = f"""
    - set_fact: {json.dumps(none | facts | {"cacheable": True})}
    - include_role: {{name: orbiter.fleet.redis, tasks_from: preflight_values, public: true}}
    - debug: {{msg: "BIND={{{{ redis_bind }}}}="}}
"""
    done = ansible([f"redis1 {HERE} ansible_host={host}"], tasks, "-eredis_password=of-this-test")
    assert f"BIND={wanted}=" in done.stdout, done.stdout
