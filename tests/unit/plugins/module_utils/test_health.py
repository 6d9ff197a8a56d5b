"""The one answer to: is it well?"""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.orbiter.fleet.plugins.module_utils._health import (
    Expected,
    complaint,
    complaints,
    described,
    heartbeat,
    machine_id,
)
from conftest import COMMAND

UNIT = "orbiter-worker@1.service"
ONE = Expected(
    name=UNIT, shown="systemd: active/running", version="1.0", pid=7, hostname="new", machine_id="m1", unit=UNIT
)
WELL = {
    "worker_id": "w1",
    "alive": True,
    "state": "running",
    "version": "1.0",
    "pid": 7,
    "hostname": "new",
    "machine_id": "m1",
    "unit": UNIT,
    "started_at": 100.0,
    "active": 2,
}


def test_a_worker_is_well_whatever_its_host_was_called_when_it_started():
    assert complaint(ONE, [WELL | {"hostname": "old"}]) == ""


def test_a_worker_of_a_release_that_tells_no_machine_is_known_by_its_hosts_name():
    for silent in ({"machine_id": "", "unit": ""}, {"machine_id": None, "unit": None}):
        assert complaint(ONE, [WELL | silent]) == ""
        assert "no heartbeat" in complaint(ONE, [WELL | silent | {"hostname": "old"}])


@pytest.mark.parametrize(
    "other",
    [{"machine_id": "m2"}, {"unit": "orbiter-worker@2.service"}, {"pid": 8}, {"alive": False}],
    ids=["machine", "unit", "process", "dead"],
)
def test_a_heartbeat_of_anything_else_does_not_count(other):
    assert heartbeat(ONE, [WELL | other]) is None
    assert complaints([ONE], [WELL | other]) == [f"{UNIT} (systemd: active/running) has no heartbeat in Redis"]


def test_a_containers_heartbeat_is_of_the_time_since_it_started():
    container = Expected(name="orbiter-worker-1", hostname="new", since=99.5)
    assert heartbeat(container, [WELL]) == WELL
    assert heartbeat(replace(container, since=100.5), [WELL]) is None


@pytest.mark.parametrize(
    ("one", "beat", "said"),
    [
        (replace(ONE, running=False), {}, "does not run"),
        (ONE, {"state": "draining"}, "draining"),
        (ONE, {"state": "degraded", "problem": "its processes die"}, "degraded: its processes die"),
        (ONE, {"version": "0.9"}, "runs version 0.9, not 1.0"),
    ],
)
def test_what_is_wrong_is_said(one, beat, said):
    assert said in complaint(one, [WELL | beat])


def test_a_worker_is_described_by_its_heartbeat():
    assert described(ONE, [WELL]) == {
        "unit": UNIT,
        "wrong": "",
        "worker_id": "w1",
        "version": "1.0",
        "active": 2,
        "concurrency": None,
        "tasks_processed": None,
        "tasks_failed": None,
    }


def test_what_is_no_machines_id_names_no_machine(tmp_path):
    place = tmp_path / "machine-id"
    assert machine_id(place) == ""
    place.write_text("uninitialized\n")
    assert machine_id(place) == ""


def test_worker_names_its_machine_as_the_gate_does(server, worker):
    worker()
    done = subprocess.run(
        [COMMAND, "worker", "list", "--json", "--redis-url", server.url], capture_output=True, text=True, check=True
    )
    [row] = json.loads(done.stdout)
    assert row["machine_id"] == machine_id()
    assert Path("/etc/machine-id").read_text().strip() not in (row["machine_id"] or "-")
