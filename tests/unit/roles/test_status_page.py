"""The page of a fleet's state names who works and is of no host in the inventory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "roles/worker/files/page.py"
OURS = {"worker_id": "w1", "hostname": "worker1"}
OLD = [{"worker_id": "o1", "hostname": "old"}, {"worker_id": "o2", "hostname": "old"}]


def host(*workers, trouble=""):
    """Return what a host says that runs w1, and sees these workers."""
    instance = {"unit": "orbiter-worker@1.service", "wrong": "", "worker_id": "w1"}
    instance |= {"active": 0, "tasks_processed": 0, "tasks_failed": 0}
    said = {"release": "1", "previous": "", "drained": "", "instances": [instance], "workers": workers, "queue": None}
    return {"rc": 0, "stdout": json.dumps(said | {"trouble": trouble})}


def page(tmp_path, hosts, *options):
    """Return the page and the JSON."""
    file = tmp_path / "status.json"
    command = [sys.executable, str(PAGE), *options, str(file)]
    done = subprocess.run(command, input=json.dumps(hosts), capture_output=True, text=True, check=True)
    return done.stdout, json.loads(file.read_text())


def test_workers_of_a_host_that_is_not_in_the_inventory_are_named(tmp_path):
    shown, found = page(tmp_path, {"worker1": host(OURS, *OLD)})
    assert "old is not in the inventory, and works, 2 workers\n" in shown
    assert "All is well" not in shown
    assert (found["well"], found["strangers"]) == (False, OLD)


def test_workers_of_the_inventory_are_no_strangers(tmp_path):
    shown, found = page(tmp_path, {"worker1": host(OURS)})
    assert "All is well" in shown
    assert (found["well"], found["strangers"]) == (True, [])


def test_nobody_is_a_stranger_where_only_some_hosts_were_asked(tmp_path):
    for hosts, *options in (
        ({"worker1": host(OURS, *OLD)}, "--part"),
        ({"worker1": host(OURS, *OLD), "worker2": {"unreachable": True}},),
    ):
        assert page(tmp_path, hosts, *options)[1]["strangers"] == []
