"""Who decides for which hosts: each queue is apart, and a drained host has none."""

from __future__ import annotations

import json
import sys

import pytest

DECIDE = """
    - include_role: {name: orbiter.fleet.worker, tasks_from: autoscale, public: true}
    - debug: {msg: "has {{ __worker_autoscale_host['instances'] }} gets {{ worker_instances }}"}
"""


def host(name, queue="orbiter:tasks", instances=1, *, waiting=0, oldest=None):
    """Return the line of a host that autoscale has looked at."""
    limits = {"name": name, "instances": str(instances), "min": "1", "max": "4", "slots": "4"}
    status = {"queue": {"queue": queue, "waiting": waiting, "running": 4, "oldest_waiting": oldest}}
    known = {"__worker_autoscale_host": limits, "__worker_autoscale_queue": queue, "__worker_status": status}
    words = (f'{key}="{value!r}"' for key, value in known.items())
    return f"{name} worker_instances=2 {' '.join(words)}"


@pytest.fixture
def decide(ansible):
    """Return a function that decides for hosts in check mode; it gives what each has and gets, and what is said."""

    def run(*hosts, **variables):
        lines = ["[all:vars]", "ansible_connection=local", f"ansible_python_interpreter={sys.executable}"]
        extra = ["--check", "--diff", f"--extra-vars={json.dumps(variables)}"]
        done = ansible([*hosts, *lines], DECIDE, *extra)
        assert done.returncode == 0, done.stdout + done.stderr
        rows = done.stdout.split("ok: [")
        last = {row.partition("]")[0]: row.partition('"msg": "has ')[2].partition('"')[0] for row in rows[1:]}
        return {name: tuple(text.split(" gets ")) for name, text in last.items() if text}, done.stdout

    return run


def test_each_queue_decides_for_its_own_hosts(decide):
    numbers, shown = decide(
        host("w1", waiting=9, oldest=41),
        host("w2"),
        host("w3", "orbiter:mail", 3),
        host("w4", ""),
    )
    assert numbers == {"w1": ("1", "2"), "w2": ("1", "2"), "w3": ("3", "3"), "w4": ("1", "1")}
    assert "orbiter:tasks: 9 wait, the oldest for 41 s, 4 run; 2 instances on 2 hosts become 4" in shown
    assert "orbiter:mail: 0 wait, the oldest for 0 s, 4 run; 3 instances on 1 host stay" in shown
    assert "+w2: 2" in shown


def test_settings_and_what_a_watcher_has_seen_count(decide):
    numbers, _shown = decide(host("w1", instances=3), worker_autoscale_patience=60, orbiter_autoscale_calm=61)
    assert numbers == {"w1": ("3", "2")}
    numbers, _shown = decide(host("w1", instances=3), worker_autoscale_patience=60, orbiter_autoscale_calm=59)
    assert numbers == {"w1": ("3", "3")}
    numbers, _shown = decide(host("w1", waiting=1, oldest=41), worker_autoscale_wait=50)
    assert numbers == {"w1": ("1", "1")}
