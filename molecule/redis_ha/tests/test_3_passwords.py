"""All passwords of a group change under load: who is master stays, nothing is lost, and the next failover works."""

from __future__ import annotations

import re

import pytest
from conftest import NEW, TLS, asked_sentinel, in_step, lose_the_master, processes

from fleet import Fleet, StubbornLoad, counted, wait_until

pytestmark = pytest.mark.nightly  # the scenario `redis` changes those of one server under load


def login(url):
    """Return the part of a fleet's URL that says who the worker is, and the one by which it asks the sentinels."""
    return url.partition("@")[0], url.partition("sentinel_password=")[2].partition("&")[0]


@pytest.fixture(scope="module")
def rotated(play, fleet, as_workers, servers, master):
    """Change every password under load, first beside the old ones while clients move, then for good."""
    before = {"master": master(), "redis": processes(servers, "redis-server"), "url": fleet.redis_url}
    with StubbornLoad(fleet) as first:
        beside = play("playbooks/rotate_secrets.yml", orbiter_rotate_keep_old=True, **NEW)
    # By the old password at the sentinels, and at the master.
    first.ids += fleet.submit([0.1])
    later = as_workers()
    with StubbornLoad(later) as second:
        for_good = play("playbooks/rotate_secrets.yml", **NEW)
    return {"before": before, "beside": beside, "for_good": for_good, "loads": [first, second], "fleet": later}


def test_clients_are_let_in_all_along_by_the_old_passwords_until_they_have_moved(rotated):
    assert rotated["beside"].returncode == rotated["for_good"].returncode == 0
    first, second = rotated["loads"]
    assert len(first.ids) > 10
    assert len(second.ids) > 10
    assert [error for load in (first, second) for error in load.refused if re.search("WRONGPASS|NOAUTH", error)] == []


def test_nothing_is_lost(rotated):
    fleet: Fleet = rotated["fleet"]
    ids = [task_id for load in rotated["loads"] for task_id in load.ids]
    fleet.wait_until_done(ids, within=120)
    assert counted(fleet.statuses(ids)) == {"completed": len(ids)}


def test_redis_does_not_restart_and_the_master_stays(rotated, servers, master):
    assert master() == rotated["before"]["master"]
    assert processes(servers, "redis-server") == rotated["before"]["redis"]
    assert all(in_step(host) for name, host in servers.items() if name != master())


def test_no_redis_and_no_sentinel_takes_an_old_password(rotated, servers, runner):
    old, new = login(rotated["before"]["url"]), login(rotated["fleet"].redis_url)
    assert old[0] != new[0]
    assert old[1] != new[1]
    for name, host in servers.items():
        variables = runner.get_variables(name)
        given = [("admin", variables["orbiter_redis_password"])]
        given += [(user, about["password"]) for user, about in variables["orbiter_redis_users"].items()]
        for user, password in given:
            said = host.run(f"REDISCLI_AUTH=%s redis-cli {TLS} --user {user} ping", password)
            assert "WRONGPASS" in said.stdout + said.stderr, user
        ask = f"redis-cli {TLS} -p 26379 --user %s sentinel get-master-addr-by-name orbiter"
        for user, password, lets_in in [("reader", old[1], False), ("reader", new[1], True)]:
            said = host.run(f"REDISCLI_AUTH=%s {ask}", password, user)
            assert ("6379" in said.stdout.split()) is lets_in, user
        assert asked_sentinel(host, "ckquorum orbiter").startswith("OK 3 usable Sentinels")


def test_the_group_survives_its_master_with_the_new_passwords(rotated, servers, workers, master):
    fleet, first = rotated["fleet"], master()
    before = processes(workers, "orbiter-worker@1")
    with StubbornLoad(fleet) as load:
        lose_the_master(load, fleet, servers, first)
    assert master() != first
    fleet.wait_until_done(load.ids, within=120)
    assert counted(fleet.statuses(load.ids)) == {"completed": len(load.ids)}
    assert processes(workers, "orbiter-worker@1") == before
    servers[first].check_output("systemctl start redis-server redis-sentinel")
    wait_until(lambda: in_step(servers[first]), within=90, what=lambda: str(servers[first]))
