"""A Redis that is somebody else's is seen before the role touches it, and adopted without losing what it holds."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time

import pytest
import redis
import trustme
from ansible_collections.orbiter.fleet.plugins.module_utils import _host, _redis_host, _redis_keep
from conftest import free_port, wait_until

WANTED = {
    "appendonly": "yes",
    "appendfilename": "appendonly.aof",
    "appenddirname": "appendonlydir",
    "databases": "16",
    "maxmemory": "1gb",
    "modules": [],
    "namespace": "orbiter",
    "queues": ["orbiter:tasks"],
    "sentinel": False,
}
SAVE_NEVER = 'save ""'


class Host:
    """A host's Redis: its files in folders of the test's own, a real server, and no systemd."""

    def __init__(self, folder, module, monkeypatch):
        self.module = module
        self.etc, self.data = folder / "etc", folder / "data"
        self.config = self.etc / "redis.conf"
        self.port, self.process, self.start = free_port(), None, ""
        for path in (self.etc, self.data):
            path.mkdir()
        self.packaged = f"port {self.port}\nbind 127.0.0.1\ndir {self.data}\nsave 3600 1\n"
        self.config.write_text(self.packaged)
        self.mark = f"include {self.etc}/dynamic.conf"
        replaced = {"ETC": self.etc, "CONFIG": self.config, "DATA": self.data, "MARK": self.mark}
        replaced |= {"unit": self.unit, "shipped": lambda: hashlib.md5(self.packaged.encode()).hexdigest()}
        for name, value in replaced.items():
            monkeypatch.setattr(_redis_host, name, value)
        monkeypatch.setattr(_redis_keep, "DROP_INS", folder / "none")

    def unit(self):
        """Say what systemd would say."""
        alive = self.process is not None and self.process.poll() is None
        return {"MainPID": str(self.process.pid) if alive else "0", "ExecStart": self.start}

    def configure(self, *lines):
        """Add lines to the packaged configuration."""
        self.config.write_text(self.packaged + "\n".join([*lines, ""]))
        return self

    def run(self, password=None):
        """Start the server; return a client."""
        self.process = subprocess.Popen(["redis-server", self.config], stdout=subprocess.DEVNULL)
        client = redis.Redis(port=self.port, password=password, decode_responses=True, protocol=2)
        wait_until(lambda: self.answers(client), within=30)
        return client

    @staticmethod
    def answers(client):
        try:
            return client.ping()
        except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
            return False

    def stop(self, *, kill=False):
        """End the server."""
        if self.process is not None:
            self.process.kill() if kill else self.process.terminate()
            self.process.wait(20)

    def seen(self, **wanted):
        """Return what is seen of it."""
        seen = self.module("host_info", redis=WANTED | wanted)["redis"]
        return {name: seen[name] for name in ("ours", "foreign", "hurdles", "unsaved")}

    def adopt(self, *, check=False, diff=False, **wanted):
        """Adopt it; return the answer."""
        return self.module("redis_adopt", files=WANTED | wanted, adopt=True, aside="before", check=check, diff=diff)

    def state(self):
        """Return all that a refusal must leave as it is."""
        return {str(path): path.read_bytes() for path in sorted(self.etc.glob("**/*")) if path.is_file()}

    def become_the_role_s(self):
        """Write the files as the role would."""
        (self.etc / "dynamic.conf").write_text("appendonly yes\n")
        self.config.write_text(f"port {self.port}\nbind 127.0.0.1\ndir {self.data}\n{self.mark}\n")


@pytest.fixture
def host(tmp_path, module, monkeypatch):
    """Return a host; its server ends with the test."""
    one = Host(tmp_path, module, monkeypatch)
    yield one
    one.stop(kill=True)


def close(client):
    client.close()
    client.connection_pool.disconnect()


def fill(client, keys=3):
    """Write some keys, and leave."""
    client.mset({f"shop:cart:{number}": "apples" for number in range(keys)})
    close(client)


# -- whose it is -------------------------------------------------------------------------------------------------------


def test_a_host_without_redis_is_nobody_elses(host):
    host.config.unlink()
    assert host.seen() == {"ours": False, "foreign": [], "hurdles": [], "unsaved": False}


@pytest.mark.parametrize("runs", [True, False])
def test_a_fresh_package_is_nobody_elses(host, runs):
    close(host.run())
    if not runs:
        host.stop()  # it writes an RDB file with nothing in it
        assert (host.data / "dump.rdb").exists()
    assert host.seen() == {"ours": False, "foreign": [], "hurdles": [], "unsaved": False}


@pytest.mark.parametrize("more", ["requirepass old-release", "aclfile /etc/redis/users.acl"])
def test_what_either_release_of_the_role_has_made_is_its_own(host, more):
    (host.etc / "dynamic.conf").write_text("appendonly yes\n")
    host.config.write_text(f"port {host.port}\n{more}\n{host.mark}\n")
    (host.data / "appendonly.aof").write_text("data")
    assert host.seen() == {"ours": True, "foreign": [], "hurdles": [], "unsaved": False}


def test_data_of_another_application_are_named_with_port_and_keys(host):
    fill(host.run())
    seen = host.seen()
    said = "; ".join(seen["foreign"])
    assert f"at port {host.port}" in said
    assert "3 keys in database 0" in said
    assert "package's own" in said
    assert (seen["hurdles"], seen["unsaved"]) == ([], True)


def test_a_queue_set_up_by_hand_is_recognized(host):
    client = host.configure("appendonly yes").run()
    client.xadd("orbiter:tasks", {"task": "x"})
    close(client)
    seen = host.seen()
    assert "queue of Orbiter" in "; ".join(seen["foreign"])
    assert seen["unsaved"] is False


def test_a_changed_configuration_is_somebody_elses_even_without_data(host):
    close(host.configure("maxmemory 64mb").run())
    assert "neither the role's nor the package's" in "; ".join(host.seen()["foreign"])


def test_a_client_of_an_empty_server_is_somebody_else(host):
    client = host.run()
    client.ping()
    assert "1 clients" in "; ".join(host.seen()["foreign"])
    close(client)


def test_a_deploy_lock_of_an_interrupted_run_is_no_data(host):
    client = host.run()
    client.set("orbiter:deploy", "somebody", ex=3600)
    client.xadd("orbiter:deploys", {"outcome": "began"})
    close(client)
    assert host.seen() == {"ours": False, "foreign": [], "hurdles": [], "unsaved": False}


def test_the_sentinel_of_the_package_is_no_client(host, tmp_path):
    client = host.run()
    (tmp_path / "sentinel.conf").write_text(f"port {free_port()}\nsentinel monitor mymaster 127.0.0.1 {host.port} 2\n")
    command = ["redis-server", tmp_path / "sentinel.conf", "--sentinel"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as sentinel:
        try:
            wait_until(lambda: len(client.client_list()) == 3, within=20)
            close(client)
            assert host.seen()["foreign"] == []
        finally:
            sentinel.terminate()


@pytest.mark.parametrize("persistence", ["save 3600 1", "appendonly yes"])
def test_data_of_a_server_that_does_not_run_are_seen(host, persistence):
    client = host.run()
    client.config_set("appendonly", "yes" if "append" in persistence else "no")
    wait_until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0, within=20)
    fill(client)
    host.stop()
    seen = host.seen()
    assert str(host.data) in "; ".join(seen["foreign"])
    assert seen["unsaved"] is True  # its configuration does not say appendonly


def test_a_password_of_its_configuration_is_no_secret_to_root(host):
    fill(host.configure('requirepass "with a \\" in it"').run('with a " in it'))
    seen = host.seen()
    assert "3 keys" in "; ".join(seen["foreign"])
    assert 'with a "' not in json.dumps(seen)
    assert seen["hurdles"] == []


def test_a_server_that_lets_nobody_in_is_refused_until_its_password_is_known(host):
    users = host.etc / "its-users"
    users.write_text(f"user default on #{hashlib.sha256(b'unknown').hexdigest()} ~* &* +@all\n")
    fill(host.configure(f"aclfile {users}").run("unknown"))
    seen = host.seen()
    assert "wants a password" in "; ".join(seen["foreign"])
    assert "admin.password" in seen["hurdles"][0]
    (host.etc / "admin.password").write_text("unknown\n")
    seen = host.seen()
    assert "3 keys" in "; ".join(seen["foreign"])
    assert seen["hurdles"] == []


def test_a_server_that_hides_its_settings_is_refused(host):
    fill(host.configure("rename-command CONFIG hidden").run())
    seen = host.seen()
    assert "unknown command" in "; ".join(seen["foreign"])
    assert "refuses what adopting needs" in seen["hurdles"][0]


def test_a_socket_alone_is_enough(host):
    host.config.write_text(f"port 0\nunixsocket {host.data}/redis.sock\ndir {host.data}\n")
    host.process = subprocess.Popen(["redis-server", host.config], stdout=subprocess.DEVNULL)
    client = redis.Redis(unix_socket_path=f"{host.data}/redis.sock")
    wait_until(lambda: host.answers(client), within=30)
    fill(client)
    assert "3 keys" in "; ".join(host.seen()["foreign"])


@pytest.mark.parametrize("ours", [True, False])
def test_another_server_with_the_same_data_directory_is_refused(host, tmp_path, ours):
    other = Host.__new__(Host)
    other.port, other.config = free_port(), tmp_path / "other.conf"
    other.config.write_text(f"port {other.port}\ndir {host.data}\n")
    if ours:
        host.config.write_text(f"{host.mark}\n")
    close(other.run())
    seen = host.seen()
    other.stop(kill=True)
    assert str(host.data) in seen["foreign"][0]
    assert len(seen["hurdles"]) == 1


def test_a_unit_with_a_file_of_its_own_is_refused(host, tmp_path):
    host.start = f"{{ path=/usr/bin/redis-server ; argv[]=/usr/bin/redis-server {tmp_path}/app.conf --daemonize no ; }}"
    close(host.run())
    assert "app.conf" in host.seen()["foreign"][1]
    assert "app.conf" in host.seen()["hurdles"][0]


def test_a_server_of_another_make_is_refused(host, tmp_path):
    shutil.copy(shutil.which("redis-server"), tmp_path / "valkey-server")
    host.process = subprocess.Popen([tmp_path / "valkey-server", host.config], stdout=subprocess.DEVNULL)
    wait_until(lambda: _host.process_name(host.process.pid) == "valkey-server", within=20)
    assert "valkey-server" in host.seen()["hurdles"][0]


SENTINELS = {
    "as the package brings it": ("sentinel monitor mymaster 127.0.0.1 6379 2\nsentinel myid 1234\n", False),
    "of the role": ("include /etc/redis/sentinel-settings.conf\nsentinel monitor orbiter 10.0.0.1 6379 2\n", False),
    "of another group": ("port 26379\nsentinel monitor shop 10.0.0.1 6379 2\n", True),
}


@pytest.mark.parametrize("kind", SENTINELS)
def test_a_sentinel_of_another_group_is_refused_in_a_group(host, kind):
    text, foreign = SENTINELS[kind]
    (host.etc / "sentinel.conf").write_text(text)
    assert bool(host.seen(sentinel=True)["foreign"]) == foreign
    assert host.seen()["foreign"] == []


# -- why it cannot be adopted ------------------------------------------------------------------------------------------

HURDLES = {
    "appendfilename": (["appendfilename app.aof"], {}, "appendfilename is app.aof"),
    "appenddirname": (["appenddirname app"], {}, "appenddirname is app"),
    "another directory": (["dir /"], {}, "its data are in /"),
    "too many databases": (["databases 32"], {"databases": "2"}, "keys in database 5"),
    "too little memory": (["loglevel notice"], {"maxmemory": "1kb"}, "maxmemory is 1kb"),
    "a replica": (["replicaof 127.0.0.1 1"], {}, "a replica of 127.0.0.1"),
}


@pytest.mark.parametrize("hurdle", HURDLES)
def test_what_the_role_s_settings_would_not_load_is_not_adopted(host, hurdle):
    lines, wanted, words = HURDLES[hurdle]
    client = host.configure(*lines).run()
    if hurdle == "too many databases":
        client.execute_command("SELECT", 5)
        client.execute_command("SET", "a", "b")
    close(client)
    before = host.state()
    assert words in "; ".join(host.seen(**wanted)["hurdles"])
    refused = host.adopt(**wanted)
    assert refused["failed"]
    assert refused["msg"].startswith("Nothing was changed")
    assert words in refused["msg"]
    assert host.state() == before
    assert not (host.data / "before").exists()
    assert client.config_get("appendonly") == {"appendonly": "no"}


# -- what is kept ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("persistence", ["save 3600 1", SAVE_NEVER, "appendonly yes"])
def test_adopted_data_are_there_after_a_crash_and_a_start_with_the_role_s_settings(host, persistence):
    client = host.configure(persistence).run()
    fill(client, 1000)
    before = host.state()
    answer = host.adopt()
    kept = host.data / "before"
    assert (answer["changed"], answer["keys"], answer["aside"]) == (True, 1000, str(kept))
    assert {f"{host.etc}/{path.name}": path.read_bytes() for path in (kept / "etc").iterdir()} == before
    assert "1000 keys read" in subprocess.check_output(["redis-check-rdb", kept / "dump.rdb"], text=True)
    assert kept.stat().st_mode & 0o077 == 0
    client.set("later", "too")
    client.close()
    host.stop()
    host.become_the_role_s()
    assert host.run().dbsize() == 1001


def test_the_setting_alone_would_have_lost_them(host):
    """Else the test above shows nothing."""
    fill(host.run())
    host.stop()
    host.become_the_role_s()
    assert host.run().dbsize() == 0


@pytest.mark.parametrize("runs", [True, False])
def test_an_aof_that_was_off_is_written_before_the_role_turns_it_on_by_a_restart(host, runs):
    """As where redis_settings said appendonly no until now; an AOF of former times is no use either."""
    host.become_the_role_s()
    close(host.run())
    host.stop()
    (host.etc / "dynamic.conf").write_text("appendonly no\n")
    fill(host.run())
    if not runs:
        host.stop()
    seen = host.seen()
    assert (seen["ours"], seen["foreign"], seen["unsaved"]) == (True, [], True)
    assert host.seen(appendonly="no")["unsaved"] is False
    if not runs:
        host.run()  # which is systemd's part
    assert host.module("redis_adopt", files=WANTED)["changed"] is True
    assert host.seen()["unsaved"] is False
    assert host.module("redis_adopt", files=WANTED)["changed"] is False
    host.stop()
    (host.etc / "dynamic.conf").write_text("appendonly yes\n")
    assert host.run().dbsize() == 3


def test_an_aof_that_cannot_be_written_leaves_everything_as_it_was(host):
    client = host.run()
    fill(client)
    (host.data / "appendonlydir").write_text("in the way")
    before = host.state()
    assert host.adopt()["msg"].startswith("Nothing was changed")
    assert host.state() == before
    assert not (host.data / "before").exists()
    assert client.config_get("appendonly") == {"appendonly": "no"}
    assert client.dbsize() == 3


def test_what_is_not_to_be_adopted_is_refused_and_stays(host):
    client = host.run()
    fill(client)
    refused = host.module("redis_adopt", files=WANTED)
    assert refused["failed"]
    assert "3 keys in database 0" in "; ".join(refused["foreign"])
    assert client.config_get("appendonly") == {"appendonly": "no"}


def test_check_mode_says_what_would_be_adopted_and_changes_nothing(host):
    client = host.run()
    fill(client)
    before = host.state()
    answer = host.adopt(check=True, diff=True)
    assert (answer["changed"], answer["aside"]) == (True, str(host.data / "before"))
    assert answer["diff"] == {"before": "appendonly no\n", "after": f"appendonly yes\n{host.data}/before\n"}
    assert host.state() == before
    assert not (host.data / "before").exists()
    assert client.config_get("appendonly") == {"appendonly": "no"}


def test_nothing_to_keep_is_no_change(host):
    assert host.adopt()["changed"] is False


@pytest.mark.parametrize(
    ("option", "value"), [("databases", "many"), ("sentinel", "perhaps"), ("maxmemmory", "1gb")], ids=str
)
def test_a_setting_that_cannot_be_is_named(host, option, value):
    for refused in (host.adopt(**{option: value}), host.module("host_info", redis={option: value})):
        assert refused["failed"]
        assert option in refused["msg"]


def test_what_the_role_has_made_is_told(host):
    assert host.module("host_info", redis={})["redis"]["users"] is None
    (host.etc / "users.acl").write_text("user default on #1 ~* &* +@all\nuser worker on #2\n")
    about = {"me": "192.0.2.1", "members": ["192.0.2.1", "192.0.2.2"], "port": host.port, "tls_ca": ""}
    (host.etc / "fleet.json").write_text(json.dumps(about))
    seen = host.module("host_info", redis={})["redis"]
    assert (seen["members"], seen["users"]) == (["192.0.2.1", "192.0.2.2"], ["default", "worker"])
    assert (seen["within"], seen["port"], seen["ports"]) == ("", 0, [])  # it does not run


def test_the_ports_are_those_that_it_listens_at_and_not_those_of_its_file(host):
    """As after a play that was interrupted between the file and the restart."""
    about = {"me": "192.0.2.1", "members": ["192.0.2.1", "192.0.2.2"], "port": host.port, "tls_ca": ""}
    (host.etc / "fleet.json").write_text(json.dumps(about))
    host.configure().run()
    host.configure(f"tls-port {free_port()}")
    seen = host.module("host_info", redis={})["redis"]
    assert (seen["within"], seen["port"], seen["ports"]) == ("plain", host.port, [host.port])
    (host.etc / "fleet.json").write_text(json.dumps(about | {"tls_ca": "/etc/redis/tls/ca.pem"}))
    assert host.module("host_info", redis={})["redis"]["within"] == "tls"


def test_a_server_with_tls_alone_is_seen(host, tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    files = [f"tls-cert-file {tmp_path}/cert.pem", f"tls-key-file {tmp_path}/cert.pem", "tls-auth-clients no"]
    lines = ["port 0", f"tls-port {host.port}", "bind 127.0.0.1", f"dir {host.data}", *files]
    host.config.write_text("\n".join([*lines, f"tls-ca-cert-file {tmp_path}/ca.pem", ""]))
    host.process = subprocess.Popen(["redis-server", host.config], stdout=subprocess.DEVNULL)
    client = redis.Redis("127.0.0.1", host.port, ssl=True, ssl_ca_certs=str(tmp_path / "ca.pem"))
    wait_until(lambda: host.answers(client), within=30)
    fill(client)
    assert "3 keys" in "; ".join(host.seen()["foreign"])


def test_a_server_that_has_not_restarted_with_its_new_settings_is_asked_as_it_runs(host):
    """As after a run that was interrupted: the file says TLS, and the server has none yet."""
    fill(host.run())
    host.config.write_text(f"tls-port {host.port}\nport 0\nbind 127.0.0.1\ndir {host.data}\n{host.mark}\n")
    began = time.monotonic()
    assert host.seen() == {"ours": True, "foreign": [], "hurdles": [], "unsaved": True}
    assert time.monotonic() - began < 20  # a handshake that nobody answers takes a minute for each login
