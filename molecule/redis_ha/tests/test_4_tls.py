"""A group without TLS gets it by a play, while tasks run and clients move when they can; it keeps its master."""

from __future__ import annotations

import pytest
from conftest import (
    NEW,
    asked_sentinel,
    assert_no_host_changed,
    assert_unchanged,
    in_step,
    lose_the_master,
    processes,
    role,
)

from fleet import StubbornLoad, counted, listening, somebody, wait_until

pytestmark = pytest.mark.nightly
PLAIN, SECURE = {6379, 26379}, {6380, 26380}
PLAYBOOK = "playbooks/redis_tls.yml"
WITHOUT = NEW | {"redis_tls": False}
WANTED = NEW | {"redis_tls": True, "redis_tls_port": 6380, "redis_sentinel_tls_port": 26380}


def open_ports(servers):
    """Return the ports of Redis and Sentinel that are open: the same ones on all hosts."""
    (ports,) = {frozenset(listening(host)) for host in servers.values()}
    return set(ports)


@pytest.fixture(scope="module")
def without(play, servers):
    """Take TLS from the group, all of it stopped, as docs/high-availability-changes.md says."""
    refused = play("site.yml", "--tags=redis", **WITHOUT)
    for host in servers.values():
        host.check_output("systemctl stop redis-sentinel redis-server")
    return {"refused": refused, "done": play("site.yml", **WITHOUT), "ports": open_ports(servers)}


@pytest.fixture(scope="module")
def moved(without, play, servers, workers, as_workers):
    """Move the group under load: a client stays where it is for a time, and then follows."""
    plain, before = as_workers(), processes(workers, "orbiter-worker@1")
    check = play(PLAYBOOK, "--check", **WANTED)
    after_check = (open_ports(servers), processes(workers, "orbiter-worker@1"))
    with somebody(plain), StubbornLoad(plain) as first:
        stays = play(PLAYBOOK, **WANTED)
        both = open_ports(servers)
        already = len(first.ids)
        wait_until(lambda: len(first.ids) > already, within=30, what=lambda: f"refused: {first.refused[-3:]}")
    secure = as_workers()
    with StubbornLoad(secure) as second:
        closes = play(PLAYBOOK, **WANTED)
        one = open_ports(servers)
    return {
        "before": before,
        "check": check,
        "after_check": after_check,
        "stays": stays,
        "both": both,
        "closes": closes,
        "one": one,
        "loads": [first, second],
        "fleet": secure,
    }


def test_tls_goes_from_a_group_only_while_all_of_it_is_stopped(without):
    assert without["refused"].returncode != 0
    assert_no_host_changed(without["refused"])
    assert without["done"].returncode == 0
    assert without["ports"] == PLAIN


def test_a_check_of_a_groups_move_changes_nothing(moved):
    assert moved["check"].returncode == 0
    assert moved["after_check"] == (PLAIN, moved["before"])


def test_both_ports_of_a_group_stay_open_while_somebody_uses_the_plain_one(moved):
    assert moved["stays"].returncode == 2
    said = " ".join(moved["stays"].stdout.split()).rpartition("as these are connected by it: ")[2].partition(" Give")[0]
    assert ".1 as worker-worker1" in said  # the network's gateway is the machine of the tests
    assert "admin" not in said  # replicas and sentinels
    assert [host for host in (".11 as", ".12 as") if host in said] == []  # whose workers have moved
    assert moved["both"] == PLAIN | SECURE


def test_they_close_when_nobody_does_and_the_members_use_tls_among_themselves(moved, servers, master):
    assert moved["closes"].returncode == 0
    assert moved["one"] == SECURE
    assert all(in_step(host) for name, host in servers.items() if name != master())
    for host in servers.values():
        assert asked_sentinel(host, "ckquorum orbiter").startswith("OK 3 usable Sentinels")
        assert asked_sentinel(host, "get-master-addr-by-name orbiter").split()[1] == "6380"


def test_the_site_changes_nothing_after_a_group_has_moved(moved, play):
    assert_unchanged(play("site.yml", **WANTED))


def test_no_task_is_lost_while_a_group_moves(moved):
    fleet = moved["fleet"]
    for load in moved["loads"]:
        assert len(load.ids) > 10
        fleet.wait_until_done(load.ids, within=120)
        # Masters hand over on the way: a run whose lease cannot be renewed is repeated (docs/reliability.md).
        assert counted(fleet.statuses(load.ids)) == {"completed": len(load.ids)}


def test_a_group_that_has_moved_survives_its_master(moved, servers, master):
    fleet, first = moved["fleet"], master()
    with StubbornLoad(fleet) as load:
        lose_the_master(load, fleet, servers, first)
    assert master() != first
    fleet.wait_until_done(load.ids, within=120)
    assert set(fleet.statuses(load.ids)) == {"completed"}
    servers[first].check_output("systemctl start redis-server redis-sentinel")
    wait_until(lambda: in_step(servers[first]), within=90, what=lambda: role(servers[first]))
