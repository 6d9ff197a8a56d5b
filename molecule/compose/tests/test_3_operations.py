"""What an operator does with systemd works with stacks: update, go back, take out; and mistakes cost a message."""

from __future__ import annotations

import re

import pytest

from fleet import Load, counted


def one_line(done):
    """Return what a play said, without the line breaks that Ansible puts in."""
    return " ".join(done.stdout.split())


@pytest.fixture(scope="module")
def ids(workers, replicas):
    """Return a function that tells the containers of each host."""
    return lambda: {name: {row["Id"] for row in replicas(host)} for name, host in workers.items()}


@pytest.fixture(scope="module")
def upgraded(play, fleet, source):
    """Upgrade to 0.1.1 under load."""
    with Load(fleet) as load:
        done = play("playbooks/rolling_update.yml", release_source=source("0.1.1"))
    return {"done": done, "load": load, "versions": {beat["version"] for beat in fleet.workers()}}


@pytest.fixture(scope="module")
def failed(play, fleet, ids, upgraded, source):
    """Try to upgrade to a release whose workers crash at start, under load."""
    broken = source("0.1.2", start='\nraise SystemExit("the broken release says hello")\n')
    before = ids()
    with Load(fleet) as load:
        done = play("playbooks/rolling_update.yml", release_source=broken, worker_gate_timeout=8)
    return {"done": done, "load": load, "before": before, "after": ids()}


def test_new_release_reaches_every_replica_under_load(upgraded, nothing_lost):
    assert upgraded["done"].returncode == 0
    assert upgraded["versions"] == {"0.1.1"}
    assert min(upgraded["load"].live) >= 2
    nothing_lost(upgraded["load"])


def test_broken_release_is_taken_back_from_the_first_replica_under_load(failed, fleet, nothing_lost):
    shown = one_line(failed["done"])
    assert failed["done"].returncode == 2
    assert "worker1 is back on release 0.1.1-" in shown
    assert "Release 0.1.2-" in shown
    assert "has no heartbeat in Redis" in shown or "does not run" in shown
    assert "the broken release says hello" in shown
    assert {beat["version"] for beat in fleet.workers()} == {"0.1.1"}
    assert len(fleet.instances()) == 4
    assert min(failed["load"].live) >= 2
    nothing_lost(failed["load"])


def test_replicas_that_the_broken_release_had_not_reached_go_on_undisturbed(failed):
    assert failed["after"]["worker2"] == failed["before"]["worker2"]
    assert len(failed["after"]["worker1"] & failed["before"]["worker1"]) == 1


def test_rollback_takes_every_replica_to_the_release_before(failed, play, fleet):
    assert play("playbooks/rollback.yml").returncode == 0
    assert {beat["version"] for beat in fleet.workers()} == {"0.1.0"}
    assert len(fleet.instances()) == 4


def test_rollback_to_a_release_that_is_not_there_changes_nothing(failed, play, ids):
    before = ids()
    done = play("playbooks/rollback.yml", worker_version="0.0.9-00000000")
    assert done.returncode == 2
    assert "Release 0.0.9-00000000 is not on this host; these are: 0.1.0-" in one_line(done)
    assert ids() == before


def test_drained_host_stays_out_until_it_comes_back(play, fleet, workers, replicas, nothing_lost):
    with Load(fleet) as load:
        assert play("playbooks/drain.yml", "--limit=worker1", worker_drain_reason="more memory").returncode == 0
        assert {host for _, host in fleet.instances()} == {"worker2"}
        deployed = play("site.yml", "--tags=worker_service")
        assert deployed.returncode == 0
        assert "worker1 is drained since" in one_line(deployed)
        assert {host for _, host in fleet.instances()} == {"worker2"}
        # What is drained is as it should be, and what somebody has stopped is not.
        stopped = replicas(workers["worker2"])[0]["Name"].lstrip("/")
        workers["worker2"].check_output(f"docker stop {stopped}")
        shown = play("playbooks/status.yml").stdout
        assert "more memory" in shown
        assert re.findall("- (.* needs attention.*)", shown) == [
            f"worker2 needs attention, {stopped} is exited after 0 restarts"
        ]
        workers["worker2"].check_output(f"docker start {stopped}")
        assert play("playbooks/undrain.yml", "--limit=worker1").returncode == 0
    assert counted(host for _, host in fleet.instances()) == {"worker1": 2, "worker2": 2}
    nothing_lost(load)


MISTAKES = {
    "password": (
        "playbooks/image.yml",
        {"image_registry_password": "wr0ng-password"},
        ["worker1 could not log in to", "as pusher", "Check image_registry"],
    ),
    "registry": (
        "playbooks/image.yml",
        {"image_registry": "127.0.0.1:9/fleet", "image_registry_username": "", "image_registry_password": ""},
        ["worker1 cannot use the registry 127.0.0.1:9/fleet", "connection refused"],
    ),
    "base": (
        "playbooks/image.yml",
        {"image_base": "no-such-base:1"},
        ["worker1 has no image no-such-base:1 to build on", "docker load"],
    ),
    # One on each host; the first has the image.
    "images": (
        "site.yml",
        {
            "worker_image": "{{ {'worker1': 'orbiter-testbase:trixie'}[inventory_hostname]"
            " | default('127.0.0.1:9/fleet/orbiter-worker:1') }}",
            "worker_registry_username": "",
            "worker_registry_password": "",
        },
        [
            "worker2 could not pull 127.0.0.1:9/fleet/orbiter-worker:1",
            "worker1: the image orbiter-testbase:trixie does not start",
            "Nothing has changed here",
        ],
    ),
    "localhost": (
        "playbooks/rolling_update.yml",
        {"worker_redis_url": "redis://localhost:6379"},
        ["which in a container is the container"],
    ),
    "half a login": (
        "playbooks/rolling_update.yml",
        {"worker_registry_username": ""},
        ["only one of them is set"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_costs_a_message_and_changes_nothing(play, ids, workers, mistake):
    playbook, variables, words = MISTAKES[mistake]

    def state():
        return ids(), [host.check_output("cat /etc/orbiter/*.* /usr/local/bin/orbiter") for host in workers.values()]

    before = state()
    done = play(playbook, **variables)
    assert done.returncode == 2
    assert [word for word in words if word not in one_line(done)] == []
    assert state() == before


def test_host_without_docker_is_told_what_to_install_and_may_have_it_installed(play, workers, ids):
    before = ids()
    # The engine and what it runs stay.
    workers["worker2"].check_output("dpkg --remove --force-depends docker-cli docker-compose")
    told = play("site.yml")
    installed = play("playbooks/rolling_update.yml", "--limit=localhost,redis1,worker2", worker_install_docker=True)
    assert told.returncode == 2
    shown = one_line(told)
    assert "worker2 has Docker engine - and Compose plugin - (the command docker is not installed)" in shown
    # Before anything else begins, on any host.
    assert "PLAY [Lock]" in installed.stdout
    assert "PLAY [Lock]" not in told.stdout
    assert "worker_install_docker: true" in shown
    assert installed.returncode == 0
    assert ids() == before


def test_teardown_leaves_nothing_on_a_host_and_the_others_at_work(play, fleet, workers):
    assert play("playbooks/teardown.yml", "--limit=worker2", orbiter_teardown=True).returncode == 0
    assert {host for _, host in fleet.instances()} == {"worker1"}
    host = workers["worker2"]
    assert host.run("ls -d /etc/orbiter /usr/local/bin/orbiter").stdout == ""
    assert (
        host.check_output(
            "docker ps --all --quiet; docker image ls --quiet; docker network ls --quiet --filter name=orbiter"
        )
        == ""
    )
