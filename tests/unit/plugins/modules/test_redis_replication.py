"""A host's part in a group: real servers that replicate and a real sentinel; each member an address of the loopback."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time

import pytest
import redis
import trustme
from ansible_collections.orbiter.fleet.plugins.module_utils import _redis_group
from conftest import Server, free_port, wait_until

PASSWORD = 'of \\ the "operator"'
QUOTED = json.dumps(PASSWORD)
ME, OTHER, THIRD = "127.0.0.1", "127.0.0.2", "127.0.0.3"


class Group:
    """Servers at addresses of this machine, a sentinel beside the first one, and the files of its host."""

    def __init__(self, folder):
        self.etc = folder / "etc"
        self.etc.mkdir()
        self.port, self.sentinel_port = free_port(), free_port()
        self.processes = {}
        self.folder = folder
        self.describe()

    def describe(self, members=(ME, OTHER), **more):
        """Write the file that says what the group is."""
        about = {"me": ME, "members": list(members), "port": self.port, "password": PASSWORD, "service": "orbiter"}
        about |= {"sentinel_port": self.sentinel_port, "sentinel_password": PASSWORD, "quorum": 1, "min_replicas": 0}
        (self.etc / "fleet.json").write_text(json.dumps(about | {"patience": 20, "tls_ca": ""} | more))

    def serve(self, address, *lines, password=True):
        """Start a server; return a client."""
        folder = self.folder / address
        folder.mkdir(exist_ok=True)
        secret = [f"requirepass {QUOTED}", f"masterauth {QUOTED}"] if password else []
        config = folder / "redis.conf"
        own = [f"port {self.port}", f"bind {address}", f"dir {folder}", "repl-diskless-sync-delay 0", 'save ""']
        config.write_text("\n".join([*own, *secret, f"replica-announce-ip {address}", *lines, ""]))
        return self.start(address, config, self.port, password=password)

    def start(self, name, config, port, *options, password=True):
        command = ["redis-server", config, *options]
        self.processes[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        address = name if port == self.port else ME
        client = redis.Redis(address, port, password=PASSWORD if password else None, decode_responses=True, protocol=2)
        wait_until(lambda: answers(client), within=30)
        return client

    def watch(self, master=ME):
        """Start a sentinel that watches a master; return a client."""
        config = self.folder / "sentinel.conf"
        lines = [f"port {self.sentinel_port}", f"bind {ME}", f"requirepass {QUOTED}", f"dir {self.folder}"]
        lines += [f"sentinel monitor orbiter {master} {self.port} 1", f"sentinel auth-pass orbiter {QUOTED}"]
        config.write_text("\n".join([*lines, ""]))
        return self.start("sentinel", config, self.sentinel_port, "--sentinel")

    def end(self):
        for process in self.processes.values():
            process.kill()
            process.wait(20)


def answers(client):
    try:
        return client.ping()
    except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
        return False


@pytest.fixture
def group(tmp_path, monkeypatch):
    """Return a group whose servers end with the test. Who writes its files owns them."""
    monkeypatch.setattr(_redis_group.shutil, "chown", lambda *_: None)
    one = Group(tmp_path)
    yield one
    one.end()


@pytest.fixture
def bring(module, group):
    """Return a function that brings the host to a state."""

    def run(state, **options):
        answer = module("redis_replication", group=str(group.etc / "fleet.json"), state=state, **options)
        assert PASSWORD not in json.dumps(answer)
        assert QUOTED not in json.dumps(answer)
        return answer

    return run


@pytest.fixture
def ask(module, group):
    """Return a function that asks who is master."""
    return lambda **options: module("redis_replication_info", group=str(group.etc / "fleet.json"), **options)


# -- who is master -----------------------------------------------------------------------------------------------------


def test_the_sentinel_is_believed_over_a_server(group, ask):
    group.serve(ME, f"replicaof {OTHER} {group.port}")
    group.serve(OTHER)
    group.watch(master=OTHER)
    answer = ask()
    assert (answer["master"], answer["is_master"], answer["changed"]) == (OTHER, False, False)


def test_without_a_sentinel_it_is_whom_replicas_follow(group, ask):
    group.serve(ME, f"replicaof {OTHER} {group.port}")
    assert ask()["master"] == OTHER
    assert ask(check=True)["master"] == OTHER


def test_of_a_new_group_it_is_whoever_holds_data_or_the_first(group, ask):
    assert (ask()["master"], ask()["is_master"]) == (ME, True)
    group.serve(ME)
    group.serve(OTHER).set("task", "x")
    assert ask()["master"] == OTHER


def test_nobody_chooses_between_two_who_hold_data(group, ask, bring):
    group.serve(ME).set("task", "x")
    group.serve(OTHER).set("task", "y")
    for refused in (ask(), bring("joined")):
        assert refused["failed"]
        assert f"{ME} and {OTHER}" in refused["msg"]
        assert "FLUSHALL" in refused["msg"]
    assert not (group.etc / "replication.conf").exists()


def test_a_server_where_only_the_operator_may_do_everything_is_a_member(group, ask):
    known = hashlib.sha256(PASSWORD.encode()).hexdigest()
    users = ["user default on nopass -@all +ping +auth", f"user admin on #{known} ~* &* +@all"]
    group.serve(ME, f"replicaof {OTHER} {group.port}", *users, password=False)
    assert ask()["master"] == OTHER


def test_who_has_left_and_who_still_answers_is_told(group, ask):
    group.serve(THIRD)
    assert ask(addresses=[OTHER, THIRD])["answering"] == [THIRD]


def test_a_host_without_a_group_is_told_so(group, ask, bring):
    (group.etc / "fleet.json").write_text('{"me": "127.0.0.1"}')
    assert "fleet.json" in ask()["msg"]
    (group.etc / "fleet.json").unlink()
    for refused in (ask(), ask(check=True), bring("joined")):
        assert refused["failed"]
        assert "fleet.json" in refused["msg"]
    assert bring("joined", check=True)["changed"] is True  # a first run would describe it


def test_a_server_without_encryption_is_no_member_yet_and_costs_no_timeouts(server, group, ask):
    trustme.CA().cert_pem.write_to_path(group.etc / "ca.pem")
    # Sentinel's package starts it without encryption, too.
    ports = {"port": server.port, "sentinel_port": server.port}
    group.describe([ME], tls_ca=str(group.etc / "ca.pem"), password=Server.password, **ports)
    began = time.monotonic()
    answer = ask(addresses=[ME])
    assert (answer["master"], answer["answering"]) == (ME, [])
    assert time.monotonic() - began < 20  # five questions, of which each would take 5 s


# -- what it is brought to ---------------------------------------------------------------------------------------------


def test_a_new_host_begins_as_a_replica_and_joins_once(group, bring):
    group.serve(OTHER).set("task", "x")
    would = bring("joined", check=True, diff=True)
    assert not (group.etc / "replication.conf").exists()
    done = bring("joined", diff=True)
    assert (would["changed"], would["diff"]) == (done["changed"], done["diff"]) == (True, done["diff"])
    assert done["master"] == OTHER
    written = (group.etc / "replication.conf").read_text()
    assert written.endswith(f"include {group.etc}/member.conf\nreplicaof {OTHER} {group.port}\n")
    assert done["diff"][0]["after"] == written
    assert (group.etc / "replication.conf").stat().st_mode & 0o777 == 0o640
    assert bring("joined")["changed"] is False
    (group.etc / ".restart-pending").touch()
    assert bring("joined")["changed"] is True  # one was interrupted


def test_the_first_master_follows_nobody(group, bring):
    assert bring("joined")["master"] == ME
    assert "replicaof" not in (group.etc / "replication.conf").read_text()


def test_data_of_the_packages_own_server_are_not_lost_to_a_master(group, bring):
    group.serve(ME, password=False).set("task", "x")
    group.serve(OTHER)
    group.serve(THIRD, f"replicaof {OTHER} {group.port}")
    group.describe([ME, OTHER, THIRD])
    refused = bring("joined")
    assert f"replica of {OTHER}" in refused["msg"]
    assert not (group.etc / "replication.conf").exists()


def test_settings_that_differ_are_made_known_without_showing_a_password(group, bring):
    client = group.serve(ME)
    client.config_set("masterauth", "an old one")
    (group.etc / "member.conf").write_text(f"# ours\nmasterauth {QUOTED}\nmin-replicas-max-lag 7\n")
    # Started with its own file, as systemd would do.
    (group.etc / "replication.conf").write_text("")
    state = _redis_group.Group(group.etc / "fleet.json")
    state.state = group.folder / ME / "redis.conf"
    answer = state.settle(check=False)
    assert answer["settings"] == ["masterauth", "min-replicas-max-lag"]
    assert answer["diff"][1]["before"] == "10\n"
    assert answer["diff"][1]["after"] == "7\n"
    assert PASSWORD not in json.dumps(answer)
    assert client.config_get("masterauth") == {"masterauth": PASSWORD}
    assert state.settle(check=False)["changed"] is False


def test_a_setting_that_redis_refuses_is_named(group):
    group.serve(ME)
    (group.etc / "member.conf").write_text("min-replicas-max-lag often\n")
    state = _redis_group.Group(group.etc / "fleet.json")
    state.state = group.folder / ME / "redis.conf"
    with pytest.raises(_redis_group.GroupError, match="min-replicas-max-lag"):
        state.settle(check=False)


def test_a_master_without_enough_replicas_is_not_in_step(group):
    group.serve(ME, "min-replicas-to-write 1")
    (group.etc / "member.conf").write_text("")
    group.describe(min_replicas=1, patience=1)
    state = _redis_group.Group(group.etc / "fleet.json")
    state.state = group.folder / ME / "redis.conf"
    with pytest.raises(_redis_group.NotInTimeError, match="min-replicas-to-write"):
        state.settle(check=False)
    group.serve(OTHER, f"replicaof {ME} {group.port}")
    group.describe(min_replicas=1)
    state = _redis_group.Group(group.etc / "fleet.json")
    state.state = group.folder / ME / "redis.conf"
    assert state.settle(check=False)["changed"] is False


def test_a_new_sentinel_begins_with_the_master_of_now(group, bring):
    group.serve(ME, f"replicaof {OTHER} {group.port}")
    lines = ["sentinel monitor mymaster 127.0.0.1 6379 2", "sentinel auth-pass mymaster hidden", ""]
    (group.etc / "sentinel.conf").write_text("\n".join(lines))
    before = (group.etc / "sentinel.conf").read_text()
    assert bring("watched", check=True)["changed"] is True
    assert (group.etc / "sentinel.conf").read_text() == before
    answer = bring("watched", diff=True)
    assert answer["master"] == OTHER
    assert "hidden" not in json.dumps(answer)
    assert f"\nsentinel monitor orbiter {OTHER} {group.port} 1\n" in (group.etc / "sentinel.conf").read_text()
    assert bring("watched")["changed"] is False


def test_who_has_left_is_forgotten_and_the_quorum_is_set(group, bring):
    group.serve(ME)
    group.serve(OTHER, f"replicaof {ME} {group.port}")
    group.serve(THIRD, f"replicaof {ME} {group.port}")
    sentinel = group.watch()

    def knows():
        return {one["ip"] for one in sentinel.sentinel_slaves("orbiter")}

    wait_until(lambda: knows() == {OTHER, THIRD}, within=30)
    group.processes[THIRD].kill()
    sentinel.execute_command("SENTINEL SET", "orbiter", "quorum", 2)
    would = bring("agreed", check=True)
    assert (would["changed"], would["forgotten"]) == (True, [THIRD])
    assert knows() == {OTHER, THIRD}
    done = bring("agreed", diff=True)
    assert (done["changed"], done["forgotten"]) == (True, [THIRD])
    assert done["diff"] == [{"before": f"quorum 2\nknows {THIRD}\n", "after": "quorum 1\n"}]
    wait_until(lambda: knows() == {OTHER}, within=30)
    assert bring("agreed")["changed"] is False


# -- whose turn it is to restart ---------------------------------------------------------------------------------------


def test_a_turn_is_the_replicas_or_the_masters(group, bring):
    assert bring("restarted")["failed"]
    (group.etc / "replication.conf").write_text(f"# ours\nreplicaof {OTHER} {group.port}\n")
    assert bring("restarted", turn="master")["changed"] is False
    assert bring("restarted", turn="replica", check=True)["changed"] is True
    assert not (group.etc / ".restart-pending").exists()
    (group.etc / "replication.conf").write_text("# ours\n")
    assert bring("restarted", turn="replica")["changed"] is False
    assert bring("restarted", turn="master", check=True)["changed"] is True


def test_no_replica_restarts_while_another_is_missing(group):
    group.serve(ME, f"replicaof {OTHER} {group.port}")
    group.serve(OTHER)
    group.describe([ME, OTHER, THIRD], patience=1)
    state = _redis_group.Group(group.etc / "fleet.json")
    state.state = group.folder / ME / "redis.conf"
    with pytest.raises(_redis_group.NotInTimeError, match="one more would be missing"):
        state.restart("replica", check=False)
    assert (group.etc / ".restart-pending").exists()  # it is still due


def test_the_master_hands_over_before_it_restarts(group, monkeypatch):
    mine = group.serve(ME)
    other = group.serve(OTHER, f"replicaof {ME} {group.port}")
    mine.set("task", "x")
    sentinel = group.watch()
    wait_until(lambda: len(sentinel.sentinel_slaves("orbiter")) == 1, within=30)
    state = _redis_group.Group(group.etc / "fleet.json")
    state.state = group.folder / ME / "redis.conf"
    restarted = []
    monkeypatch.setattr(state, "_restart_unit", lambda: restarted.append(other.info("replication")["role"]))
    assert state.restart("master", check=False)["changed"] is True
    assert restarted == ["master"]
    assert mine.info("replication")["role"] == "slave"
    assert other.get("task") == "x"
