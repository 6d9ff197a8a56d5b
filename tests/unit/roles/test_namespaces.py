"""Namespaces of an inventory: two fleets on one Redis, of which neither reaches what is the other's."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from conftest import COMMAND, Server, wait_until
from users import refused, written

PATIENCE = 60
TENANTS = [{"name": "acme", "queues": ["mail", "acme:reports"], "clients": ["app", "cron"]}, {"name": "{blue}"}]
HOSTS = {
    "w1": {"user": "worker-w1", "shared": "worker"},
    "w2": {"user": "acme-worker-w2", "shared": "acme-worker"},
}


def reach(rules):
    """Return the first words of all keys and channels of a user."""
    keys = [word.lstrip("(").partition("~")[2].rstrip(")") for word in rules.split() if "~" in word]
    channels = [word[1:] for word in rules.split() if word.startswith("&")]
    return {name.lstrip("{").partition(":")[0].rstrip("}") for name in (*keys, *channels)}


def test_each_namespace_has_users_that_reach_its_keys_only(ansible, tmp_path):
    given = {"acme-app": {"password": "password of the app"}}
    path = tmp_path / "users.acl"
    rules = written(ansible, path, redis_namespaces=TENANTS, redis_users=given)
    own, acme = {"worker", "client", "monitor"}, {"acme-worker", "acme-monitor", "acme-app", "acme-cron"}
    blue = {"blue-worker", "blue-monitor", "blue-client"}
    assert rules.keys() == {"admin"} | own | acme | blue
    for names, namespace in ((own, "orbiter"), (acme, "acme"), (blue, "blue")):
        assert {word for name in names for word in reach(rules[name])} == {namespace}
    assert all(f"~acme:{queue}" in rules["acme-app"] for queue in ("mail", "reports"))
    assert "~{blue}:tasks" in rules["blue-client"]
    assert rules["acme-app"] == rules["acme-cron"]
    passwords = dict(line.split()[1::3][:2] for line in path.read_text().splitlines() if "#" in line)
    assert len(set(passwords.values())) == len(passwords)


def test_each_worker_host_has_a_user_with_the_rights_of_the_worker_of_its_namespace(ansible, tmp_path):
    given = {name: {"password": f"password of {name}"} for name in ("worker", "acme-worker")}
    path = tmp_path / "users.acl"
    rules = written(ansible, path, redis_namespaces=TENANTS, redis_users=given, redis_worker_hosts=HOSTS)
    assert rules["worker-w1"] == rules["worker"]
    assert rules["acme-worker-w2"] == rules["acme-worker"]
    assert reach(rules["acme-worker-w2"]) == {"acme"}
    passwords = dict(line.split()[1::3][:2] for line in path.read_text().splitlines() if line)
    assert len({passwords[name] for name in ("worker", "worker-w1", "acme-worker", "acme-worker-w2")}) == 4


@pytest.mark.parametrize(
    ("each", "given", "wanted"),
    [
        (True, {}, {"worker-w1", "acme-worker-w2"}),
        ("no", {}, {"worker"}),
        (True, {"worker": {"password": "the word of who shares"}}, {"worker", "worker-w1", "acme-worker-w2"}),
    ],
    ids=["one each", "shared", "both"],
)
def test_worker_hosts_share_a_user_only_where_the_inventory_says_so(ansible, tmp_path, each, given, wanted):
    said = {"redis_worker_hosts": HOSTS, "redis_user_per_host": each, "redis_users": given}
    rules = written(ansible, tmp_path / "users.acl", redis_namespaces=TENANTS[:1], **said)
    assert {name for name in rules if name.startswith(("worker", "acme-worker-"))} == wanted


def test_the_shared_user_that_a_worker_host_s_url_names_is_kept(ansible, tmp_path):
    hosts = HOSTS | {"w9": {"user": "worker", "shared": "worker"}}
    rules = written(ansible, tmp_path / "users.acl", redis_namespaces=TENANTS[:1], redis_worker_hosts=hosts)
    assert rules["worker"] == rules["worker-w1"]


def test_a_worker_host_has_nobody_elses_user(ansible):
    hosts = {"client": HOSTS["w1"] | {"user": "worker-client"}}
    said = refused(ansible, redis_worker_hosts=hosts, redis_namespaces=[{"name": "worker"}])
    assert "two users of one name, worker-client:" in said
    shared = refused(ansible, redis_worker_hosts=hosts, redis_namespaces=[{"name": "worker"}], redis_user_per_host="no")
    assert shared == ""


def test_users_of_the_fleet_are_those_of_its_namespace(ansible, tmp_path):
    rules = written(ansible, tmp_path / "users.acl", orbiter_namespace="acme")
    for name in ("worker", "client", "monitor"):
        assert reach(rules[name]) == {"acme"}
    assert "~acme:tasks" in rules["client"]


# Each breaks a rule, with what is said of it. The first ones are in nobody's way.
FAULTS = [
    ({"name": "a", "clients": ["b-worker"]}, ""),
    ({"name": "a-b"}, "users of a-b would be called as those of another namespace: a-b-worker"),
    ({"name": "orbiter"}, "orbiter is there twice, or is the fleet itself (orbiter_namespace)"),
    ({"name": "{a}"}, "{a} is there twice, or is the fleet itself (orbiter_namespace)"),
    ({"name": "b*"}, "b* is no name of a namespace: 1 to 64 letters (a to z, A to Z), digits, or any of _ . -"),
    ({"name": "{b"}, "{b is no name of a namespace: 1 to 64 letters"),
    ({"name": 7}, "7 is no name of a namespace: 1 to 64 letters"),
    (
        {"name": "c", "queues": ["b c"]},
        'the queues of c are ["b c"] and must be a list of names, each 1 to 128 letters',
    ),
    ({"name": "d", "queues": []}, "the queues of d are [] and must be a list of names"),
    ({"name": "e", "queues": "b"}, 'the queues of e are "b" and must be a list of names'),
    ({"name": "f", "queues": ["f:fleet"]}, 'the queues of f are ["f:fleet"] and must be a list of names'),
    ({"name": "g", "clients": ["worker"]}, 'the clients of g are ["worker"] and must be a list of names'),
    ({"name": "h", "clients": ["b:c"]}, 'the clients of h are ["b:c"] and must be a list of names'),
    ({"name": "i"}, "redis_queues has a queue that would be in i: name it in queues of that namespace"),
]


def test_what_can_be_no_namespace_is_refused_with_the_rule(ansible):
    said = refused(ansible, redis_namespaces=[one for one, dummy in FAULTS], redis_queues=["orbiter:tasks", "i:mail"])
    assert "host: redis_namespaces: " in said
    assert [reason for dummy, reason in FAULTS if reason not in said] == []
    own = 'redis_namespace (orbiter_namespace in the inventory) is "a:b"; it must be 1 to 64 letters'
    assert own in refused(ansible, orbiter_namespace="a:b")
    assert "name=a is text, and must be a list" in refused(ansible, redis_namespaces="name=a")
    assert "name found in redis_namespaces" in refused(ansible, redis_namespaces=[{"nam": "a"}])


def test_a_user_of_a_namespace_that_is_not_there_is_refused(ansible):
    users = {"b-app": {"password": "0123456789abcdef"}}
    assert "has b-app" in refused(ansible, redis_namespaces=[{"name": "a"}], redis_users=users)


def test_users_of_namespaces_may_be_given_passwords(ansible):
    users = {"acme-app": {"password": "password of the app"}}
    assert refused(ansible, redis_namespaces=TENANTS, redis_users=users) == ""


class Fleet:
    """A fleet with the users that the role made for it."""

    def __init__(self, server, namespace, users, folder):
        self.server, self.namespace, self.users = server, namespace, users
        self.environment = {"ORBITER_NAMESPACE": namespace, "PYTHONPATH": str(Path(__file__).parents[1])}
        self.log = (folder / f"{namespace}.log").open("ab")

    def url(self, purpose):
        """Return the URL of the user for a purpose."""
        name = self.users[purpose]
        return f"redis://{name}:{quote(password(name))}@127.0.0.1:{self.server.port}/0"

    def ask(self, purpose, *words, given=""):
        """Return what the command prints for the user of a purpose."""
        environment = os.environ | self.environment | {"ORBITER_REDIS_URL": self.url(purpose)}
        done = subprocess.run(
            [COMMAND, *words, "--json"], env=environment, input=given, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done
        return json.loads(done.stdout)

    def submit(self, job, task_id, text="", **metadata):
        """Submit a task."""
        words = [word for key, value in metadata.items() for word in ("--metadata", f"{key}={value}")]
        agent = json.dumps({"runtime": "callable", "target": f"jobs:{job}", "name": job})
        self.ask("client", "task", "submit", text, "--agent", "-", "--task-id", task_id, *words, given=agent)

    def task(self, task_id):
        """Return the record of a task."""
        return self.server.client.hgetall(f"{self.namespace}:task:{task_id}")

    def becomes(self, task_id, status):
        """Wait for the status of a task."""
        wait_until(lambda: self.task(task_id).get("status") == status, within=PATIENCE)

    def states(self):
        """Return the states of the fleet's live workers."""
        listed = self.ask("monitor", "worker", "list")
        return {worker["worker_id"]: worker["state"] for worker in listed if worker["alive"]}

    @contextlib.contextmanager
    def worker(self, worker_id):
        """Run a worker."""
        settings = {
            "ORBITER_REDIS_URL": self.url("worker"),
            "ORBITER_WORKER_ID": worker_id,
            "ORBITER_ALLOW_IMPORT": "jobs",
            "ORBITER_HEARTBEAT_TTL": "2",
            "ORBITER_DRAIN_TIMEOUT": "1",
        }
        command = [COMMAND, "start", "worker"]
        environment = os.environ | self.environment | settings
        process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: self.states().get(worker_id) == "running", within=PATIENCE)
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(PATIENCE)


