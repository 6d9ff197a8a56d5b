"""Settings change without a restart where Redis can, with one where it must, and not at all where Redis says no."""

from __future__ import annotations

import json

import pytest
from conftest import changed, shown

from fleet import nightly_but

FILES = "sha256sum /etc/redis/redis.conf /etc/redis/dynamic.conf /etc/redis/users.acl"


def connections(server):
    """Return the connections of the fleet's workers that are there for long."""
    return {row["id"] for row in server.fleet.redis.client_list() if row["user"] == "worker" and int(row["age"]) > 2}


@pytest.fixture(scope="module")
def dynamic(servers, site):
    """Change a setting and the users, where somebody has added one by hand."""
    server = servers["redis1"]
    server.fleet.redis.execute_command("ACL SETUSER intruder on nopass ~* +@all")
    before = {"run_id": server.run_id(), "connections": connections(server)}
    reports = {"password": "reports' own p@ssword", "rights": "monitor"}
    users = {**server.variables["orbiter_redis_users"], "reports": reports}
    settings = [{"name": "maxmemory", "value": "2gb"}]
    done = site("redis1", redis_settings=settings, orbiter_redis_users=users)
    return {"server": server, "before": before, "done": done}


def test_a_dynamic_setting_changes_without_a_restart(dynamic):
    assert dynamic["done"].returncode == 0
    assert dynamic["server"].fleet.redis.config_get("maxmemory") == {"maxmemory": "2147483648"}
    assert dynamic["server"].run_id() == dynamic["before"]["run_id"]


def test_users_change_without_a_restart_and_without_losing_a_connection(dynamic):
    server = dynamic["server"]
    assert server.fleet.redis.acl_users() == sorted(["admin", "client", "default", "monitor", "reports", "worker"])
    assert dynamic["before"]["connections"] - connections(server) == set()
    refused = server.fleet.redis.execute_command("ACL DRYRUN", "reports", "XADD", "orbiter:tasks", "*", "a", "b")
    assert "no permissions" in str(refused)
    words = "redis-cli --no-auth-warning --user reports -h %s ping"
    answer = server.host.run(f'REDISCLI_AUTH="reports\' own p@ssword" {words}', server.variables["redis_bind"])
    assert answer.stdout.strip() == "PONG"


def test_a_static_setting_changes_with_a_restart(dynamic, site):
    server = dynamic["server"]
    done = site("redis1", redis_settings=[{"name": "io-threads", "value": 2, "dynamic": False}])
    assert done.returncode == 0
    assert server.run_id() != dynamic["before"]["run_id"]
    assert server.fleet.redis.config_get("io-threads") == {"io-threads": "2"}
    assert server.fleet.redis.config_get("maxmemory") == {"maxmemory": "1073741824"}
    assert "reports" not in server.fleet.redis.acl_users()


WRONG = {
    # In TLS mode, too: the candidate listens as the real one does.
    "static": ("redis2", {"name": "io-threads", "value": "many", "dynamic": False}, ">>> 'io-threads many'"),
    "dynamic": ("redis1", {"name": "maxmemory-policy", "value": "sometimes"}, ">>> 'maxmemory-policy sometimes'"),
    "unknown": ("redis1", {"name": "maxmemorry", "value": "1gb"}, ">>> 'maxmemorry 1gb'"),
}


@pytest.mark.parametrize("case", nightly_but(WRONG, "dynamic"))
def test_a_wrong_setting_fails_the_play_in_the_words_of_redis_and_changes_nothing(servers, site, case):
    name, setting, words = WRONG[case]
    server = servers[name]
    before = (server.run_id(), server.host.check_output(FILES))
    done = site(name, redis_settings=[setting])
    assert done.returncode == 2
    assert "Redis does not start with these settings" in shown(done)
    assert words in shown(done).replace("''", "'")
    assert (server.run_id(), server.host.check_output(FILES)) == before
    assert server.host.run("ls -d /tmp/orbiter-redis-*").rc != 0


def test_a_redis_that_is_too_old_is_refused_by_its_version(servers, site):
    installed = servers["redis1"].host.check_output("dpkg-query --show --showformat='${Version}' redis-server")
    done = site("redis1", __redis_minimum="99.0")
    assert done.returncode == 2
    assert f"redis1 has Redis {installed.partition(':')[2]}, and the queue needs 99.0 or newer" in shown(done)


def test_the_kernel_is_set_for_redis_or_the_play_says_what_is_not(server, site):
    values = {
        "/proc/sys/vm/overcommit_memory": lambda value: value == "1",
        "/proc/sys/net/core/somaxconn": lambda value: int(value) >= 1024,
        "/sys/kernel/mm/transparent_hugepage/enabled": lambda value: "[always]" not in value,
    }
    done = site(server.name)  # leaves the server as the inventory says, too
    assert done.returncode == 0
    for path, good in values.items():
        assert good(server.host.check_output(f"cat {path}")) or f"{path} is " in shown(done), path


def test_the_same_again_changes_nothing(servers, site):
    assert changed(site("redis1")) == []


def test_a_run_for_redis_alone_has_the_firewall(servers, site):
    host = servers["redis1"].host
    assert site("redis1", orbiter_firewall=False).returncode == 0
    assert host.run("nft list table inet orbiter").rc != 0
    assert site("redis1", orbiter_firewall=True).returncode == 0
    assert "6379" in host.check_output("nft list chain inet orbiter input")


def test_nothing_of_redis_is_readable_to_others(server):
    listed = server.host.check_output("find /etc/redis /run/redis/redis-server.sock -not -type d -printf '%p %m\\n'")
    modes = dict(line.split() for line in listed.splitlines())
    assert {name for name, mode in modes.items() if int(mode, 8) & 0o007} - {"/etc/redis/sentinel.conf"} == set()
    assert modes["/etc/redis/users.acl"] == modes["/etc/redis/admin.password"] == "640"
    users = server.host.check_output("cat /etc/redis/users.acl")
    password = server.variables["orbiter_redis_password"]
    assert password not in users
    assert json.dumps(password)[1:-1] not in users
