"""The page of a fleet's state names who works and is of no host in the inventory."""

from __future__ import annotations

import pytest
from ansible_collections.orbiter.fleet.plugins.filter.fleet_page import WIDEST, fleet_page

OURS = {"worker_id": "w1", "hostname": "worker1"}
OLD = [{"worker_id": "o1", "hostname": "old"}, {"worker_id": "o2", "hostname": "old"}]


def host(*workers, trouble=""):
    """Return what a host says that runs w1, and sees these workers."""
    instance = {"unit": "orbiter-worker@1.service", "wrong": "", "worker_id": "w1"}
    instance |= {"active": 0, "tasks_processed": 0, "tasks_failed": 0}
    said = {"release": "1", "previous": "", "drained": "", "instances": [instance], "workers": workers, "queue": None}
    return said | {"trouble": trouble, "changed": False}


def test_workers_of_a_host_that_is_not_in_the_inventory_are_named():
    found = fleet_page({"worker1": host(OURS, *OLD)})
    assert "old is not in the inventory, and works, 2 workers" in found["page"]
    assert "All is well" not in found["page"]
    assert (found["state"]["well"], found["state"]["strangers"]) == (False, OLD)


def test_workers_of_the_inventory_are_no_strangers():
    found = fleet_page({"worker1": host(OURS)})
    assert found["page"][-1] == "All is well"
    assert (found["state"]["well"], found["state"]["strangers"]) == (True, [])


@pytest.mark.parametrize("part", [True, False])
def test_nobody_is_a_stranger_where_only_some_hosts_were_asked(part):
    away = {} if part else {"worker2": {"unreachable": True, "msg": "no route"}}
    assert fleet_page({"worker1": host(OURS, *OLD), **away}, part=part)["state"]["strangers"] == []


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"unreachable": True, "msg": "no route"}, "unreachable"),
        ({"failed": True, "msg": "a\nsystemctl failed"}, "systemctl failed"),
        ({"failed": True, "msg": "see stderr", "module_stderr": "sudo: no password\n"}, "sudo: no password"),
        ({}, "no answer"),
    ],
)
def test_a_host_that_does_not_answer_says_why(result, reason):
    found = fleet_page({"worker1": result})
    assert found["page"][-1] == f"worker1 needs attention, {reason}"
    assert not found["state"]["well"]


def test_columns_stay_under_their_titles_whatever_hosts_are_called():
    hosts = {name: host(OURS) for name in ("w", "é" * 80, "a.very.long.name." * 5)}
    head, *rows = fleet_page(hosts, part=True)["page"][2 : 3 + len(hosts)]
    assert {row.index("1 of 1") + len("1 of 1") for row in rows} == {head.index("WELL") + len("WELL")}
    assert len({len(row) for row in (head, *rows)}) == 1
    assert len(head) < WIDEST + 60


def test_what_is_wrong_with_an_instance_is_shown_as_systemd_has_it():
    wrong = host(OURS)
    wrong["instances"][0]["wrong"] = "(systemd: inactive/dead) does not run"
    page = fleet_page({"worker1": wrong})["page"]
    assert page[-1] == "worker1 needs attention, orbiter-worker@1 (systemd: inactive/dead) does not run"
