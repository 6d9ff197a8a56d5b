"""The deploy lock is held by one run at a time, and by nobody for ever."""

from __future__ import annotations

import asyncio
import json
import sys
from hashlib import sha256

import pytest
import trustme
from conftest import Server, free_port, wait_until

from orbiter.distributed.broker.deploys import Deploys

ALICE = {"token": "a" * 32, "user": "alice", "controller": "laptop", "pid": 17, "playbook": "site", "machine": "m"}
BOB = ALICE | {"token": "b" * 32, "user": "bob"}


@pytest.fixture
def lock(module):
    """Return a function that runs the module as on a Redis host."""

    def run(server, state, run=None, **options):
        return module("deploy_lock", config=str(server.config), state=state, run=run, **options)

    return run


@pytest.fixture
def take(lock):
    def run(server, who, *tokens, **options):
        return lock(server, "held", who, take_from=tokens, **options)

    return run


def test_one_run_holds_it_and_the_other_is_told_who(server, lock, take):
    assert lock(server, "shown")["state"] == "free"
    assert take(server, ALICE)["state"] == "held"
    told = take(server, BOB)
    assert told["state"] == "busy"
    assert told["holder"]["token"] == ALICE["token"]
    assert told["who"].startswith("site by alice@laptop (process 17) since 20")
    assert lock(server, "shown")["who"].startswith("site by alice@laptop")


def test_it_ends_by_itself(server, lock, take):
    take(server, ALICE, seconds=0.2)
    wait_until(lambda: take(server, BOB)["state"] == "held", within=20)


def test_it_never_stays_without_an_end(server, lock, take):
    take(server, ALICE, seconds=60)
    assert 0 < server.client.pttl("orbiter:deploy") <= 60_000


def test_taking_it_again_renews_it_and_keeps_since_when(server, lock, take):
    first = take(server, ALICE, seconds=60)
    again = take(server, ALICE, seconds=600)
    assert again["state"] == "held"
    assert again["holder"]["since"] == first["holder"]["since"]
    assert server.client.pttl("orbiter:deploy") > 60_000


def test_it_is_given_back_by_its_holder_only(server, lock, take):
    take(server, ALICE)
    assert lock(server, "free", BOB)["state"] == "busy"
    assert lock(server, "free", ALICE)["state"] == "free"
    assert not server.client.exists("orbiter:deploy")
    assert lock(server, "free", ALICE)["state"] == "free"


def test_it_is_taken_over_from_the_one_who_was_seen_to_have_it_only(server, lock, take):
    carol = ALICE | {"token": "c" * 32}
    take(server, ALICE)
    assert take(server, BOB, ALICE["token"])["state"] == "held"
    assert take(server, carol, ALICE["token"])["state"] == "busy"
    assert take(server, carol, "*")["holder"]["token"] == carol["token"]


def test_each_namespace_has_one_of_its_own(server, take):
    assert take(server, ALICE)["state"] == "held"
    assert take(server, BOB, namespace="{acme}")["state"] == "held"
    assert json.loads(server.client.get("{acme}:deploy"))["user"] == "bob"
    assert json.loads(server.client.get("orbiter:deploy"))["user"] == "alice"


def test_the_role_takes_and_gives_back_that_of_the_inventory_s_namespace(server, ansible):
    host = f"host ansible_connection=local ansible_python_interpreter={sys.executable} lock_host=host"
    where = f"    - module_defaults: {{orbiter.fleet.deploy_lock: {{config: {server.config}}}}}\n      block:\n"
    take_it = "        - include_role: {name: orbiter.fleet.lock}\n"
    release = "        - include_role: {name: orbiter.fleet.lock, tasks_from: release}\n"
    done = ansible([host], where + take_it, "--extra-vars=orbiter_namespace=acme")
    assert done.returncode == 0, done.stdout
    assert sorted(server.client.keys()) == ["acme:deploy", "acme:deploys"]
    # Another run, which finds the first one ended.
    done = ansible([host], where + take_it + release, "--extra-vars=orbiter_namespace=acme")
    assert done.returncode == 0, done.stdout
    assert server.client.keys() == ["acme:deploys"]
    assert [row["outcome"] for row in deploys(server, "acme")] == ["began", "began", "failed"]


def deploys(server, namespace="orbiter"):
    return [fields for entry, fields in server.client.xrange(f"{namespace}:deploys")]


def test_a_run_is_written_down_as_it_begins_and_as_it_ends(server, lock, take):
    take(server, ALICE)
    take(server, ALICE)
    take(server, BOB)
    lock(server, "free", BOB, outcome="failed")
    lock(server, "free", ALICE, release="0.2.0-1f2e3d4c")
    lock(server, "free", ALICE)
    known = {name: str(ALICE[name]) for name in ("token", "user", "controller", "playbook")}
    assert deploys(server) == [
        known | {"outcome": "began", "release": ""},
        known | {"outcome": "ended", "release": "0.2.0-1f2e3d4c"},
    ]


def test_a_run_that_is_not_to_be_noted_is_not_at_its_end_either(server, lock, take):
    take(server, ALICE, noted=False)
    take(server, ALICE)
    lock(server, "free", ALICE)
    assert deploys(server) == []


def test_the_last_deploys_are_kept_and_no_lock_depends_on_them(server, lock, take):
    for number in range(1200):
        server.client.xadd("orbiter:deploys", {"token": str(number)})
    take(server, ALICE)
    assert server.client.xlen("orbiter:deploys") < 1150
    server.client.set("orbiter:deploys", "spoilt")
    assert lock(server, "free", ALICE)["state"] == "free"
    assert take(server, BOB)["state"] == "held"


