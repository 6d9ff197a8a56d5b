"""Three Redis hosts with TLS: the fleet goes on when the master dies, and nobody but Redis decides who is master."""

from __future__ import annotations

import socket
import ssl

import pytest
from conftest import (
    TLS,
    asked_sentinel,
    assert_unchanged,
    in_step,
    lose_the_master,
    processes,
    redis,
    role,
    sizes,
)

from fleet import StubbornLoad, counted, wait_until

PORTS = {"redis-server": "6379", "redis-sentinel": "26379"}


@pytest.fixture(scope="module")
def failover(fleet, servers, workers, master):
    """Kill the master and its sentinel under load, for good; see who comes after it."""
    first = master()
    before = processes(workers, "orbiter-worker@1")
    with StubbornLoad(fleet) as load:
        lose_the_master(load, fleet, servers, first)
    return {"load": load, "before": before, "first": first, "master": master()}


def test_redis_and_sentinel_speak_nothing_but_tls_with_certificates_of_the_fleet(servers, authority, addresses):
    trust = ssl.create_default_context(cafile=str(authority))
    for name, host in servers.items():
        listening = host.check_output("ss --no-header --listening --tcp --numeric --processes | grep redis")
        assert {line.split()[3].rpartition(":")[2] for line in listening.splitlines()} == set(PORTS.values())
        for port in PORTS.values():
            assert "PONG" not in host.run(f"timeout 5 redis-cli -h {addresses[name]} -p {port} ping").stdout
            # Whoever checks the host's address against its certificate is content.
            with (
                socket.create_connection((addresses[name], int(port)), timeout=10) as plain,
                trust.wrap_socket(plain, server_hostname=addresses[name]) as secure,
            ):
                assert secure.version() in ("TLSv1.2", "TLSv1.3")


def test_no_member_of_a_group_lets_in_who_gives_no_name(servers):
    for host in servers.values():
        assert "NOAUTH" in host.check_output(f"redis-cli {TLS} ping")
        said = host.run(f"REDISCLI_AUTH=$(cat /etc/redis/admin.password) redis-cli {TLS} ping")
        assert "WRONGPASS" in said.stdout + said.stderr
        linked = redis(host, "client list")
        assert " user=default " not in linked


def test_units_of_redis_and_sentinel_are_hardened(servers):
    for host in servers.values():
        for unit in ("redis-server.service", "redis-sentinel.service"):
            assert host.run(f"systemd-analyze security --no-pager --threshold=20 {unit}").rc == 0


def test_two_follow_the_master_and_three_sentinels_agree(servers, master):
    assert all(in_step(host) for name, host in servers.items() if name != master())
    for host in servers.values():
        assert asked_sentinel(host, "ckquorum orbiter").startswith("OK 3 usable Sentinels")


def test_workers_login_at_the_sentinels_may_ask_for_the_master_and_nothing_else(fleet, servers):
    assert fleet.redis_url.startswith("rediss+sentinel://worker-worker1:")
    secret = fleet.redis_url.partition("sentinel_password=")[2].partition("&")[0]
    shell = f"export REDISCLI_AUTH={secret}; redis-cli {TLS} -p 26379 --user reader"
    assert "6379" in servers["redis1"].check_output(f"{shell} sentinel get-master-addr-by-name orbiter")
    for command in ("sentinel failover orbiter", "sentinel set orbiter quorum 1", "sentinel reset '*'", "acl list"):
        assert "NOPERM" in servers["redis1"].check_output(f"{shell} {command}")
    assert "NOAUTH" in servers["redis1"].check_output(f"redis-cli {TLS} -p 26379 sentinel masters")


def test_every_accepted_task_completes_when_the_master_dies(failover, fleet):
    load = failover["load"]
    assert len(load.ids) > 10
    fleet.wait_until_done(load.ids, within=120)
    assert counted(fleet.statuses(load.ids)) == {"completed": len(load.ids)}


def test_workers_go_on_by_themselves(failover, workers):
    assert failover["master"] != failover["first"]
    assert processes(workers, "orbiter-worker@1") == failover["before"]


def test_who_was_master_comes_back_as_a_replica(failover, servers, master):
    old = servers[failover["first"]]
    old.check_output("systemctl start redis-server redis-sentinel")
    wait_until(lambda: in_step(old), within=90, what=lambda: role(old))
    assert master() == failover["master"]


def test_running_the_site_again_changes_nothing_and_demotes_nobody(failover, play, master):
    assert_unchanged(play("site.yml", "--tags=redis"))
    assert master() == failover["master"]


def test_a_host_that_lost_everything_gets_it_back(failover, play, servers, master, fleet):
    """The replica that has not been master yet is made anew, as on another machine with its address."""
    (name,) = set(servers) - {failover["first"], failover["master"]}
    servers[name].check_output(
        "systemctl stop redis-server redis-sentinel; "
        "DEBIAN_FRONTEND=noninteractive apt-get purge --yes --quiet redis-server redis-sentinel redis-tools; "
        "rm -rf /etc/redis /var/lib/redis /var/log/redis /etc/systemd/system/redis-*"
    )
    assert play("site.yml", "--limit", name).returncode == 0
    assert in_step(servers[name])
    wait_until(lambda: len(sizes(servers)) == 1, within=10, what=lambda: str(sizes(servers)))
    assert sizes(servers) != {"0"}
    assert master() == failover["master"]


@pytest.fixture(scope="module")
def restarted(failover, play, fleet, master, authority):
    """Change under load a setting that needs a restart; the master's lost certificate is made anew by the same play."""
    before = master()
    authority.with_name(f"{before}.pem").unlink()
    static = {"name": "databases", "value": 17, "dynamic": False}
    with StubbornLoad(fleet) as load:
        done = play("site.yml", "--limit", "redis", redis_settings=[static])
    return {"done": done, "before": before, "ids": load.ids}


def test_a_setting_that_needs_a_restart_goes_round_under_load(restarted, servers, master, fleet):
    assert restarted["done"].returncode == 0
    assert [redis(host, "config get databases").split()[1] for host in servers.values()] == ["17"] * 3
    assert master() != restarted["before"]  # which handed over before it restarted
    fleet.wait_until_done(restarted["ids"], within=120)
    assert counted(fleet.statuses(restarted["ids"])) == {"completed": len(restarted["ids"])}


def test_redis_and_sentinel_show_a_new_certificate(restarted, addresses, authority):
    name = restarted["before"]
    made = ssl.PEM_cert_to_DER_cert(authority.with_name(f"{name}.pem").read_text())
    for port in PORTS.values():
        assert ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((addresses[name], int(port)))) == made


def test_a_second_host_is_not_taken_down_while_one_is_missing(play, servers, master):
    down = next(name for name in servers if name != master())
    up = next(name for name in servers if name not in (master(), down))
    pid = "systemctl show --property=MainPID --value redis-server"
    before = servers[up].check_output(pid)
    servers[down].check_output("systemctl stop redis-server")
    done = play(
        "site.yml",
        "--limit",
        up,
        redis_settings=[{"name": "databases", "value": 18, "dynamic": False}],
        redis_sync_timeout=3,
    )
    servers[down].check_output("systemctl start redis-server")
    assert done.returncode != 0
    assert "not all are in step, and one more would be missing" in " ".join(done.stdout.split())
    assert servers[up].check_output(pid) == before
    wait_until(lambda: in_step(servers[down]), within=60, what=lambda: role(servers[down]))
    # The restart is still due, and nothing else has changed.
    assert play("site.yml", "--limit", "redis").returncode == 0
    assert [redis(host, "config get databases").split()[1] for host in servers.values()] == ["16"] * 3
