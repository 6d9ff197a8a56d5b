"""The deploy lock is held by one run at a time, and by nobody for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import Server, wait_until

SCRIPT = Path(__file__).parents[3] / "roles/lock/files/deploy_lock.py"
ALICE = {"token": "a" * 32, "user": "alice", "controller": "laptop", "pid": 17, "playbook": "site", "machine": "m"}
BOB = ALICE | {"token": "b" * 32, "user": "bob"}


def lock(server, *words):
    """Run the script as on a Redis host."""
    environment = os.environ | {"ORBITER_REDIS_CONFIG": str(server.config)}
    done = subprocess.run([sys.executable, SCRIPT, *words], env=environment, capture_output=True, text=True, check=True)
    assert server.password not in done.stdout + done.stderr
    return json.loads(done.stdout)


def take(server, who, *words, seconds=60):
    return lock(server, "take", str(seconds), json.dumps(who), *words)


def test_one_run_holds_it_and_the_other_is_told_who(server):
    assert lock(server, "show")["state"] == "free"
    assert take(server, ALICE)["state"] == "held"
    told = take(server, BOB)
    assert told["state"] == "busy"
    assert told["holder"]["token"] == ALICE["token"]
    assert told["who"].startswith("site by alice@laptop (process 17) since 20")
    assert lock(server, "show")["who"].startswith("site by alice@laptop")


def test_it_ends_by_itself(server):
    take(server, ALICE, seconds=0.2)
    wait_until(lambda: take(server, BOB)["state"] == "held", within=20)


def test_it_never_stays_without_an_end(server):
    take(server, ALICE, seconds=60)
    assert 0 < server.client.pttl("orbiter:deploy") <= 60_000


def test_taking_it_again_renews_it_and_keeps_since_when(server):
    first = take(server, ALICE, seconds=60)
    again = take(server, ALICE, seconds=600)
    assert again["state"] == "held"
    assert again["holder"]["since"] == first["holder"]["since"]
    assert server.client.pttl("orbiter:deploy") > 60_000


def test_it_is_given_back_by_its_holder_only(server):
    take(server, ALICE)
    assert lock(server, "release", BOB["token"])["state"] == "busy"
    assert lock(server, "release", ALICE["token"])["state"] == "free"
    assert not server.client.exists("orbiter:deploy")
    assert lock(server, "release", ALICE["token"])["state"] == "free"


def test_it_is_taken_over_from_the_one_who_was_seen_to_have_it_only(server):
    carol = ALICE | {"token": "c" * 32}
    take(server, ALICE)
    assert take(server, BOB, ALICE["token"])["state"] == "held"
    assert take(server, carol, ALICE["token"])["state"] == "busy"
    assert take(server, carol, "*")["holder"]["token"] == carol["token"]


def test_each_namespace_has_one_of_its_own(server, monkeypatch):
    assert take(server, ALICE)["state"] == "held"
    monkeypatch.setenv("ORBITER_NAMESPACE", "{acme}")
    assert take(server, BOB)["state"] == "held"
    assert json.loads(server.client.get("{acme}:deploy"))["user"] == "bob"
    assert json.loads(server.client.get("orbiter:deploy"))["user"] == "alice"


def test_the_role_takes_and_gives_back_that_of_the_inventory_s_namespace(server, ansible, monkeypatch):
    monkeypatch.setenv("ORBITER_REDIS_CONFIG", str(server.config))
    host = f"host ansible_connection=local ansible_python_interpreter={sys.executable} lock_host=host"
    take_it = "    - include_role: {name: orbiter.fleet.lock}\n"
    release = "    - include_role: {name: orbiter.fleet.lock, tasks_from: release}\n"
    assert ansible([host], take_it, "--extra-vars=orbiter_namespace=acme").returncode == 0
    assert server.client.keys() == ["acme:deploy"]
    done = ansible([host], take_it + release, "--extra-vars=orbiter_namespace=acme")
    assert done.returncode == 0, done.stdout
    assert server.client.keys() == []


@pytest.mark.parametrize("nonsense", ["", "no json", "[]", "7", '"x"', "{}", '{"since": "never"}'])
def test_what_somebody_else_wrote_there_can_be_broken(server, nonsense):
    server.client.set("orbiter:deploy", nonsense)
    assert take(server, ALICE)["state"] == "busy"
    assert take(server, ALICE, "*")["state"] == "held"


def test_replica_asks_its_master(server, tmp_path):
    follow = (f"replicaof 127.0.0.1 {server.port}", 'masterauth "pass\\"word\\\\ #1"')
    with Server(tmp_path, *follow) as replica:
        wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up", within=60)
        assert take(replica, ALICE)["state"] == "held"
        assert json.loads(server.client.get("orbiter:deploy"))["user"] == "alice"
        assert take(server, BOB)["state"] == "busy"


def test_server_with_a_file_of_users_is_asked_over_its_socket(server, tmp_path):
    """With TLS no plain port is open, and the password is in a file of its own."""
    users, socket = tmp_path / "users.acl", tmp_path / "redis.sock"
    users.write_text(f"user default on #{sha256(server.password.encode()).hexdigest()} ~* &* +@all\n")
    (tmp_path / "admin.password").write_text(f"{server.password}\n")
    with Server(tmp_path, f"unixsocket {socket}", f"aclfile {users}", password_in_config=False) as other:
        assert take(other, ALICE)["state"] == "held"
        assert take(other, BOB)["state"] == "busy"


def test_host_without_redis_has_no_lock(server, tmp_path):
    environment = os.environ | {"ORBITER_REDIS_CONFIG": str(tmp_path / "redis.conf")}
    answer = subprocess.run(
        [sys.executable, SCRIPT, "show"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(answer)["reason"] == f"there is no {tmp_path}/redis.conf"
    (tmp_path / "redis.conf").write_text("port 1\n")
    answer = subprocess.run(
        [sys.executable, SCRIPT, "show"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(answer)["state"] == "absent"
    assert "Could not connect" in json.loads(answer)["reason"]
