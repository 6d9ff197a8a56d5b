"""The number of instances changes under load, and no task is lost."""

from __future__ import annotations

import time

import pytest

from fleet import Load, nightly_but

LONGEST = 6.0  # times as long as the least that Ansible does on a host may one instance more take
LEAST = """
- hosts: worker1
  gather_facts: false
  tasks: [{ansible.builtin.ping: }]
"""


def every(workers, count):
    """Return what is at work when each host has so many instances."""
    return {(name, str(number)) for name in workers for number in range(1, count + 1)}


def state(host, number):
    """Return what systemd knows of an instance."""
    words = f"systemctl show --property=ActiveState,Result,UnitFileState orbiter-worker@{number}"
    return dict(line.split("=") for line in host.check_output(words).splitlines())


@pytest.fixture(scope="module")
def scaled(play, fleet, workers):
    """Go from 1 to 4 to 2 instances a host by the playbook, under load; note who was at work after each step."""
    with Load(fleet, interval=0.3) as load:
        up = play("playbooks/scale.yml", instances=4), fleet.instances()
        at_work = len(load.live)
        down = play("playbooks/scale.yml", instances=2), fleet.instances()
    listed = {(beat["hostname"], beat["instance"]) for beat in fleet.workers() if beat}
    return {"load": load, "up": up, "down": down, "listed": listed, "live": (load.live[:at_work], load.live[at_work:])}


def test_check_shows_it_and_changes_nothing(play, fleet, workers):
    done = play("playbooks/scale.yml", "--check", "--diff", instances=3)
    assert done.returncode == 0
    assert done.stdout.count("changed: [worker") == len(workers)
    assert fleet.instances() == every(workers, 1)


@pytest.mark.guide("Scaling Recommendations", "workers of several instances a host")
def test_from_one_to_four(scaled, workers):
    done, at_work = scaled["up"]
    assert done.returncode == 0
    assert at_work == every(workers, 4)


def test_from_four_to_two(scaled, workers):
    done, at_work = scaled["down"]
    assert done.returncode == 0
    assert at_work == every(workers, 2)


def test_nobody_stops_who_is_to_stay(scaled):
    up, down = scaled["live"]
    assert min(up) >= 2
    assert min(down) >= 4


def test_no_task_is_lost_or_run_twice(scaled, fleet):
    assert len(scaled["load"].ids) > 10
    fleet.assert_nothing_lost(scaled["load"].ids)


def test_instances_above_the_number_have_drained_and_are_disabled(scaled, workers):
    for host in workers.values():
        for number in (3, 4):
            assert state(host, number) == {"ActiveState": "inactive", "Result": "success", "UnitFileState": "disabled"}
        for number in (1, 2):
            assert state(host, number)["UnitFileState"] == "enabled"


def test_they_are_gone_from_the_listing(scaled, workers):
    assert scaled["listed"] == every(workers, 2)


def test_one_more_on_one_host_is_quick(scaled, play, fleet, tmp_path):
    least = tmp_path / "least.yml"
    least.write_text(LEAST)
    took = []
    for number in (3, 4):
        began = time.monotonic()
        assert play(str(least)).returncode == 0
        floor = time.monotonic() - began
        began = time.monotonic()
        assert play("playbooks/scale.yml", "--limit=worker1", instances=number).returncode == 0
        took.append((time.monotonic() - began) / floor)
        assert ("worker1", str(number)) in fleet.instances()
        assert ("worker2", "3") not in fleet.instances()
    print("one instance more, in least plays:", ", ".join(f"{times:.1f}" for times in took))
    assert min(took) <= LONGEST  # the second is warm


def test_scaling_again_changes_nothing(scaled, play):
    done = play("playbooks/scale.yml", "--limit=worker1", instances=4)
    assert done.returncode == 0
    assert "changed=0" in done.stdout


@pytest.mark.parametrize("instances", nightly_but(["-1", "two", "2.5", ""], "two"))
def test_number_that_is_none_is_refused(play, fleet, instances):
    before = fleet.instances()
    done = play("playbooks/scale.yml", instances=instances)
    assert done.returncode == 2
    assert f"worker_instances is {instances}; it must be a whole number" in " ".join(done.stdout.split())
    assert fleet.instances() == before


def test_by_the_inventory_each_host_has_what_it_says(scaled, play, fleet, workers, tmp_path):
    more = tmp_path / "more.ini"
    more.write_text("[workers]\nworker1 worker_instances=3\nworker2 worker_instances=1\n")
    with Load(fleet, interval=0.3) as load:
        assert play("site.yml", f"--inventory={more}", "--skip-tags=redis").returncode == 0
        assert fleet.instances() == {("worker1", "1"), ("worker1", "2"), ("worker1", "3"), ("worker2", "1")}
        # Back to the number of the inventory, by the playbook that takes it from there.
        assert play("playbooks/scale.yml").returncode == 0
        assert fleet.instances() == every(workers, 1)
    fleet.assert_nothing_lost(load.ids)


def test_no_instances_and_one_again(play, fleet):
    assert play("playbooks/scale.yml", "--limit=worker2", instances=0).returncode == 0
    assert fleet.instances() == {("worker1", "1")}
    assert play("playbooks/scale.yml", "--limit=worker2").returncode == 0
    assert fleet.instances() == {("worker1", "1"), ("worker2", "1")}


def test_instance_that_does_not_come_up_goes_away_again(play, fleet, workers):
    """Somebody broke its unit by hand."""
    host = workers["worker1"]
    override = "/etc/systemd/system/orbiter-worker@2.service.d"
    host.check_output(f"mkdir {override}; printf '[Service]\\nExecStart=\\nExecStart=/bin/false\\n' >{override}/x.conf")
    done = play("playbooks/scale.yml", "--limit=worker1", instances=2, worker_gate_timeout=6)
    shown = " ".join(done.stdout.split())
    host.check_output(f"rm -r {override}; systemctl daemon-reload")
    assert done.returncode == 2
    assert "worker1 is back on release" in shown
    assert "orbiter-worker@2.service" in shown
    assert fleet.instances() == {("worker1", "1"), ("worker2", "1")}
    assert state(host, 2)["UnitFileState"] == "disabled"
