"""A release goes through the fleet host by host, under load, and loses nothing; a bad one is taken back by itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fleet import Load, counted

WORKER = Path(__file__).parents[3] / "worker"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a function that copies the worker's project as another version, with a line more in its start command."""

    def copy(version, *, start=""):
        folder = tmp_path_factory.mktemp("source") / "worker"
        unwanted = shutil.ignore_patterns("tests", "benchmarks", "__pycache__", ".*", "*.egg-info", "build", "dist")
        shutil.copytree(WORKER, folder, ignore=unwanted)
        project = folder / "pyproject.toml"
        project.write_text(project.read_text().replace('\nversion = "0.1.0"\n', f'\nversion = "{version}"\n'))
        with (folder / "src/orbiter/cli/start.py").open("a") as command:
            command.write(start)
        return str(folder)

    return copy


def releases(workers):
    """Return the release that each host uses."""
    link = "basename $(readlink /opt/orbiter/current)"
    return {name: host.check_output(link) for name, host in workers.items()}


def processes(host):
    """Return the main process of each of a host's instances."""
    return host.check_output("systemctl show --property=MainPID --value orbiter-worker@1 orbiter-worker@2").split()


def assert_nothing_lost(fleet, load):
    """Check that every task of a load completed, once, at the first try."""
    fleet.wait_until_done(load.ids, within=60)
    assert counted(fleet.statuses(load.ids)) == {"completed": len(load.ids)}
    for task_id, task in zip(load.ids, fleet.tasks(load.ids), strict=True):
        assert fleet.final_events(task_id) == ["completed"]
        assert int(task["attempt"]) == 1 + int(task.get("handoffs") or 0)
        assert int(task.get("retries") or 0) == int(task.get("crashes") or 0) == 0
    assert fleet.left_over() == {"waiting": 0, "pending": 0}


@pytest.fixture(scope="module")
def upgraded(play, source, fleet, workers):
    """Upgrade to 0.1.1 under load."""
    before = releases(workers)
    with Load(fleet) as load:
        done = play("playbooks/rolling_update.yml", release_source=source("0.1.1"))
    return {"before": before, "after": releases(workers), "load": load, "done": done}


@pytest.fixture(scope="module")
def failed(play, source, fleet, workers, upgraded):
    """Try to upgrade to a release whose workers crash at start, under load."""
    broken = source("0.1.2", start='\nraise SystemExit("the broken release says hello")\n')
    before = {name: processes(host) for name, host in workers.items()}
    with Load(fleet) as load:
        done = play("playbooks/rolling_update.yml", release_source=broken)
    return {"before": before, "load": load, "done": done}


def test_check_of_an_upgrade_shows_the_restarts_and_changes_nothing(play, source, workers):
    before = releases(workers), {name: processes(host) for name, host in workers.items()}
    done = play("playbooks/rolling_update.yml", "--check", "--diff", release_source=source("0.1.1"))
    assert done.returncode == 0
    assert done.stdout.count("RUNNING HANDLER [orbiter.fleet.worker : Restart workers]") == len(workers)
    assert (releases(workers), {name: processes(host) for name, host in workers.items()}) == before


def test_new_release_reaches_every_host(upgraded, fleet):
    assert upgraded["done"].returncode == 0
    assert all(release.startswith("0.1.0-") for release in upgraded["before"].values())
    assert all(release.startswith("0.1.1-") for release in upgraded["after"].values())
    assert {beat["version"] for beat in fleet.workers()} == {"0.1.1"}
    assert len(fleet.instances()) == 4


def test_half_of_the_instances_at_least_are_at_work_at_any_time(upgraded):
    assert len(upgraded["load"].live) > 50
    assert min(upgraded["load"].live) >= 2


def test_every_task_completes_once_while_the_fleet_is_upgraded(upgraded, fleet):
    assert len(upgraded["load"].ids) > 20
    assert_nothing_lost(fleet, upgraded["load"])


def test_play_with_a_broken_release_fails_and_says_why(failed):
    shown = " ".join(failed["done"].stdout.split())
    assert failed["done"].returncode == 2
    assert "worker1 is back on release 0.1.1-" in shown
    assert "Release 0.1.2-" in shown
    assert "orbiter-worker@1.service (systemd: activating/auto-restart) has no heartbeat" in shown
    assert "the broken release says hello" in shown


def test_others_may_deploy_after_it(failed, fleet):
    assert not fleet.redis.exists("orbiter:deploy")


def test_first_host_is_back_on_the_release_before(failed, upgraded, fleet, workers):
    assert releases(workers) == upgraded["after"]
    assert {beat["version"] for beat in fleet.workers() if beat["hostname"] == "worker1"} == {"0.1.1"}
    assert len(fleet.instances()) == 4


def test_instance_after_the_one_that_failed_goes_on_undisturbed(failed, workers):
    assert processes(workers["worker1"])[-1] == failed["before"]["worker1"][-1]


def test_second_host_is_untouched(failed, workers):
    assert processes(workers["worker2"]) == failed["before"]["worker2"]
    assert workers["worker2"].run("ls -d /opt/orbiter/releases/0.1.2-*").rc != 0


def test_every_task_completes_once_while_a_broken_release_comes_and_goes(failed, fleet):
    assert min(failed["load"].live) >= 2
    assert_nothing_lost(fleet, failed["load"])


def test_rollback_takes_every_host_to_the_release_before_under_load(failed, play, fleet, workers, upgraded):
    with Load(fleet) as load:
        assert play("playbooks/rollback.yml").returncode == 0
    assert releases(workers) == upgraded["before"]
    assert {beat["version"] for beat in fleet.workers()} == {"0.1.0"}
    assert min(load.live) >= 2
    assert_nothing_lost(fleet, load)


def test_rollback_to_a_release_that_is_not_there_changes_nothing(failed, play, workers):
    before = releases(workers)
    done = play("playbooks/rollback.yml", worker_version="0.0.9-00000000")
    assert done.returncode == 2
    assert "Release 0.0.9-00000000 is not installed here; these are: 0.1.0-" in " ".join(done.stdout.split())
    assert releases(workers) == before
