"""A host whose Redis serves another application is refused before anything changes, or adopted with what it holds."""

from __future__ import annotations

import hashlib

import pytest
import redis
from conftest import changed, shown

# A worker host, so that the two fleets of the scenario stay as they are.
TENANT = "worker2"
HOSTS = {"orbiter_redis_hosts": TENANT, "orbiter_worker_hosts": TENANT}
# No password for the user of the worker host, which there is all the same.
USERS = {"orbiter_redis_users": {"client": {"password": "the cl1ent's own"}}}
STATE = "sha256sum /etc/redis/*; ls /var/lib/redis; systemctl show --property=MainPID --value redis-server"
AS_OPERATOR = "REDISCLI_AUTH=$(cat /etc/redis/admin.password) redis-cli --user admin -s /run/redis/redis-server.sock"


@pytest.fixture(scope="module")
def tenant(on):
    """Install the distribution's Redis, which writes an RDB file only, and let an application use it."""
    host = on(TENANT)
    host.check_output("apt-get update -qq && apt-get install -qq --no-install-recommends redis-server >/dev/null")
    assert host.check_output(
        "for n in $(seq 100); do echo SET shop:$n apples; done | redis-cli | sort | uniq -c"
    ).split()
    return host


@pytest.mark.parametrize("options", [["--check"], []], ids=["check", "site"])
def test_a_redis_of_another_application_is_refused_and_nothing_changes(play, tenant, options):
    before = tenant.check_output(STATE)
    done = play("site.yml", *options, **HOSTS)
    assert done.returncode == 2
    for words in (
        f"{TENANT}: ",
        "at port 6379",
        "100 keys in database 0",
        "/etc/redis/redis.conf",
        "redis_adopt: true",
    ):
        assert words in shown(done)
    assert changed(done) == []
    assert tenant.check_output(STATE) == before


@pytest.fixture(scope="module")
def adopted(play, tenant):
    """Adopt it."""
    return play("site.yml", "--tags", "redis", redis_adopt=True, **HOSTS, **USERS)


def test_what_an_adopted_redis_holds_outlives_its_restarts(adopted, tenant):
    assert adopted.returncode == 0
    # One key more: the runs of playbooks, of which this is the first.
    assert tenant.check_output(f"{AS_OPERATOR} DBSIZE") == "101"
    assert tenant.check_output(f"{AS_OPERATOR} TYPE orbiter:deploys") == "stream"
    tenant.check_output("systemctl kill --signal=KILL redis-server; systemctl restart redis-server")
    assert tenant.check_output(f"{AS_OPERATOR} GET shop:100") == "apples"
    assert tenant.check_output(f"{AS_OPERATOR} DBSIZE") == "101"


def test_the_old_files_are_kept(adopted, tenant):
    kept = tenant.check_output("ls -d /var/lib/redis/before-adopt-*")
    # The deploy lock and the list of deploys are two of them.
    assert "102 keys read" in tenant.check_output(f"redis-check-rdb {kept}/dump.rdb")
    assert not tenant.file(f"{kept}/etc/redis.conf").contains("dynamic.conf")
    assert tenant.file(kept).mode == 0o700


@pytest.fixture(scope="module")
def again(adopted, play):
    """Deploy the same once more, without a word of adopting."""
    return play("site.yml", "--tags", "redis", "-vvv", "--diff", **HOSTS, **USERS)


def test_an_adopted_redis_is_the_fleets(again):
    assert again.returncode == 0
    assert changed(again) == []


def test_there_is_a_worker_without_a_password_of_the_inventory_and_with_a_workers_rights(adopted, again, runner):
    variables = runner.get_variables(TENANT)
    operator = variables["orbiter_redis_password"].encode()
    password = hashlib.pbkdf2_hmac("sha256", operator, f"redis user worker-{TENANT}".encode(), 200_000, 24).hex()
    worker = redis.Redis(variables["ansible_host"], username=f"worker-{TENANT}", password=password)
    assert worker.ping()
    for command in (("ACL", "SETUSER", "me", "on"), ("REPLICAOF", "10.0.0.1", "6379"), ("CONFIG", "GET", "*")):
        with pytest.raises(redis.exceptions.NoPermissionError):
            worker.execute_command(*command)
    for done in (adopted, again):
        assert password not in done.stdout + done.stderr
