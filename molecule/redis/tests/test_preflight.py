"""What would go wrong is said before a host is changed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from conftest import FLEETS, as_json, changed, shown

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
        "redis_users (orbiter_redis_users in the inventory) has wroker: a user is named worker, client or monitor",
    ),
    "a certificate without a key": (
        {"redis_tls": True, "redis_tls_cert": "/etc/hostname"},
        "redis_tls_cert, redis_tls_key and redis_tls_ca must be files on this machine, all three",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
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
def silent(inventory, tmp_path):
    """Return the inventory without what it says of TLS."""
    listed = subprocess.run(
        ["ansible-inventory", "--inventory", inventory, "--list"], capture_output=True, text=True, check=True
    )
    known = as_json(listed.stdout)["_meta"]["hostvars"]
    for name in FLEETS:
        known[name].pop("redis_tls", None)
    groups = {"redis": list(FLEETS), "workers": list(FLEETS.values())}
    hosts = {group: {"hosts": {name: known[name] for name in names}} for group, names in groups.items()}
    file = tmp_path / "hosts.json"
    file.write_text(json.dumps({"all": {"children": hosts}}))
    return str(file)


@pytest.mark.parametrize("limit", ["redis1:worker1", "worker1"])
def test_a_redis_without_tls_gets_none_that_the_inventory_does_not_name(silent, servers, limit):
    before = servers["redis1"].run_id()
    words = ["-e", "orbiter_redis_hosts=redis1", "-e", "orbiter_worker_hosts=worker1", "--limit", limit]
    command = ["ansible-playbook", "--inventory", silent, "playbooks/rolling_update.yml", *words]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "redis1: its Redis runs without TLS" in shown(done)
    assert "redis_tls: false" in shown(done)
    assert "orbiter.fleet.redis_tls" in shown(done)
    assert changed(done) == []
    assert servers["redis1"].run_id() == before
