"""A fleet without TLS gets it by a play, while tasks run and clients move when they can."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from conftest import FLEETS, changed, shown
from test_secrets import NEW, accepted, processes

from fleet import Fleet, StubbornLoad, listening, somebody

pytestmark = pytest.mark.nightly
PLAIN, SECURE = 6379, 6380
PLAYBOOK = "playbooks/redis_tls.yml"


def guarded(server):
    """Return the ports that the firewall guards."""
    chain = server.host.check_output("nft list chain inet orbiter input")
    return {int(port) for port in re.search("tcp dport != {(.*?)}", chain)[1].split(",")}


@pytest.fixture(scope="module")
def moved(servers, on, play):
    """Move the first fleet under load: a client stays at the plain port for a time, and then follows."""
    server, worker = servers["redis1"], on(FLEETS["redis1"])
    # The passwords that test_secrets leaves behind, if it has run.
    passwords = NEW if accepted(server, NEW["orbiter_redis_users"]["worker"]["password"]) else {}
    wanted = passwords | {"orbiter_redis_hosts": "redis1", "orbiter_worker_hosts": FLEETS["redis1"]}
    wanted |= {"redis_tls": True, "redis_tls_port": SECURE}
    password = (server.variables | passwords)["orbiter_redis_password"]
    place = f"admin:{quote(password, safe='')}@{server.variables['redis_bind']}"
    plain, secure = (
        Fleet(f"redis://{place}:{PLAIN}/0"),
        Fleet(f"rediss://{place}:{SECURE}/0?ssl_ca_certs={server.authority}"),
    )
    before = processes(worker)
    check = play(PLAYBOOK, "--check", **wanted)
    after_check = (listening(server.host), processes(worker))
    with somebody(plain), StubbornLoad(plain) as first:
        stays = play(PLAYBOOK, **wanted)
        both = (listening(server.host), guarded(server))
    with StubbornLoad(secure) as second:
        closes = play(PLAYBOOK, **wanted)
        one = listening(server.host)
    again = play(PLAYBOOK, **wanted)
    return {
        "before": before,
        "check": check,
        "after_check": after_check,
        "stays": stays,
        "both": both,
        "closes": closes,
        "one": one,
        "again": again,
        "loads": [first, second],
        "fleet": secure,
        "url": worker.check_output('. /etc/orbiter/worker.env; printf %s "$ORBITER_REDIS_URL"'),
    }


def test_a_check_of_it_changes_nothing(moved):
    assert moved["check"].returncode == 0
    assert moved["after_check"] == ({PLAIN}, moved["before"])


def test_the_plain_port_stays_open_while_somebody_is_connected_by_it_and_the_play_names_who(moved):
    assert moved["stays"].returncode == 2
    said = shown(moved["stays"])
    assert f"the workers use TLS, and port {PLAIN} stays open without it, as these are connected by it: " in said
    assert ".1 as admin" in said  # the network's gateway is the machine of the tests
    assert " as worker" not in said.partition("are connected by it: ")[2]
    assert moved["both"][0] == {PLAIN, SECURE}


def test_both_ports_are_behind_the_firewall_while_both_are_open(moved):
    assert moved["both"][1] == {PLAIN, SECURE}


def test_it_closes_when_nobody_is_and_workers_stay_where_they_are(moved):
    assert moved["closes"].returncode == 0
    assert changed(moved["closes"]) == ["Write the settings that need a restart", "Restart the only Redis"]
    assert moved["one"] == {SECURE}


def test_it_again_changes_nothing(moved):
    assert moved["again"].returncode == 0
    assert changed(moved["again"]) == []


def test_workers_use_tls(moved):
    assert moved["url"].startswith("rediss://worker:")
    assert moved["url"].endswith(f":{SECURE}/0?ssl_ca_certs=/etc/orbiter/redis-ca.pem")


def test_no_task_is_lost_while_a_fleet_moves(moved):
    for load in moved["loads"]:
        assert len(load.ids) > 10
    moved["fleet"].assert_nothing_lost([task_id for load in moved["loads"] for task_id in load.ids], within=90)
