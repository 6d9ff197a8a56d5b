"""A group with Valkey: it is Valkey alone, works and fails over as one of Redis, and stays what it is."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from redis.exceptions import NoPermissionError

from fleet import Fleet, StubbornLoad, counted, kill_master, wait_until

UNITS = ("valkey-server", "valkey-sentinel")
AS_OPERATOR = (
    "REDISCLI_AUTH=$(cat /etc/valkey/admin.password) valkey-cli --user admin -s /run/valkey/valkey-server.sock"
)


@pytest.fixture(scope="module")
def servers(runner):
    """Return the hosts with Valkey by name."""
    return {name: runner.get_host(name) for name in sorted(runner.get_hosts("redis"))}


@pytest.fixture(scope="module")
def as_workers(workers, inventory):
    """Return the fleet by the very URL that its workers have."""
    url = workers["worker1"].check_output('. /etc/orbiter/worker.env; printf %s "$ORBITER_REDIS_URL"')
    return Fleet(url.replace("/etc/orbiter/redis-ca.pem", quote(str(Path(inventory) / ".redis-tls/ca.pem"))))


def role(host):
    """Return what a host's server says that it is: master, slave, or nothing."""
    return host.run(f"{AS_OPERATOR} role | head -1").stdout.strip()


def master(servers):
    """Return the name of the only master of now."""
    (name,) = [name for name, host in servers.items() if role(host) == "master"]
    return name


def processes(servers):
    """Return the main process of each server."""
    shown = "systemctl show --property=MainPID --value valkey-server"
    return {name: host.check_output(shown) for name, host in servers.items()}


def test_hosts_have_valkey_and_nothing_of_redis(servers):
    for host in servers.values():
        assert host.check_output("dpkg-query --show --showformat='${Version}' valkey-server").startswith("8.1.")
        assert host.run("command -v redis-server redis-cli").stdout == ""
        assert not host.file("/etc/redis").exists
        for unit in UNITS:
            assert host.service(unit).is_running
            assert host.service(unit).is_enabled
            assert set(host.check_output(f"ps -C {unit} -o user=").split()) == {"valkey"}
        assert "server_name:valkey" in host.check_output(f"{AS_OPERATOR} info server")


def test_worker_does_what_it_needs_and_no_more(as_workers):
    as_workers.assert_nothing_lost(as_workers.submit([0.1] * 20))
    with pytest.raises(NoPermissionError):
        as_workers.redis.flushall()


def test_setting_changes_without_a_restart(play, servers):
    before = processes(servers)
    done = play("site.yml", "--tags", "redis", redis_settings=[{"name": "maxmemory", "value": "64mb"}])
    assert done.returncode == 0
    assert processes(servers) == before
    for host in servers.values():
        assert host.check_output(f"{AS_OPERATOR} config get maxmemory").split() == ["maxmemory", "67108864"]


def test_nothing_is_lost_when_the_master_dies(as_workers, servers):
    first = master(servers)
    with StubbornLoad(as_workers) as load:
        kill_master(load, as_workers, servers, first, units=UNITS, role=role)
        servers[first].check_output(f"systemctl start {' '.join(UNITS)}")
    as_workers.wait_until_done(load.ids, within=120)
    assert counted(as_workers.statuses(load.ids)) == {"completed": len(load.ids)}
    wait_until(
        lambda: "master_link_status:up" in servers[first].run(f"{AS_OPERATOR} info replication").stdout,
        within=60,
        what=lambda: servers[first].run(f"{AS_OPERATOR} info replication").stdout,
    )


def test_restart_brings_the_scripts_of_clients_back(servers):
    """Who submits may load none."""
    name = next(name for name in servers if name != master(servers))
    servers[name].check_output("systemctl restart valkey-server")
    count = f"{AS_OPERATOR} info memory | grep -o 'number_of_cached_scripts:[1-9]'"
    wait_until(lambda: servers[name].run(count).rc == 0, within=30, what=lambda: servers[name].run(count).stdout)


def test_backup_comes_back_with_all_it_had(play, runner, servers, as_workers):
    directory = Path(runner.get_variables("redis1")["redis_backup_directory"])
    for old in directory.glob("*"):
        old.unlink()
    done = as_workers.submit([0.1] * 5)
    as_workers.wait_until_done(done, within=60)
    before = as_workers.tasks(done)
    assert play("playbooks/backup.yml").returncode == 0
    (archive,) = directory.glob("*.tar.gz")
    servers[master(servers)].check_output(f"{AS_OPERATOR} flushall")
    assert play("playbooks/restore.yml", orbiter_restore=True, redis_restore_file=str(archive)).returncode == 0
    assert as_workers.tasks(done) == before


def test_another_server_on_a_host_that_has_one_is_refused(play, servers):
    before = processes(servers)
    done = play("site.yml", redis_flavor="redis")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2
    assert "redis1 has valkey-server, and redis_flavor is redis" in said
    assert "docs/valkey.md" in said
    assert processes(servers) == before


def test_host_that_has_no_such_package_is_refused(play, workers):
    done = play("site.yml", orbiter_redis_hosts="worker1", redis_flavor="valkey")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2
    assert "worker1 runs Debian 12" in said
    assert workers["worker1"].run("command -v redis-server valkey-server").stdout == ""