def test_the_last_deploys_are_told_as_the_dashboard_tells_them(server, lock, take):
    take(server, ALICE)
    take(server, BOB, "*")
    lock(server, "free", BOB, outcome="failed", release="2")
    take(server, ALICE)
    told = lock(server, "shown", deploys=10)["deploys"]
    assert [(one["user"], one["outcome"], one["release"]) for one in told] == [
        ("alice", "", ""),
        ("bob", "failed", "2"),
        ("alice", "interrupted", ""),
    ]
    assert told[1]["began"] <= told[1]["ended"]
    assert told[0]["ended"] is None
    assert len(lock(server, "shown", deploys=2)["deploys"]) == 2
    assert lock(server, "shown")["deploys"] == []
    everybody = Deploys(server.url, namespace="orbiter")
    shown = asyncio.run(newest(everybody))
    assert [(one.who, one.outcome, one.began, one.ended) for one in shown] == [
        (one["user"], one["outcome"], one["began"], one["ended"]) for one in told
    ]


async def newest(deploys):
    try:
        await deploys.connect()
        return await deploys.newest()
    finally:
        await deploys.disconnect()


def test_a_stream_of_deploys_that_is_none_is_none(server, lock):
    server.client.set("orbiter:deploys", "spoilt")
    assert lock(server, "shown", deploys=5)["deploys"] == []


def test_a_check_takes_nothing_and_tells_what_it_would(server, lock, take):
    free = take(server, ALICE, check=True)
    assert (free["state"], free["changed"]) == ("free", True)
    assert "alice" in free["diff"]["after"]
    assert not server.client.exists("orbiter:deploy", "orbiter:deploys")
    take(server, ALICE)
    busy = take(server, BOB, check=True)
    assert (busy["state"], busy["changed"]) == ("busy", False)
    assert take(server, BOB, ALICE["token"], check=True)["changed"]
    assert lock(server, "free", ALICE, check=True)["changed"]
    assert not lock(server, "free", BOB, check=True)["changed"]
    assert lock(server, "shown", ALICE)["state"] == "held"


def test_a_run_without_a_token_is_refused(server, take):
    assert "token" in take(server, {"user": "alice"})["msg"]


@pytest.mark.parametrize("nonsense", ["", "no json", "[]", "7", '"x"', "{}", '{"since": "never"}'])
def test_what_somebody_else_wrote_there_can_be_broken(server, take, nonsense):
    server.client.set("orbiter:deploy", nonsense)
    assert take(server, ALICE)["state"] == "busy"
    assert take(server, ALICE, "*")["state"] == "held"


def test_replica_asks_its_master(server, take, tmp_path):
    follow = (f"replicaof 127.0.0.1 {server.port}", 'masterauth "pass\\"word\\\\ #1"')
    with Server(tmp_path, *follow) as replica:
        wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up", within=60)
        assert take(replica, ALICE)["state"] == "held"
        assert json.loads(server.client.get("orbiter:deploy"))["user"] == "alice"
        assert take(server, BOB)["state"] == "busy"


def test_replica_asks_its_master_as_it_follows_it_now(take, tmp_path):
    """In the middle of a move to TLS it follows by TLS already, and its file does not say so."""
    authority, files, port = trustme.CA(), tmp_path / "tls", free_port()
    files.mkdir()
    authority.cert_pem.write_to_path(str(files / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(files / "own.pem"))
    tls = [f"tls-{kind}-file {files}/own.pem" for kind in ("cert", "key")]
    tls += [f"tls-ca-cert-file {files}/ca.pem", "tls-auth-clients no"]
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with Server(tmp_path / "one", f"tls-port {port}", *tls) as master:
        follow = (f"replicaof 127.0.0.1 {master.port}", 'masterauth "pass\\"word\\\\ #1"')
        with Server(tmp_path / "other", *follow, *tls) as replica:
            replica.client.config_set("tls-replication", "yes")
            replica.client.replicaof("127.0.0.1", port)
            wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up", within=60)
            assert take(replica, ALICE)["state"] == "held"
            assert json.loads(master.client.get("orbiter:deploy"))["user"] == "alice"


def test_server_with_a_file_of_users_is_asked_over_its_socket(server, take, tmp_path):
    """With TLS no plain port is open, and the password is in a file of its own."""
    users, socket = tmp_path / "users.acl", tmp_path / "redis.sock"
    secret = sha256(server.password.encode()).hexdigest()
    users.write_text(f"user default off resetpass -@all\nuser admin on #{secret} ~* &* +@all\n")
    (tmp_path / "admin.password").write_text(f"{server.password}\n")
    with Server(tmp_path, f"unixsocket {socket}", f"aclfile {users}", user="admin") as other:
        assert take(other, ALICE)["state"] == "held"
        assert take(other, BOB)["state"] == "busy"


def test_host_without_redis_has_no_lock(lock, module, tmp_path):
    config = tmp_path / "redis.conf"
    absent = module("deploy_lock", state="shown", config=str(config))
    assert (absent["state"], absent["reason"]) == ("absent", f"there is no {config} yet")
    config.write_text("port 1\n")
    absent = module("deploy_lock", state="shown", config=str(config))
    assert absent["state"] == "absent"
    assert "127.0.0.1 port 1" in absent["reason"]