def password(name):
    """Return the password of a user."""
    return f"password of {name}"


@pytest.fixture
def fleets(ansible, tmp_path):
    """Return two fleets on one Redis: that of the inventory, and one of redis_namespaces."""
    own = {purpose: purpose for purpose in ("worker", "client", "monitor")}
    acme = {"worker": "acme-worker", "client": "acme-app", "monitor": "acme-monitor"}
    users = {name: {"password": password(name)} for name in (*own.values(), *acme.values())}
    tenants = [{"name": "acme", "clients": ["app"]}]
    path = tmp_path / "users.acl"
    written(ansible, path, redis_namespaces=tenants, redis_users=users, redis_password=Server.password)
    with Server(tmp_path, f"aclfile {path}", user="admin") as server:
        ours, theirs = (Fleet(server, *of, tmp_path) for of in (("orbiter", own), ("acme", acme)))
        yield ours, theirs
        ours.log.close()
        theirs.log.close()


def refusals(server):
    """Return what Redis refused, but for the driver's name, which is told to Redis 7.2 and later only."""
    found = [f"{row['username']}: {row['object']}" for row in server.client.acl_log()]
    return [one for one in found if "setinfo" not in one]


def test_two_fleets_on_one_redis_neither_see_drain_reclaim_nor_break_each_other(fleets):
    ours, theirs = fleets
    server = ours.server
    with ours.worker("w1") as survivor, theirs.worker("w1") as killed:
        for fleet in fleets:
            fleet.submit("echo", "same", text=f"of {fleet.namespace}")
        for fleet in fleets:
            fleet.becomes("same", "completed")
            assert f"you said of {fleet.namespace}" in fleet.task("same")["result"]
            assert [task["task_id"] for task in fleet.ask("monitor", "task", "list")] == ["same"]
            assert list(fleet.states()) == ["w1"]
            assert fleet.ask("monitor", "queue", "info")["workers"] == 1
        theirs.submit("sleep", "lost", seconds=0.1)
        theirs.becomes("lost", "completed")
        theirs.submit("sleep", "long", seconds=3)
        theirs.becomes("long", "running")
        killed.kill()
        killed.wait(PATIENCE)
        # Theirs to be found lost and run again, although we have a worker that sweeps meanwhile.
        with theirs.worker("w2"):
            theirs.becomes("long", "completed")
            assert theirs.task("long")["worker_id"] == "w2"
            assert theirs.ask("worker", "worker", "drain", "--all")[0]["worker_id"] == "w2"
        assert ours.states() == {"w1": "running"}
        assert survivor.poll() is None
        theirs.submit("echo", "waiting")
        assert ours.ask("monitor", "queue", "info")["waiting"] == 0
        assert theirs.ask("monitor", "queue", "info")["waiting"] == 1
        ours.submit("echo", "after")
        ours.becomes("after", "completed")
    assert refusals(server) == []
    words = {key.lstrip("{").partition(":")[0] for key in server.client.scan_iter()}
    assert words == {"orbiter", "acme"}


def test_what_a_user_of_one_namespace_tries_on_another_is_refused(fleets):
    ours, theirs = fleets
    for mine, yours in ((ours, theirs), (theirs, ours)):
        for purpose in ("worker", "client"):
            with contextlib.closing(redis.Redis.from_url(mine.url(purpose))) as client:
                queue = f"{yours.namespace}:tasks"
                for command in (
                    ("XADD", queue, "*", "payload", "x"),
                    ("HSET", f"{yours.namespace}:task:x", "status", "failed"),
                    ("HGETALL", f"{yours.namespace}:workers:w1"),
                    ("ZADD", f"{{{queue}}}:delayed", "1", "x"),
                    ("PUBLISH", f"{yours.namespace}:cancel:x", "x"),
                    ("PUBLISH", f"{yours.namespace}:control:w1", "drain"),
                    ("SUBSCRIBE", f"{yours.namespace}:events:x"),
                    ("GET", f"{yours.namespace}:deploy"),
                ):
                    with pytest.raises(redis.exceptions.NoPermissionError):
                        client.execute_command(*command)
    assert list(ours.server.client.scan_iter()) == []
