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


def test_a_restart_is_due_where_the_server_listens_at_other_ports_than_its_file_says(group, bring, monkeypatch):
    socket = group.folder / "redis.sock"
    monkeypatch.setattr(_redis_group, "SOCKET", str(socket))
    group.serve(
        ME, f"unixsocket {socket}", f"user admin on >{PASSWORD.split(maxsplit=1)[0]} ~* &* +@all", password=False
    )
    (group.etc / "admin.password").write_text(PASSWORD.split(maxsplit=1)[0])
    (group.etc / "replication.conf").write_text("")
    (group.etc / "redis.conf").write_text(f"port {group.port}\ntls-port 0\n")
    assert bring("joined")["changed"] is False
    (group.etc / "redis.conf").write_text(f"port {group.port}\ntls-port 1\n")
    assert bring("joined")["changed"] is True


def test_a_server_of_the_role_at_another_port_is_not_restarted(group, bring, monkeypatch):
    """As one without TLS, where its group is to have it at another port: nobody could see whether it is in step."""
    socket = group.folder / "redis.sock"
    monkeypatch.setattr(_redis_group, "SOCKET", str(socket))
    group.serve(
        ME, f"unixsocket {socket}", f"user admin on >{PASSWORD.split(maxsplit=1)[0]} ~* &* +@all", password=False
    )
    (group.etc / "admin.password").write_text(PASSWORD.split(maxsplit=1)[0])
    group.describe(port=free_port())
    answer = bring("restarted", turn="master")
    assert answer["failed"]
    assert "orbiter.fleet.redis_tls" in answer["msg"]


# -- from ports without TLS to those with it ---------------------------------------------------------------------------


class TwoPorts(Group):
    """A group whose members and sentinel have both ports open, and use those without TLS among themselves."""

    def __init__(self, folder):
        super().__init__(folder)
        self.secure, self.sentinel_secure = free_port(), free_port()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        issued = authority.issue_cert(ME, OTHER, THIRD)
        issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
        both = folder / "both.pem"
        self.tls = [f"tls-cert-file {both}", f"tls-key-file {both}", f"tls-ca-cert-file {folder}/ca.pem"]
        self.tls.append("tls-auth-clients no")
        self.sentinel_process = None

    def member(self, address, *lines):
        """Start a member; return a client."""
        return self.serve(address, f"tls-port {self.secure}", *self.tls, "user admin on nopass ~* &* +@all", *lines)

    def change_over(self):
        """Describe the group as it is to be."""
        ports = {"port": self.secure, "sentinel_port": self.sentinel_secure}
        self.describe([ME, OTHER, THIRD], tls_ca=str(self.folder / "ca.pem"), **ports)
        (self.etc / "member.conf").write_text(f"replica-announce-port {self.secure}\ntls-replication yes\n")
        self.configure_sentinel("yes", self.sentinel_secure)
        state = _redis_group.Group(self.etc / "fleet.json")
        state.state = self.folder / ME / "redis.conf"
        return state

    def configure_sentinel(self, replication, port):
        """Write the sentinel's settings, which its own file includes."""
        lines = [f"port {self.sentinel_port}", f"tls-port {self.sentinel_secure}", *self.tls, f"bind {ME}"]
        lines += [f"requirepass {QUOTED}", f"dir {self.folder}", f"tls-replication {replication}"]
        lines += [f"sentinel announce-ip {ME}", f"sentinel announce-port {port}"]
        lines += [f"sentinel auth-pass orbiter {QUOTED}", "sentinel failover-timeout orbiter 2000"]
        (self.etc / "sentinel-settings.conf").write_text("\n".join([*lines, ""]))

    def systemctl(self, verb, *_, unit):
        """Start or stop the sentinel, as systemd would."""
        if verb == "stop":
            self.processes["sentinel"].terminate()
            self.processes["sentinel"].wait(20)
        else:
            self.start("sentinel", self.etc / "sentinel.conf", self.sentinel_port, "--sentinel")
        return subprocess.CompletedProcess([unit], 0)


