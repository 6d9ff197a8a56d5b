"""The workers' password of Redis changes under load, and no task is lost."""

from __future__ import annotations

from urllib.parse import quote

import pytest
import redis

from fleet import Load

pytestmark = pytest.mark.nightly  # the scenario `redis` changes passwords under load
NEW = 'th3 worker\'s n3w \\ "p@ss"/w:rd #% $HOME ü'


@pytest.fixture(scope="module")
def users(runner):
    """Return the users of the inventory."""
    return runner.get_variables("redis1")["orbiter_redis_users"]


@pytest.fixture(scope="module")
def accepted(runner, inventory):
    """Return a function that tells whether Redis lets workers in with a password."""
    address, authority = runner.get_variables("redis1")["redis_bind"], f"{inventory}/.redis-tls/ca.pem"

    def ask(password):
        try:
            return redis.Redis(address, username="worker", password=password, ssl=True, ssl_ca_certs=authority).ping()
        except redis.AuthenticationError:
            return False

    return ask


@pytest.fixture(scope="module")
def seen(workers, replicas, users, accepted):
    """Return a function that tells which password each replica has, and which Redis takes: the old one, the new one."""
    words = {quote(users["worker"]["password"], safe=""): "old", quote(NEW, safe=""): "new"}

    def look():
        urls = {
            row["Id"]: variable
            for host in workers.values()
            for row in replicas(host)
            for variable in row["Config"]["Env"]
            if variable.startswith("ORBITER_REDIS_URL=")
        }
        found = {name: [told for word, told in words.items() if f":{word}@" in url] for name, url in urls.items()}
        return {"replicas": found, "old": accepted(users["worker"]["password"]), "new": accepted(NEW)}

    return look


@pytest.fixture(scope="module")
def rotated(play, fleet, users, seen):
    """Change the password under load; afterwards it is the inventory's again."""
    new = users | {"worker": {"password": NEW}}
    before = seen()
    with Load(fleet) as load:
        done = play("playbooks/rotate_secrets.yml", orbiter_redis_users=new)
        after = seen()
    again = play("playbooks/rotate_secrets.yml", orbiter_redis_users=new)
    yield {"done": done, "load": load, "before": before, "after": after, "again": again, "later": seen()}
    assert play("playbooks/rotate_secrets.yml", orbiter_serial="100%").returncode == 0


def test_every_replica_gets_the_new_password_and_the_old_one_is_refused(rotated):
    assert rotated["done"].returncode == 0
    assert list(rotated["before"]["replicas"].values()) == [["old"]] * 4
    assert (rotated["before"]["old"], rotated["before"]["new"]) == (True, False)
    assert list(rotated["after"]["replicas"].values()) == [["new"]] * 4
    assert (rotated["after"]["old"], rotated["after"]["new"]) == (False, True)


def test_no_task_is_lost_while_the_password_changes(rotated, nothing_lost):
    assert min(rotated["load"].live) >= 3
    nothing_lost(rotated["load"])


def test_rotating_again_replaces_no_replica(rotated):
    assert rotated["again"].returncode == 0
    assert rotated["later"] == rotated["after"]
