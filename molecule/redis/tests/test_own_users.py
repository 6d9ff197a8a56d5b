"""Worker hosts that shared a user get one each, and share one again, while tasks run."""

from __future__ import annotations

import pytest
from conftest import FLEETS, changed, shown

from fleet import Fleet, StubbornLoad

pytestmark = pytest.mark.nightly  # the scenario `redis_ha` has a user a host
OWN = "worker-worker2"


def users(server):
    """Return the users of worker hosts that Redis has, and those that somebody is connected as."""
    redis = server.fleet.redis
    there = {name for name in redis.acl_users() if name.startswith("worker")}
    return there, {row["user"] for row in redis.client_list()} & there


@pytest.fixture(scope="module")
def moved(servers, play):
    """Move the second fleet there and back, at first beside somebody who stays connected as the shared user."""
    server = servers["redis2"]
    own = {"orbiter_redis_hosts": "redis2", "orbiter_worker_hosts": FLEETS["redis2"], "redis_user_per_host": True}
    named = server.variables["orbiter_redis_users"]
    unnamed = own | {"orbiter_redis_users": {name: user for name, user in named.items() if name != "worker"}}
    plays, after = {}, {}
    old = Fleet(server.url("worker"))
    old.redis.ping()
    with StubbornLoad(server.fleet) as load:
        for name, book, options, variables in (
            ("limited", "playbooks/rolling_update.yml", ["--limit", FLEETS["redis2"]], own),
            ("first", "site.yml", [], unnamed),
            ("again", "site.yml", [], unnamed),
            ("alone", "site.yml", ["--limit", FLEETS["redis2"]], unnamed),
            ("back", "site.yml", [], own | {"redis_user_per_host": False}),
        ):
            plays[name] = play(book, *options, **variables)
            after[name] = users(server)
    old.redis.close()
    return {"plays": plays, "users": after, "load": load, "fleet": server.fleet}


def test_every_play_ends_well(moved):
    assert {name: done.returncode for name, done in moved["plays"].items()} == dict.fromkeys(moved["plays"], 0)
    assert changed(moved["plays"]["again"]) == []


def test_a_run_that_leaves_redis_out_leaves_the_shared_user(moved):
    assert moved["users"]["limited"] == ({"worker"}, {"worker"})


def test_the_shared_user_ends_when_all_have_moved_and_the_play_names_who_was_connected_as_it(moved):
    assert moved["users"]["first"] == ({OWN}, {OWN})
    assert " as worker" in shown(moved["plays"]["first"]).partition("these users of Redis have ended: ")[2]


def test_hosts_can_share_one_again(moved):
    assert moved["users"]["back"] == ({"worker"}, {"worker"})


def test_no_task_is_lost_while_hosts_get_users_of_their_own(moved):
    assert len(moved["load"].ids) > 10
    moved["fleet"].assert_nothing_lost(moved["load"].ids, within=120)