@pytest.fixture
def two_ports(tmp_path, monkeypatch):
    """Return a group of three with a sentinel, whose first member is a replica."""
    monkeypatch.setattr(_redis_group.shutil, "chown", lambda *_: None)
    one = TwoPorts(tmp_path)
    monkeypatch.setattr(_redis_group, "_systemctl", one.systemctl)
    monkeypatch.setattr(_redis_group.subprocess, "run", lambda *_, **__: None)  # daemon-reload
    one.master = one.member(OTHER)
    one.client = one.member(ME, f"replicaof {OTHER} {one.port}")
    one.member(THIRD, f"replicaof {OTHER} {one.port}")
    one.configure_sentinel("no", one.sentinel_port)
    included, watched = f"include {one.etc}/sentinel-settings.conf", f"sentinel monitor orbiter {OTHER} {one.port} 1"
    (one.etc / "sentinel.conf").write_text(f"{included}\n{watched}\n")
    one.sentinel = one.start("sentinel", one.etc / "sentinel.conf", one.sentinel_port, "--sentinel")
    wait_until(lambda: len(one.sentinel.sentinel_slaves("orbiter")) == 2, within=30)
    yield one
    one.end()


def test_a_replica_changes_to_the_masters_other_port_and_no_sentinel_puts_it_back(two_ports):
    state = two_ports.change_over()
    assert state.leave_alone(check=False)["changed"] is True
    assert two_ports.sentinel.sentinel_master("orbiter")["failover-timeout"] > 60_000
    wait_until(lambda: state.in_step(ME), within=30)
    copies = two_ports.master.info("stats")["sync_full"]  # the master counts them
    assert copies > 0
    answer = state.settle(check=False)
    assert (answer["changed"], answer["settings"]) == (True, ["replica-announce-port", "tls-replication"])
    assert two_ports.client.info("replication")["master_port"] == two_ports.secure
    assert f"replicaof {OTHER} {two_ports.secure}" in (two_ports.folder / ME / "redis.conf").read_text()
    assert two_ports.master.info("stats")["sync_full"] == copies
    assert state.settle(check=False)["changed"] is False
    # Longer than the two seconds that the sentinel would have waited.
    time.sleep(5)
    assert two_ports.client.info("replication")["master_port"] == two_ports.secure


def test_a_replica_that_is_sent_back_while_it_is_waited_for_changes_again(two_ports, monkeypatch):
    """As by a sentinel that has not changed over yet, in a failover."""
    state = two_ports.change_over()
    follow, sent = state._follow, []

    def follow_and_be_sent_back(master):
        follow(master)
        if not sent:
            two_ports.client.replicaof(OTHER, two_ports.port)
        sent.append(master)

    monkeypatch.setattr(state, "_follow", follow_and_be_sent_back)
    assert state.settle(check=False)["changed"] is True
    assert sent == [OTHER, OTHER]
    assert two_ports.client.info("replication")["master_port"] == two_ports.secure


def test_a_sentinel_changes_to_the_masters_other_port_and_keeps_its_epoch(two_ports):
    state = two_ports.change_over()
    kept = [
        line for line in (two_ports.etc / "sentinel.conf").read_text().splitlines() if "epoch" in line or "myid" in line
    ]
    assert kept
    assert state.watch(check=False)["changed"] is True
    state.settle(check=False)
    state.watch_anew(check=False)
    lines = (two_ports.etc / "sentinel.conf").read_text().splitlines()
    assert set(kept) <= set(lines)
    assert f"sentinel monitor orbiter {OTHER} {two_ports.secure} 1" in lines
    assert state.watch(check=False)["changed"] is False
    assert state.named_by_sentinels() == OTHER
    assert state.leave_alone(check=False)["changed"] is False


def test_a_sentinel_that_has_heard_of_the_other_port_since_is_told_again(two_ports):
    """A failover by those that have not changed over yet: they tell it of a master at their port."""
    state = two_ports.change_over()
    state.settle(check=False)
    state.watch_anew(check=False)
    epoch = two_ports.sentinel.sentinel_master("orbiter")["config-epoch"] + 1
    news = f"{THIRD},1,{'0' * 40},{epoch},orbiter,{OTHER},{two_ports.port},{epoch}"

    def heard():
        two_ports.master.publish("__sentinel__:hello", news)
        return two_ports.sentinel.sentinel_master("orbiter")["port"] == two_ports.port

    wait_until(heard, within=30)
    state.agree(check=False)
    assert two_ports.sentinel.sentinel_master("orbiter")["port"] == two_ports.secure
