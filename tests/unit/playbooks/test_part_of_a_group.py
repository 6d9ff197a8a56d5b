"""A new worker host that Redis hosts, left out of a run, have no user for shares one that all have, or is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

PLAYBOOKS = Path(__file__).parents[3] / "playbooks"
HERE = f"ansible_connection=local ansible_become=false ansible_python_interpreter={sys.executable}"
MEMBERS = ("redis1", "redis2", "redis3")
GROUPS = ["[redis]", *MEMBERS, "[workers]", "worker1", "[all:vars]", "redis_bind=192.0.2.1", "orbiter_redis_password=x"]
GROUPS += ["redis_tls=no"]
SHARES, OWN = ["worker"], ["worker", "worker-worker1"]


@pytest.fixture
def checked(ansible, tmp_path):
    """Return a function that checks worker hosts against the users that members of a group have.

    It returns the user of worker1, or the error. Members of ``seen`` are among the hosts of the run.
    """

    def run(users, seen=(), *options):
        [play] = [
            one
            for one in yaml.safe_load((PLAYBOOKS / "prepare.yml").read_text())
            if one["name"] == "Check the worker hosts"
        ]
        play["roles"] = [str(PLAYBOOKS / "roles" / name) for name in play["roles"]]
        play["tasks"] = [task for task in play["tasks"] if "ansible.builtin.import_role" not in task]
        text = yaml.safe_dump(play).replace("/etc/redis/", f"{tmp_path}/{{{{ item }}}}-")
        for host in MEMBERS:
            lines = [f"user {name} on" for name in users.get(host, ())]
            if host in users:
                (tmp_path / f"{host}-users.acl").write_text("\n".join([*lines, ""]))
                (tmp_path / f"{host}-redis.conf").write_text("port 6379\n")
        plays = [
            {"hosts": list(seen) or "nobody", "gather_facts": False, "tasks": [{"set_fact": {"__redis_fit": True}}]},
            yaml.safe_load(text) | {"become": False},
            {"hosts": "workers", "gather_facts": False, "roles": [str(PLAYBOOKS / "roles/derived")]}
            | {"tasks": [{"debug": {"msg": "USER={{ __site_redis_user }}="}}]},
        ]
        for one in plays:
            one.setdefault("tags", ["always"])
        (tmp_path / "check.yml").write_text(json.dumps(plays))
        done = ansible(
            [*(f"{host} {HERE}" for host in (*MEMBERS, "worker1")), *GROUPS], tmp_path / "check.yml", *options
        )
        said = " ".join(done.stdout.split())
        return said.partition("USER=")[2].partition("=")[0] if done.returncode == 0 else said

    return run


def test_a_host_shares_a_user_as_long_as_a_member_that_is_left_out_has_no_other(checked):
    assert checked({"redis1": OWN, "redis2": SHARES, "redis3": SHARES}, ["redis1"]) == "worker"
    assert checked({"redis1": SHARES, "redis2": OWN, "redis3": OWN}, ["redis1"]) == "worker-worker1"
    assert checked({"redis1": OWN, "redis2": OWN, "redis3": SHARES}) == "worker"


def test_a_host_that_a_member_which_is_left_out_has_no_user_for_is_refused(checked):
    said = checked({"redis1": ["client"], "redis2": ["client"], "redis3": ["client"]}, ["redis1"])
    assert "worker1: Redis has no user for these yet (worker-worker1)" in said
    assert "--limit 'redis1:redis2:redis3:worker1'" in said


def test_a_member_that_cannot_be_asked_stops_nobody(checked):
    assert checked({"redis1": OWN, "redis2": OWN}, ["redis1", "redis2"]) == "worker-worker1"


def test_where_all_are_in_the_run_they_get_what_they_need(checked):
    assert checked({host: ["client"] for host in MEMBERS}, MEMBERS) == "worker-worker1"
    assert "no user for these yet" in checked({host: ["client"] for host in MEMBERS}, MEMBERS, "--tags=worker")


def test_a_part_of_a_group_does_not_move_to_tls(ansible):
    inventory = [*(f"{host} {HERE}" for host in (*MEMBERS, "worker1")), *GROUPS[:-1], "redis_tls=yes"]
    inventory += ["redis_tls_port=6380", "redis_sentinel_tls_port=26380"]
    done = ansible(inventory, PLAYBOOKS / "redis_tls.yml", "--limit=redis1:workers")
    said = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert "--limit leaves out redis2, redis3" in said
    assert "Prepare" not in said
