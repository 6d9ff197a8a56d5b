"""A running Redis is brought to what is wanted, and passwords are in no diff."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from ansible_collections.orbiter.fleet.plugins.filter.redis_users_beside import redis_users_beside
from conftest import Server, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ALL = "~* &* +@all"
OFF = f"user default off sanitize-payload resetpass {ALL}"


def user(name: str, password: str, rights: str = ALL) -> str:
    return f"user {name} on sanitize-payload #{sha256(password.encode()).hexdigest()} {rights}"


ADMIN = user("admin", Server.password)
OLD = user("default", Server.password)  # as it was before it was off from the first deploy


class Host:
    """A Redis host as the role makes it."""

    def __init__(self, stack: ExitStack, directory: Path, users: list[str], *options: str) -> None:
        self.etc, self.socket = directory, directory / "redis.sock"
        self.write(*users)
        (directory / "admin.password").write_text(f"{Server.password}\n")
        options = (f"unixsocket {self.socket}", f"aclfile {self.acl}", "repl-timeout 60", *options)
        self.server = stack.enter_context(Server(directory, *options, user="admin"))
        self.client = self.server.client

    @property
    def acl(self) -> Path:
        return self.etc / "users.acl"

    def write(self, *users: str) -> str:
        text = "".join(f"{line}\n" for line in users)
        self.acl.write_text(text)
        return text

    def lets_in(self, name: str, password: str = Server.password) -> bool:
        connection = redis.Redis(port=self.server.port, username=name, password=password)
        try:
            return bool(connection.ping())
        except redis.AuthenticationError:
            return False
        finally:
            connection.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Return a function that starts a Redis host with these users."""
    with ExitStack() as stack:
        yield lambda *users, name="one", options=(): Host(stack, _made(tmp_path / name), list(users), *options)


