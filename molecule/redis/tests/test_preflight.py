"""What would go wrong is said before a host is changed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from conftest import as_json, changed, shown

from fleet import nightly_but

CHECKOUT = Path(__file__).parents[3]

GOOD = "Tr0ub4dor&3 and a staple"
MISTAKES = {
    "a short password": (
        {"orbiter_redis_password": "sh0rt-passw0rd"},
        "the Redis password of admin is missing or weak: it needs 16 characters or more",
    ),
    "one letter only": (
        {"orbiter_redis_users": {"worker": {"password": "a" * 40}}},
        "the Redis password of worker is missing or weak",
    ),
    "a user without a password": (
        {"orbiter_redis_users": {"worker": {"password": GOOD}, "client": {}}},
        "the Redis password of client is missing or weak",
    ),
    "the same password twice": (
        {"orbiter_redis_users": {"worker": {"password": GOOD}, "client": {"password": GOOD}}},
        "two users of Redis have the same password",
    ),
    "a user of no kind": (
        {"orbiter_redis_users": {"wroker": {"password": GOOD}}},
        "redis_users (orbiter_redis_users in the inventory) has wroker. A user must be named",
    ),
    "a certificate without a key": (
        {"redis_tls": True, "redis_tls_cert": "/etc/hostname"},
        "redis_tls_cert, redis_tls_key and redis_tls_ca must be files on this machine, all three",
    ),
}


@pytest.mark.parametrize("mistake", nightly_but(MISTAKES, "a short password"))
def test_a_mistake_in_the_inventory_is_found_before_a_host_is_contacted(site, mistake):
    variables, message = MISTAKES[mistake]
    done = site("redis1", **variables)
    assert done.returncode == 2
    assert message in shown(done)
    assert "PLAY [Look at the hosts]" not in done.stdout
    assert not any(secret in shown(done) for secret in ("sh0rt-passw0rd", "a" * 40, GOOD))


@pytest.fixture
def squatter(servers):
    """Let something else listen at a port of redis1."""
    host = servers["redis1"].host
    host.check_output("systemd-run --unit=squatter python3 -m http.server 6390")
    yield
    host.check_output("systemctl stop squatter")


def test_a_port_that_is_taken_is_said_with_who_has_it(site, squatter):
    done = site("redis1", redis_port=6390)
    assert done.returncode == 2
    assert "redis1: port 6390 is taken by python3 (process" in shown(done)
    assert changed(done) == []


def test_a_disk_that_is_nearly_full_is_said(site):
    done = site("redis1", redis_free_mb=10**9)
    assert done.returncode == 2
    assert "MB are free in /var/lib/redis, and Redis needs 1000000000" in shown(done)
    assert changed(done) == []


@pytest.fixture
def other(inventory, tmp_path):
    """Return a function that plays on the first fleet, with an inventory that says something else of the Redis host."""
    listed = subprocess.run(
        ["ansible-inventory", "--inventory", inventory, "--list"], capture_output=True, text=True, check=True
    )
    known = as_json(listed.stdout)["_meta"]["hostvars"]

    def run(playbook, *options, without=(), **said):
        redis = {name: value for name, value in known["redis1"].items() if name not in without} | said
        groups = {"redis": {"redis1": redis}, "workers": {"worker1": known["worker1"]}}
        hosts = {group: {"hosts": members} for group, members in groups.items()}
        (tmp_path / "hosts.json").write_text(json.dumps({"all": {"children": hosts}}))
        command = ["ansible-playbook", "--inventory", str(tmp_path / "hosts.json"), playbook, *options]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        print(done.stdout[-20_000:], done.stderr[-20_000:])
        return done

    return run


@pytest.mark.parametrize("limit", [pytest.param("redis1:worker1", marks=pytest.mark.nightly), "worker1"])
def test_a_redis_without_tls_gets_none_that_the_inventory_does_not_name(other, servers, limit):
    before = servers["redis1"].run_id()
    done = other("playbooks/rolling_update.yml", "--limit", limit, without=["redis_tls"])
    assert done.returncode == 2
    assert "redis1: its Redis runs without TLS" in shown(done)
    assert "redis_tls: false" in shown(done)
    assert "orbiter.fleet.redis_tls" in shown(done)
    assert changed(done) == []
    assert servers["redis1"].run_id() == before


def test_a_worker_host_that_redis_has_no_user_for_is_refused_where_redis_is_left_out(play):
    hosts = {"orbiter_redis_hosts": "redis1", "orbiter_worker_hosts": "worker1"}
    acme = {"redis_namespaces": [{"name": "acme"}], "worker_namespace": "acme"}
    done = play("site.yml", "--limit=worker1", **hosts, **acme)
    assert done.returncode == 2
    assert "worker1: Redis has no user for these yet (acme-worker)" in shown(done)
    assert "--limit 'redis1:worker1'" in shown(done)
    assert changed(done) == []


MORE = {"orbiter_firewall_clients": ["198.51.100.7"]}


@pytest.fixture
def powerless(servers):
    """Return a shell of the Redis host that may not touch the kernel's tables, as in a container without NET_ADMIN."""
    host, path = servers["redis1"].host, "/root/powerless"
    words = "exec setpriv --bounding-set=-net_admin --inh-caps=-net_admin /bin/sh"
    host.check_output(f"printf '#!/bin/sh\n%s \"$@\"\n' '{words}' > {path} && chmod 700 {path}")
    yield path
    host.check_output(f"rm {path}")


def test_where_no_firewall_can_be_made_that_is_said_and_an_error_where_the_inventory_asks_for_one(other, powerless):
    asked, unasked = (
        other("site.yml", "--tags=redis", ansible_shell_executable=powerless, **said)
        # With somebody more to let in; where the table is as it should be, nobody asks whether it can be made.
        for said in ({**MORE, "orbiter_firewall": True}, MORE)
    )
    assert (asked.returncode, unasked.returncode) == (2, 0)
    assert "redis1: no firewall can be made: " in shown(asked)
    assert "Operation not permitted" in shown(asked)
    assert "redis1: no firewall can be made here (" in shown(unasked)
    assert changed(asked) == changed(unasked) == []
