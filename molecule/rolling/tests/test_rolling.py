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
    for unit in ("orbiter-worker@1.service", "orbiter-worker@2.service"):
        assert done.stdout.count(f"+{unit} restarted") == len(workers)
    assert len(re.findall(r"\+release 99\.0\.1-", done.stdout)) == len(workers)
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
    assert re.search(
        r"orbiter-worker@1\.service \(systemd: activating/(auto-restart|start), restarted \d+ times\)"
        r" (does not run|has no heartbeat)",
        shown,
    )


def test_play_with_a_broken_release_shows_the_journal_once_after_the_reason(failed):
    shown = failed["done"].stdout
    assert shown.count("The end of the journal:") == 1
    journal = shown[shown.index("The end of the journal:") :]
    lines = [line.strip() for line in journal.splitlines() if "the broken release says hello" in line]
    assert lines
    assert len(lines) == len(set(lines))
    assert shown.count("the broken release says hello") == len(lines)
    assert shown.index("is not well after") < shown.index("The end of the journal:")
    assert "\\r\\n" not in shown


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


@pytest.mark.nightly
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


@pytest.mark.nightly
@pytest.mark.usefixtures("failed")
@pytest.mark.parametrize("skip", [False, True])
def test_host_that_goes_away_before_its_turn_stops_the_run_or_is_left_out(play, fleet, workers, tmp_path, skip):
    """In its own batch worker2 has a port where nothing listens."""
    more = tmp_path / "more.ini"
    port = "{{ 9 if ansible_play_batch | default([]) == ['worker2'] else 22 }}"
    more.write_text(f'[workers]\nworker2 ansible_port="{port}"\n')
    before = processes(workers["worker2"])
    done = play("playbooks/rolling_update.yml", f"--inventory={more}", orbiter_skip_unreachable=skip)
    assert done.returncode == 2
    shown = " ".join(done.stdout.split())
    assert "worker2 went away while hosts before it were updated" in shown
    assert ("--limit 'all:!worker2'" in shown) is not skip
    assert ("was left out (orbiter_skip_unreachable)" in shown) is skip
    assert processes(workers["worker2"]) == before
    assert len(fleet.instances()) == 4
    assert not fleet.redis.exists("orbiter:deploy")


SMOKE = {"agent": {"runtime": "callable", "name": "smoke", "target": "demo_agent.steps:sleepy"}}


@pytest.fixture(scope="module")
def own_settings(play):
    """Give worker1 the settings of the inventory afterwards: what follows counts on them."""
    yield
    assert play("playbooks/rolling_update.yml", "--limit=worker1").returncode == 0


@pytest.mark.nightly
@pytest.mark.usefixtures("own_settings")
def test_task_of_the_gate_is_tried_with_new_settings_and_not_without(failed, play, fleet):
    variables = {"worker_log_level": "warning", "worker_gate_task": SMOKE | {"metadata": {"seconds": 0.1}}}

    def tried():
        return list(fleet.redis.scan_iter("orbiter:task:gate-*"))

    assert play("playbooks/rolling_update.yml", "--limit=worker1", **variables).returncode == 0
    [task] = tried()
    assert fleet.redis.hget(task, "status") == "completed"
    assert play("playbooks/rolling_update.yml", "--limit=worker1", **variables).returncode == 0
    assert tried() == [task]


@pytest.mark.nightly
@pytest.mark.usefixtures("own_settings")
def test_task_of_the_gate_that_fails_takes_the_host_back(failed, play, fleet, workers):
    nothing = {"agent": {"runtime": "callable", "name": "smoke", "target": "demo_agent.steps:there_is_no_such"}}
    settings = "sha256sum /etc/orbiter/worker.env"
    before = workers["worker1"].check_output(settings)
    variables = {"worker_log_level": "error", "worker_gate_task": nothing}
    done = play("playbooks/rolling_update.yml", "--limit=worker1", **variables)
    shown = " ".join(done.stdout.split())
    assert done.returncode == 2
    assert "there_is_no_such" in shown
    assert "worker1 is back on release" in shown
    assert workers["worker1"].check_output(settings) == before
    assert len(fleet.instances()) == 4


def test_host_that_was_renamed_while_its_workers_run_is_deployed(failed, play, fleet, workers):
    host = workers["worker1"]
    host.check_output("hostname renamed")
    try:
        done = play("playbooks/scale.yml", "--limit=worker1")
        assert done.returncode == 0
        page = play("playbooks/status.yml", "--limit=worker1").stdout
        assert "All is well" in page
    finally:
        host.check_output("hostname worker1")
