"""What would go wrong is said before a host is changed."""

from __future__ import annotations

import pytest
from conftest import changed, shown

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
