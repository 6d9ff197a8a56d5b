"""Hosts leave the fleet and come back; anybody can see how the fleet is."""

from __future__ import annotations

import json

import pytest

from fleet import Load, counted


@pytest.fixture(scope="module")
def status(play, tmp_path_factory):
    """Return a function that runs the playbook: its page, and its JSON."""
    file = tmp_path_factory.mktemp("status") / "status.json"

    def look(*options):
        done = play("playbooks/status.yml", *options, worker_status_file=str(file))
        assert done.returncode == 0
        assert "changed=0" in done.stdout
        return done.stdout, json.loads(file.read_text())

    return look


def test_status_of_a_fleet_that_is_well(status, fleet):
    page, found = status()
    assert "\nAll is well\n" in page
    assert "\nQueue orbiter:tasks, 0 of " in page
    assert found["well"]
    assert found["queue"]["workers"] == 4
    assert [len(host["instances"]) for host in found["hosts"].values()] == [2, 2]
    assert {one["wrong"] for host in found["hosts"].values() for one in host["instances"]} == {""}


def test_status_names_an_instance_that_does_not_run_and_a_host_that_does_not_answer(status, workers, tmp_path):
    more = tmp_path / "more.ini"
    more.write_text("[workers]\nworker3 ansible_host=172.28.78.99 ansible_user=root\n")
    workers["worker2"].check_output("systemctl stop orbiter-worker@2")
    page, found = status(f"--inventory={more}")
    assert "\nworker2 needs attention, orbiter-worker@2 (systemd: inactive/dead) does not run\n" in page
    assert "\nworker3 needs attention, unreachable\n" in page
    assert found["hosts"]["worker3"]["trouble"] == "unreachable"
    workers["worker2"].check_output("systemctl start orbiter-worker@2")


def test_drain_takes_a_host_out_under_load_and_nothing_is_lost(play, fleet):
    with Load(fleet) as load:
        assert play("playbooks/drain.yml", "--limit=worker1", worker_drain_reason="more memory").returncode == 0
        assert fleet.instances() == {("worker2", "1"), ("worker2", "2")}
    fleet.wait_until_done(load.ids, within=60)
    assert counted(fleet.statuses(load.ids)) == {"completed": len(load.ids)}
    assert {len(fleet.final_events(task_id)) for task_id in load.ids} == {1}


def test_drained_host_stays_out_when_the_fleet_is_deployed(play, fleet, status):
    done = play("site.yml", "--skip-tags=redis")
    assert done.returncode == 0
    assert not [line for line in done.stdout.splitlines() if line.startswith("changed:")]
    assert "worker1 is drained since" in " ".join((done.stdout + done.stderr).split())
    assert fleet.instances() == {("worker2", "1"), ("worker2", "2")}
    page, found = status()
    assert "more memory" in page
    assert found["well"]


def test_undrain_brings_it_back(play, fleet):
    assert play("playbooks/undrain.yml", "--limit=worker1").returncode == 0
    assert len(fleet.instances()) == 4


def test_drain_of_every_host_is_refused(play, fleet):
    done = play("playbooks/drain.yml")
    assert done.returncode == 2
    assert "nobody would be at work" in " ".join(done.stdout.split())
    assert len(fleet.instances()) == 4


def test_teardown_is_refused_without_a_confirmation(play, fleet):
    done = play("playbooks/teardown.yml")
    assert done.returncode == 2
    assert "-e orbiter_teardown=true" in done.stdout
    assert len(fleet.instances()) == 4


def test_teardown_leaves_nothing_on_a_host_and_the_others_at_work(play, fleet, workers):
    assert play("playbooks/teardown.yml", "--limit=worker1", orbiter_teardown=True).returncode == 0
    assert fleet.instances() == {("worker2", "1"), ("worker2", "2")}
    places = "/opt/orbiter /etc/orbiter /usr/local/bin/orbiter /etc/systemd/system/orbiter* /var/lib/orbiter"
    assert workers["worker1"].run(f"ls -d {places}; id orbiter").stdout == ""
