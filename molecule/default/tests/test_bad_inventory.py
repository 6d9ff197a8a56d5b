"""A mistake in the inventory costs a message: the play stops before it touches a host."""

from __future__ import annotations

import pytest

from fleet import nightly_but

MISTAKES = {
    "no redis host": ({"orbiter_redis_hosts": "nobody"}, "The inventory has 0 hosts in 'nobody' and needs one"),
    "two redis hosts": (
        {"orbiter_redis_hosts": "redis1:worker1"},
        "The inventory has 2 hosts in 'redis1:worker1' and needs one, which holds the queue, or three, five or seven",
    ),
    "a group without addresses": (
        {"orbiter_redis_hosts": "all"},
        "find each other by redis_bind, and these are '172.28.",
    ),
    "no password": ({"orbiter_redis_password": ""}, "orbiter_redis_password in the inventory) must be a password"),
    "instances below 0": ({"worker_instances": -1}, "worker_instances is -1; it must be a whole number, 0 or more"),
    "instances in words": ({"worker_instances": "two"}, "worker_instances is two; it must be a whole number"),
    "no concurrency": ({"worker_concurrency": 0}, "worker_concurrency is 0; it must be a whole number, 1 or more"),
    "a drain longer than the stop": (
        {"worker_drain_timeout": 30, "worker_stop_timeout": 30},
        "worker_drain_timeout (30 s) must be a whole number below worker_stop_timeout (30 s",
    ),
    "a URL that is none": ({"worker_redis_url": "http://redis1"}, "worker_redis_url must be a URL such as redis://"),
    "a queue that no worker can read": ({"worker_queue": "q q"}, 'worker_queue is "q q"; it must be 1 to 128 letters'),
    "a queue that no user may have": ({"redis_queues": ["q*"]}, """redis_queues is ["q*"]; a queue's name must be"""),
    "an executor that is none": (
        {"worker_executor": "cloud"},
        "worker_executor is 'cloud'; it must be local",
    ),
    "durable tasks without a Temporal": (
        {"worker_executor": "temporal"},
        "Put a host into the group temporal, which then gets a server, or set temporal_host to HOST:PORT",
    ),
    "durable tasks without the extra": (
        {"worker_executor": "temporal", "temporal_host": "temporal1:7233", "worker_extras": ["otel"]},
        'worker_executor is temporal, and worker_extras is ["otel"]. Add temporal to it',
    ),
    "an address of Temporal without a port": (
        {"worker_executor": "temporal", "temporal_host": "temporal1"},
        "the address of Temporal is 'temporal1'",
    ),
    "two Temporal hosts": (
        {"orbiter_temporal_hosts": "workers"},
        "has 2 hosts in the group of Temporal",
    ),
    "a namespace that is none": (
        {"orbiter_temporal_hosts": "worker1", "temporal_namespace": "a b"},
        "temporal_namespace is 'a b'; it must be two or more letters",
    ),
    "a setting on two lines": ({"worker_extra_env": {"A": "x\ny"}}, "needs a name of letters, digits and underscores"),
    "a setting of the worker for tasks": (
        {"worker_task_env": {"ORBITER_REDIS_URL": "redis://elsewhere"}},
        "worker_task_env has ORBITER_REDIS_URL; tasks do not get names that are the worker's alone",
    ),
    "an isolation that is none": ({"worker_isolation": "thread"}, "worker_isolation is 'thread'; it must be process,"),
    "more processes than tasks": ({"worker_processes": 5}, "worker_processes is 5 and worker_concurrency 4"),
    "a limit that only systemd reads": ({"worker_memory_max": "50%"}, "worker_memory_max is 50%; it must be bytes"),
    "a port out of range": ({"redis_port": 70000}, "redis_port is 70000"),
    "a setting that the role writes": (
        {"redis_settings": [{"name": "requirepass", "value": "x"}]},
        "redis_settings may not name",
    ),
}


# The module that finds them has tests of its own, which are quicker.
DAILY = ("no redis host", "a drain longer than the stop", "a setting that the role writes")


@pytest.mark.parametrize("mistake", nightly_but(MISTAKES, *DAILY))
def test_play_stops_before_it_touches_a_host(play, mistake):
    variables, message = MISTAKES[mistake]
    # What site.yml and the others begin with.
    done = play("playbooks/prepare.yml", **variables)
    shown = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert message in shown
    assert "PLAY [Look at the hosts]" not in shown
