"""A release goes through the fleet host by host, under load, and loses nothing; a bad one is taken back by itself."""

from __future__ import annotations

import re

import pytest

from fleet import VERSION, Load, releases, wait_until


def processes(host):
    """Return the main process of each of a host's instances."""
    return host.check_output("systemctl show --property=MainPID --value orbiter-worker@1 orbiter-worker@2").split()


@pytest.fixture(scope="module")
def upgraded(play, source, fleet, workers):
    """Upgrade to 99.0.1 under load."""
    before = releases(workers)
    with Load(fleet) as load:
        done = play("playbooks/rolling_update.yml", release_source=source("99.0.1"))
    return {"before": before, "after": releases(workers), "load": load, "done": done}


@pytest.fixture(scope="module")
def failed(play, source, fleet, workers, upgraded):
    """Try to upgrade to a release whose workers crash at start, under load."""
    broken = source("99.0.2", start='\nraise SystemExit("the broken release says hello")\n')
    before = {name: processes(host) for name, host in workers.items()}
    with Load(fleet) as load:
        done = play("playbooks/rolling_update.yml", release_source=broken)
    return {"before": before, "load": load, "done": done}


def test_check_of_an_upgrade_shows_the_restarts_and_changes_nothing(play, source, workers):
    before = releases(workers), {name: processes(host) for name, host in workers.items()}
    done = play("playbooks/rolling_update.yml", "--check", "--diff", release_source=source("99.0.1"))
    assert done.returncode == 0
    assert done.stdout.count("RUNNING HANDLER [orbiter.fleet.worker : Restart workers]") == len(workers)
    assert (releases(workers), {name: processes(host) for name, host in workers.items()}) == before


def test_new_release_reaches_every_host(upgraded, fleet):
    assert upgraded["done"].returncode == 0
    assert all(release.startswith(f"{VERSION}-") for release in upgraded["before"].values())
    assert all(release.startswith("99.0.1-") for release in upgraded["after"].values())
    assert {beat["version"] for beat in fleet.workers()} == {"99.0.1"}
    assert len(fleet.instances()) == 4


def test_half_of_the_instances_at_least_are_at_work_at_any_time(upgraded):
    assert len(upgraded["load"].live) > 50
    assert min(upgraded["load"].live) >= 2


def test_every_task_completes_once_while_the_fleet_is_upgraded(upgraded, fleet):
    assert len(upgraded["load"].ids) > 20
    fleet.assert_nothing_lost(upgraded["load"].ids)


def test_play_with_a_broken_release_fails_and_says_why(failed):
    shown = " ".join(failed["done"].stdout.split())
    assert failed["done"].returncode == 2
    assert "worker1 is back on release 99.0.1-" in shown
    assert "Release 99.0.2-" in shown
    # Between two of its starts, or in the middle of one.
    assert re.search(r"orbiter-worker@1\.service \(systemd: activating/(auto-restart|start)\) has no heartbeat", shown)
    assert "the broken release says hello" in shown


def test_others_may_deploy_after_it(failed, fleet):
    assert not fleet.redis.exists("orbiter:deploy")


def test_first_host_is_back_on_the_release_before(failed, upgraded, fleet, workers):
    assert releases(workers) == upgraded["after"]
    assert {beat["version"] for beat in fleet.workers() if beat["hostname"] == "worker1"} == {"99.0.1"}
    assert len(fleet.instances()) == 4


def test_instance_after_the_one_that_failed_goes_on_undisturbed(failed, workers):
    assert processes(workers["worker1"])[-1] == failed["before"]["worker1"][-1]


def test_second_host_is_untouched(failed, workers):
    assert processes(workers["worker2"]) == failed["before"]["worker2"]
    assert workers["worker2"].run("ls -d /opt/orbiter/releases/99.0.2-*").rc != 0


def test_every_task_completes_once_while_a_broken_release_comes_and_goes(failed, fleet):
    assert min(failed["load"].live) >= 2
    fleet.assert_nothing_lost(failed["load"].ids)


def test_rollback_takes_every_host_to_the_release_before_under_load(failed, play, fleet, workers, upgraded):
    with Load(fleet) as load:
        assert play("playbooks/rollback.yml").returncode == 0
    assert releases(workers) == upgraded["before"]
    assert {beat["version"] for beat in fleet.workers()} == {VERSION}
    assert min(load.live) >= 2
    fleet.assert_nothing_lost(load.ids)


def test_rollback_to_a_release_that_is_not_there_changes_nothing(failed, play, workers):
    before = releases(workers)
    done = play("playbooks/rollback.yml", worker_version="0.0.9-00000000")
    assert done.returncode == 2
    assert f"Release 0.0.9-00000000 is not installed here; these are: {VERSION}-" in " ".join(done.stdout.split())
    assert releases(workers) == before


def test_release_that_is_well_and_ends_soon_is_taken_back(failed, play, source, fleet, workers):
    ends = """
import os, threading
timer = threading.Timer(6, os._exit, [3])
timer.daemon = True
timer.start()
"""
    before = releases(workers), processes(workers["worker1"])[1]
    done = play("playbooks/rolling_update.yml", release_source=source("99.0.3", start=ends), worker_gate_settle=10)
    shown = " ".join(done.stdout.split())
    assert done.returncode == 2
    assert "99.0.3" in shown
    assert "does not stay well" in shown
    assert (releases(workers), processes(workers["worker1"])[1]) == before
    assert len(fleet.instances()) == 4
    # Those that ended are not seen by what follows.
    wait_until(lambda: len(fleet.workers()) == 4, within=180, what=lambda: str(fleet.workers()))
