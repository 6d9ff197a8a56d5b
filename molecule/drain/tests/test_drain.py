"""Instances and hosts that stop in the middle of the work lose none of it."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from fleet import Fleet, counted, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

SUITES = {"redis1": "ubuntu", "worker1": "ubuntu", "worker2": "debian"}
DRAIN_TIMEOUT = 6  # of this scenario's inventory
STOP_TIMEOUT = DRAIN_TIMEOUT + 5


def stop(host: Any, unit: str) -> float:
    """Stop a unit as an operator does; return how long that took."""
    began = time.monotonic()
    host.check_output(f"systemctl stop {unit}")
    return time.monotonic() - began


def assert_ended_well(host: Any, unit: str) -> None:
    """Check what systemd says of a unit that was stopped: it ended by itself, with 0."""
    shown = host.check_output(f"systemctl show --property=ActiveState,Result,ExecMainCode,ExecMainStatus {unit}")
    assert dict(line.split("=") for line in shown.splitlines()) == {
        "ActiveState": "inactive",
        "Result": "success",
        "ExecMainCode": "1",  # CLD_EXITED: neither killed nor dumped
        "ExecMainStatus": "0",
    }


def last_run(host: Any, unit: str) -> str:
    """Return the journal of a unit's last run."""
    invocation = host.check_output(f"systemctl show --property=InvocationID --value {unit}")
    return str(host.check_output(f"journalctl --no-pager --output=cat _SYSTEMD_INVOCATION_ID={invocation}"))


def test_hosts_of_this_scenario_are_of_both_distributions(on):
    assert {name: on(name).system_info.distribution for name in SUITES} == SUITES


@pytest.fixture(scope="module")
def load(fleet: Fleet, workers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Submit 40 tasks of 1 to 3 s to two hosts; stop one instance in the middle, then all of the other host."""
    seconds = [random.uniform(1, 3) for _ in range(40)]
    ids = fleet.submit(seconds)
    one, other = workers["worker1"], workers["worker2"]
    wait_until(lambda: ("worker1", "1") in fleet.running(ids), within=10, what=lambda: str(fleet.workers()))
    instance_took = stop(one, "orbiter-worker@1")
    wait_until(lambda: ("worker2", "1") in fleet.running(ids), within=10, what=lambda: str(fleet.workers()))
    unfinished = 40 - counted(fleet.statuses(ids)).get("completed", 0)
    host_took = stop(other, "orbiter-workers.target")
    listed = fleet.instances()
    fleet.wait_until_done(ids, within=60)
    yield {
        "ids": ids,
        "instance_took": instance_took,
        "host_took": host_took,
        "unfinished": unfinished,
        "listed": listed,
    }
    for host in workers.values():
        host.check_output("systemctl start orbiter-workers.target")


def test_the_host_was_stopped_in_the_middle_of_the_work(load):
    assert 0 < load["unfinished"] < 40


def test_every_task_completes(fleet, load):
    assert counted(fleet.statuses(load["ids"])) == {"completed": 40}


def test_every_task_completes_exactly_once(fleet, load):
    for task_id, task in zip(load["ids"], fleet.tasks(load["ids"]), strict=True):
        assert fleet.final_events(task_id) == ["completed"]
        assert int(task["attempt"]) == 1 + int(task.get("handoffs") or 0)
        assert [int(task.get(count) or 0) for count in ("retries", "losses", "crashes")] == [0, 0, 0]


def test_nothing_stays_in_the_queue(fleet, load):
    assert fleet.left_over() == {"waiting": 0, "pending": 0}


@pytest.mark.guide("Process manager (systemd)", "`KillSignal=SIGTERM`, `TimeoutStopSec`")
def test_units_stop_by_themselves_in_time(workers, load):
    assert load["instance_took"] < STOP_TIMEOUT
    assert load["host_took"] < STOP_TIMEOUT
    assert_ended_well(workers["worker1"], "orbiter-worker@1")
    for number in (1, 2):
        assert_ended_well(workers["worker2"], f"orbiter-worker@{number}")


def test_who_stopped_is_gone_from_the_listing(load):
    assert load["listed"] == {("worker1", "2")}


def test_journal_tells_of_the_drain(workers, load):
    stopped = [("worker1", 1), ("worker2", 1), ("worker2", 2)]
    for name, number in stopped:
        journal = last_run(workers[name], f"orbiter-worker@{number}")
        assert "draining" in journal
        assert "drained in" in journal


def test_a_task_that_outlives_the_drain_is_handed_back_and_completed_by_the_other_host(fleet, workers, load):
    for host in workers.values():
        host.check_output("systemctl start orbiter-workers.target")
    wait_until(lambda: len(fleet.instances()) == 4, within=30, what=lambda: str(fleet.instances()))

    ids = fleet.submit([DRAIN_TIMEOUT + 3])
    wait_until(lambda: fleet.statuses(ids) == ["running"], within=10, what=lambda: str(fleet.tasks(ids)))
    first = fleet.tasks(ids)[0]["worker_id"].rsplit("-", 2)[0]
    (second,) = set(workers) - {first}
    took = stop(workers[first], "orbiter-workers.target")

    assert DRAIN_TIMEOUT - 1 < took < STOP_TIMEOUT
    fleet.wait_until_done(ids, within=30)
    (task,) = fleet.tasks(ids)
    assert task["status"] == "completed"
    assert task["worker_id"].rsplit("-", 2)[0] == second
    assert (task["handoffs"], task.get("retries") or "0") == ("1", "0")
    assert fleet.final_events(ids[0]) == ["completed"]
    assert fleet.left_over() == {"waiting": 0, "pending": 0}
    journals = [last_run(workers[first], f"orbiter-worker@{number}") for number in (1, 2)]
    assert any("1 handed back" in journal for journal in journals)
