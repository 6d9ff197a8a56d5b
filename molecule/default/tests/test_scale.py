"""The inventory says how many instances a host has; changing it under load loses no task."""

from __future__ import annotations

import pytest

from fleet import counted, wait_until


@pytest.fixture(scope="module")
def load(fleet):
    """Submit more tasks than will be done while the number of instances changes."""
    return fleet.submit([1.0] * 400)


def test_three_instances_a_host_are_at_work_under_load(play, fleet, workers, load):
    wait_until(lambda: len(fleet.running(load)) == 4, within=20, what=lambda: str(fleet.running(load)))
    assert play("site.yml", worker_instances=3).returncode == 0
    assert fleet.instances() == {(name, number) for name in workers for number in ("1", "2", "3")}


def test_back_to_one_drains_the_others_and_takes_them_off_the_list(play, fleet, workers, load):
    more = fleet.submit([1.0] * 300)
    wait_until(lambda: len(fleet.running(load + more)) == 6, within=20, what=lambda: str(fleet.running(load + more)))
    assert play("site.yml", worker_instances=1).returncode == 0
    assert fleet.instances() == {(name, "1") for name in workers}
    assert {(beat["hostname"], beat["instance"]) for beat in fleet.workers()} == fleet.instances()
    for host in workers.values():
        for number in (2, 3):
            unit = host.run(
                f"systemctl show --property=ActiveState,Result,UnitFileState orbiter-worker@{number}"
            ).stdout
            assert dict(line.split("=") for line in unit.splitlines()) == {
                "ActiveState": "inactive",
                "Result": "success",
                "UnitFileState": "disabled",
            }
    load += more


def test_no_task_was_lost_or_run_to_its_end_twice(fleet, load):
    fleet.wait_until_done(load, within=120)
    assert counted(fleet.statuses(load)) == {"completed": 700}
    for task_id, task in zip(load, fleet.tasks(load), strict=True):
        assert fleet.final_events(task_id) == ["completed"]
        assert int(task.get("retries") or 0) == int(task.get("crashes") or 0) == 0
    assert fleet.left_over() == {"waiting": 0, "pending": 0}


def test_converging_again_changes_nothing(play):
    again = play("site.yml", worker_instances=1)
    assert again.returncode == 0
    assert "changed=0" in again.stdout
    assert not [line for line in again.stdout.splitlines() if line.startswith("changed:")]