def _made(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.fixture
def apply(module: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Return a function that runs the module on a host."""

    def run(host: Host, **options: Any) -> dict[str, Any]:
        answer = module("redis_settings", etc=str(host.etc), socket=str(host.socket), patience=5, **options)
        assert not {sha256(word.encode()).hexdigest() for word in (Server.password, "new word", "old word")} & set(
            json.dumps(answer).replace("#", " ").replace('"', " ").split()
        )
        return answer

    return run


def test_settings_are_set_and_told_in_the_notation_of_redis_and_as_wanted_they_are_no_change(host, apply):
    there = host(OFF, ADMIN)
    text = '# a remark\nmaxmemory 64mb\nsave ""\nclient-output-buffer-limit pubsub 1mb 1mb 1\nmaxclients 500\n'
    first = apply(there, settings=text)
    assert set(first["names"]) == {"maxmemory", "client-output-buffer-limit", "maxclients"}
    assert "maxmemory 67108864" in first["diff"]["after"]
    assert there.client.config_get("maxclients")["maxclients"] == "500"
    for check in (False, True):
        assert not apply(there, settings=text, check=check)["changed"]
    there.client.config_set("maxclients", 400)
    by_hand = apply(there, settings=text, check=True)
    assert by_hand["names"] == ["maxclients"]
    assert by_hand["diff"]["before"] == "maxclients 400\n"
    assert by_hand["diff"]["after"] == "maxclients 500\n"
    assert there.client.config_get("maxclients")["maxclients"] == "400"


@pytest.mark.parametrize("line", ["nonsense 1", "maxmemory-policy sometimes", "port-of-call 1", "databases 99"])
def test_a_setting_that_cannot_be_is_refused_by_name(host, apply, line):
    refused = apply(host(OFF, ADMIN), settings=line)
    assert refused["failed"]
    assert line.split()[0] in refused["msg"]


def test_a_secret_among_the_settings_is_not_shown(host, apply):
    changed = apply(host(OFF, ADMIN), settings="masterauth topsecret")
    assert changed["names"] == ["masterauth"]
    assert "topsecret" not in json.dumps(changed["diff"])


def test_users_are_made_changed_and_removed(host, apply):
    there = host(OFF, ADMIN, user("worker", "old word"), user("gone", "old word"))
    text = there.write(OFF, ADMIN, user("worker", "new word", "~q* -@all +get +ping"), user("client", "new word"))
    caller = redis.Redis(port=there.server.port, username="gone", password="old word", client_name="app")
    caller.ping()
    would = apply(there, users=text, check=True)
    assert there.lets_in("worker", "old word")
    changed = apply(there, users=text)
    assert set(changed["names"]) == set(would["names"]) == {"user worker", "user gone", "user client"}
    assert there.lets_in("worker", "new word")
    assert not there.lets_in("worker", "old word")
    assert there.client.acl_getuser("gone") is None
    assert changed["ended"] == ["127.0.0.1 as gone, app (1 connection)"]
    caller.close()
    for diff in (would["diff"], changed["diff"]):
        assert "#(old password)" in diff["before"]
        assert "#(new password)" in diff["after"]
    for check in (False, True):
        again = apply(there, users=text, check=check)
        assert (again["changed"], again["pending"]) == (False, [])


def test_what_somebody_changed_by_hand_is_found_and_mended(host, apply):
    there = host(OFF, ADMIN, user("worker", "new word"))
    text = there.acl.read_text()
    apply(there, users=text)
    there.client.execute_command("ACL", "SETUSER", "worker", "off")
    there.client.execute_command("ACL", "SETUSER", "friend", "on", "nopass")
    assert set(apply(there, users=text, check=True)["names"]) == {"user worker", "user friend"}
    assert set(apply(there, users=text)["names"]) == {"user worker", "user friend"}
    assert there.lets_in("worker", "new word")


def test_beside_old_and_new_passwords_are_valid_also_after_a_restart_until_they_end(host, apply, tmp_path):
    there = host(OFF, ADMIN, user("worker", "old word"), user("gone", "old word"))
    text = there.write(OFF, ADMIN, user("worker", "new word", "~q* -@all +ping"))
    assert apply(there, users=text, beside=True, check=True)["pending"] == ["gone", "worker"]
    added = apply(there, users=text, beside=True)
    assert added["pending"] == ["gone", "worker"]
    there.client.execute_command("ACL", "LOAD")  # what a restart reads
    assert all(there.lets_in("worker", word) for word in ("old word", "new word"))
    assert there.lets_in("gone", "old word")
    again = apply(there, users=text, beside=True)
    assert (again["changed"], again["pending"]) == (False, ["gone", "worker"])
    # Back: what was old is new again.
    text = there.write(OFF, ADMIN, user("worker", "old word"), user("gone", "old word"))
    assert apply(there, users=text, beside=True)["pending"] == ["worker"]
    assert apply(there, users=there.write(*text.splitlines()))["pending"] == []
    assert there.lets_in("worker", "old word")
    assert not there.lets_in("worker", "new word")


def test_the_file_has_what_was_beside_what_is_new_before_the_server_is_asked_and_is_not_written_again(host, apply):
    rights = "-@all +ping (%R~q* +get)"
    there = host(OLD, ADMIN, user("worker", "old word", rights), user("gone", "old word"))
    apply(there, users=there.acl.read_text())
    text = "".join(f"{line}\n" for line in (OFF, ADMIN, user("worker", "new word", rights), user("more", "new word")))
    assert redis_users_beside(text, "") == text
    there.write(*redis_users_beside(text, there.acl.read_text()).splitlines())
    there.client.execute_command("ACL", "LOAD")  # what a restart reads
    assert all(there.lets_in("worker", word) for word in ("old word", "new word"))
    assert there.lets_in("default")
    assert there.lets_in("gone", "old word")
    assert there.lets_in("more", "new word")
    before = there.acl.read_text()
    beside = apply(there, users=text, beside=True)
    assert (beside["changed"], beside["pending"]) == (False, ["default", "gone", "worker"])
    assert there.acl.read_text() == before == redis_users_beside(text, before)
    # Written by the server, it lets in the same.
    there.client.execute_command("ACL", "SETUSER", "worker", ">third word")
    assert apply(there, users=text, beside=True)["pending"] == ["default", "gone", "worker"]
    there.write(*redis_users_beside(text, there.acl.read_text()).splitlines())
    there.client.execute_command("ACL", "LOAD")
    assert all(there.lets_in("worker", word) for word in ("old word", "new word", "third word"))
    assert there.lets_in("default")


def test_a_user_of_the_file_only_is_to_go_as_well(host, apply):
    there = host(OFF, ADMIN)
    text = there.acl.read_text()
    there.write(OFF, ADMIN, user("friend", "old word"))
    for check in (True, False):
        found = apply(there, users=text, beside=True, check=check)
        assert (found["changed"], found["pending"]) == (False, ["friend"])
    assert apply(there, users=there.write(OFF, ADMIN), beside=True)["pending"] == []


def test_the_operators_new_password_is_made_known_with_the_one_before(host, apply):
    there = host(OFF, ADMIN)
    apply(there, users=there.acl.read_text())
    (there.etc / "admin.password").write_text("new word\n")
    text = there.write(OFF, user("admin", "new word"))
    assert apply(there, users=text, beside=True)["pending"] == ["admin"]
    assert there.lets_in("admin", "new word")
    assert apply(there, users=there.write(OFF, user("admin", "new word")))["pending"] == []
    assert not there.lets_in("admin")


def test_default_is_turned_off_at_the_end_only_and_who_used_it_is_cut_off_and_named(host, apply):
    there = host(OLD, ADMIN)
    caller = redis.Redis(port=there.server.port, username="default", password=Server.password, client_name="app")
    caller.ping()
    text = there.write(OFF, ADMIN)
    kept = apply(there, users=text, beside=True)
    assert kept["pending"] == ["default"]
    there.client.execute_command("ACL", "LOAD")
    assert there.lets_in("default")
    assert caller.ping()
    ended = apply(there, users=there.write(OFF, ADMIN))
    assert ended["ended"] == ["127.0.0.1 as default, app (1 connection)"]
    assert not there.lets_in("default")
    with pytest.raises(redis.RedisError):
        caller.ping()
    caller.close()


def test_replicas_move_one_after_another_before_default_is_turned_off_and_writes_go_on(host, apply):
    master = host(OLD, ADMIN)
    quoted = Server.password.replace("\\", "\\\\").replace('"', '\\"')
    follow = (f"replicaof 127.0.0.1 {master.server.port}", "masteruser default", f'masterauth "{quoted}"')
    replicas = [host(OLD, ADMIN, name=name, options=follow) for name in ("two", "three")]
    wait_until(lambda: master.client.info("replication").get("slave1", {}).get("state") == "online", within=60)
    master.client.config_set("min-replicas-to-write", 1)
    text = master.write(OFF, ADMIN)
    refused = apply(master, users=text)
    assert "127.0.0.1" in refused["msg"]
    assert "default" in refused["msg"]
    assert master.lets_in("default")
    for replica in replicas:
        replica.client.config_set("masteruser", "admin")
    before = master.client.info("stats")["sync_full"]
    assert apply(master, users=text)["pending"] == []
    assert master.client.set("key", "value")
    wait_until(lambda: all(replica.client.get("key") == "value" for replica in replicas), within=30)
    users = {row["user"] for row in master.client.client_list(_type="replica")}
    assert users == {"admin"}
    assert master.client.info("stats")["sync_full"] == before


def test_a_renewed_certificate_is_shown_without_a_restart(host, apply):
    def certificate(directory: Path) -> None:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", "redis.key", "-out", "redis.pem", "-subj", "/CN=redis", "-days", "1"],
            cwd=directory, check=True, capture_output=True,
        )  # fmt: skip

    there = host(OFF, ADMIN)
    certificate(there.etc)
    files = {"tls-cert-file": "redis.pem", "tls-key-file": "redis.key", "tls-ca-cert-file": "redis.pem"}
    words = [word for name, file in files.items() for word in (name, f"{there.etc}/{file}")]
    there.client.execute_command("CONFIG", "SET", *words, "tls-auth-clients", "no", "tls-port", free_port())
    assert apply(there)["names"] == []
    certificate(there.etc)
    assert apply(there, check=True)["names"] == ["certificate"]
    assert apply(there)["names"] == ["certificate"]
    assert apply(there)["names"] == []
    assert apply(there, reload_certificate=True)["names"] == ["certificate"]
    shutil.copy(there.etc / "users.acl", there.etc / "redis.pem")
    assert apply(there, reload_certificate=True)["failed"]


def test_where_the_role_has_set_up_no_redis_that_answers_nothing_is_done(module, tmp_path):
    options = {"etc": str(tmp_path), "socket": str(tmp_path / "redis.sock"), "patience": 0}
    assert module("redis_settings", **options)["failed"]
    assert not module("redis_settings", if_running=True, **options)["changed"]
    for name in ("admin.password", ".admin.password"):
        (tmp_path / name).write_text("word")
    assert not module("redis_settings", if_running=True, **options)["changed"]


def test_a_check_of_a_host_without_a_server_shows_its_users_by_the_file(module, tmp_path):
    wanted = [OFF, user("worker", "new word", "~q* -@all +ping"), user("client", "new word")]
    options = {"etc": str(tmp_path), "socket": str(tmp_path / "redis.sock"), "if_running": True, "beside": True}
    options["users"] = "".join(f"{line}\n" for line in wanted)
    fresh = module("redis_settings", check=True, diff=True, **options)
    assert fresh["changed"]
    assert fresh["diff"]["before"] == ""
    assert "user worker on sanitize-payload #(new password) ~q* -@all +ping\n" in fresh["diff"]["after"]
    assert sha256(b"new word").hexdigest() not in json.dumps(fresh)
    assert list(tmp_path.iterdir()) == []
    # One that was deployed, and does not run now.
    (tmp_path / "users.acl").write_text("\n".join([*wanted[:2], user("client", "old word"), user("gone", "old word")]))
    stopped = module("redis_settings", check=True, diff=True, **options)
    assert stopped["names"] == ["user client"]
    assert stopped["diff"]["before"].count("\n") == 1
    assert "#(old password)" in stopped["diff"]["before"]
    assert not module("redis_settings", **options)["changed"]


def test_who_is_connected_without_tls_is_told_by_address_user_and_name(host, module):
    there = host(OFF, ADMIN)
    options = {"etc": str(there.etc), "socket": str(there.socket)}
    there.client.client_setname("me")
    found = module("redis_clients", **options)
    assert (found["port"], found["tls_port"]) == (there.server.port, 0)
    assert found["connected"] == ["127.0.0.1 as admin, me (1 connection)"]
    (there.etc / "admin.password").unlink()
    assert module("redis_clients", **options)["failed"]


def test_the_role_applies_what_its_templates_say(host, ansible):
    there = host(ADMIN)
    (there.etc / "admin.password").write_text(f"{Server.password}\n")
    seen = {"packages": {"redis-server": "7.0.15"}}
    given = {"redis_password": Server.password, "__redis_version": "7.0.15", "__redis_seen": seen}
    tasks = f"""
    - module_defaults: {{orbiter.fleet.redis_settings: {{etc: "{there.etc}", socket: "{there.socket}"}}}}
      block:
        - include_role: {{name: orbiter.fleet.redis, tasks_from: apply}}
"""
    inventory = [f"host ansible_connection=local ansible_python_interpreter={sys.executable}"]

    def run(maxmemory: str, *options: str) -> str:
        settings = {"redis_settings": [{"name": "maxmemory", "value": maxmemory}]}
        done = ansible(inventory, tasks, f"--extra-vars={json.dumps(given | settings)}", "--diff", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        assert Server.password not in done.stdout
        return done.stdout

    assert "changed=1 " in run("64mb")
    assert "changed=0 " in run("64mb")
    checked = run("65mb", "--check")
    assert "changed=1 " in checked
    assert "\n-maxmemory 67108864\n" in checked
    assert "\n+maxmemory 65mb\n" in checked
    assert set(there.client.acl_users()) >= {"admin", "worker", "client", "monitor"}


def test_a_check_of_a_fresh_host_shows_settings_users_and_units_and_no_secret(ansible, tmp_path):
    tasks = f"""
    - setup: {{gather_subset: ["!all", "!min", python]}}
    - module_defaults: {{orbiter.fleet.redis_settings: {{etc: "{tmp_path}/none", socket: "{tmp_path}/redis.sock"}}}}
      block:
        - include_role: {{name: orbiter.fleet.redis, tasks_from: write}}
        - include_role: {{name: orbiter.fleet.redis, tasks_from: apply}}
"""
    # Of the two servers the one that a machine with this test has no files of.
    given = {"redis_flavor": "valkey", "redis_bind": "127.0.0.1", "redis_password": Server.password}
    given |= {"__redis_seen": {"packages": {}, "redis": {"ours": False}}}
    inventory = [f"host ansible_connection=local ansible_python_interpreter={sys.executable}"]

    def check(*settings: dict[str, str], **more: object) -> str:
        variables = given | {"redis_settings": [{"name": "maxmemory", "value": "64mb"}, *settings]} | more
        done = ansible(inventory, tasks, f"--extra-vars={json.dumps(variables)}", "--check", "--diff")
        assert done.returncode == 0, done.stdout + done.stderr
        for secret in (Server.password, sha256(Server.password.encode()).hexdigest()):
            assert secret not in done.stdout
        return done.stdout

    said = check()
    for line in ("+maxmemory 64mb", "+aclfile /etc/valkey/users.acl", "+LimitNOFILE=65535"):
        assert f"\n{line}\n" in said
    assert "\n+user worker on sanitize-payload #(new password) " in said
    said = check({"name": "tls-key-file-pass", "value": "hush-hush", "dynamic": False})
    assert "\n+LimitNOFILE=65535\n" in said
    assert "hush-hush" not in said
    assert "\n+LimitNOFILE=65535\n" in check(redis_members=["127.0.0.1", "127.0.0.2", "127.0.0.3"])


def test_who_stays_connected_without_tls_is_waited_for_and_is_no_failure(ansible, host):
    there = host(OFF, ADMIN)
    there.client.client_setname("me")
    tasks = f"""
    - module_defaults: {{orbiter.fleet.redis_clients: {{etc: "{there.etc}", socket: "{there.socket}"}}}}
      vars: {{__redis_patience: 2}}
      block:
        - include_role: {{name: orbiter.fleet.redis, tasks_from: plain_clients}}
        - debug: {{msg: "LEFT={{{{ __redis_plain.connected }}}} AFTER={{{{ __redis_plain.attempts }}}}="}}
"""
    inventory = [f"host ansible_connection=local ansible_python_interpreter={sys.executable}"]
    done = ansible(inventory, tasks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "LEFT=['127.0.0.1 as admin, me (1 connection)'] AFTER=2=" in done.stdout
    (there.etc / "admin.password").unlink()
    assert ansible(inventory, tasks).returncode == 2
