"""What an operator does with systemd works with stacks: update, go back, take out; and mistakes cost a message."""

from __future__ import annotations

import re

import pytest

from fleet import VERSION, Load, counted, wait_until

pytestmark = pytest.mark.nightly  # the scenario `rolling` upgrades, breaks and rolls back workers of systemd


def one_line(done):
    """Return what a play said, without the line breaks that Ansible puts in."""
    return " ".join(done.stdout.split())


@pytest.fixture(scope="module")
def ids(workers, replicas):
    """Return a function that tells the containers of each host."""
    return lambda: {name: {row["Id"] for row in replicas(host)} for name, host in workers.items()}


@pytest.fixture(scope="module")
def state(ids, workers):
    """Return a function that tells what a deploy would change."""
    files = "cat /etc/orbiter/*.* /usr/local/bin/orbiter"
    return lambda: (ids(), [host.check_output(files) for host in workers.values()])


def images(host):
    """Return the versions of the images that a host has."""
    show = "docker image inspect --format '{{ index .Config.Labels \"org.opencontainers.image.version\" }}'"
    return set(host.check_output(f"docker image ls --quiet | xargs {show}").split())


@pytest.fixture(scope="module")
def newer(source):
    """Return the source of 99.0.1."""
    return source("99.0.1")


@pytest.fixture(scope="module")
def refused(play, fleet, state, newer):
    """Try to upgrade while the host of the second batch has a wrong login, and no image of that release yet."""
    before = state()
    password = "{{ 'wr0ng' if inventory_hostname == 'worker2' else image_registry_password }}"
    done = play("playbooks/rolling_update.yml", release_source=newer, worker_registry_password=password)
    return {"done": done, "before": before, "after": state(), "lock": fleet.redis.get("orbiter:deploy")}


@pytest.fixture(scope="module")
def upgraded(refused, play, fleet, newer):
    """Upgrade to 99.0.1 under load."""
    with Load(fleet) as load:
        done = play("playbooks/rolling_update.yml", release_source=newer)
    return {"done": done, "load": load, "versions": {beat["version"] for beat in fleet.workers()}}


@pytest.fixture(scope="module")
def failed(play, fleet, ids, upgraded, source):
    """Try to upgrade to a release whose workers crash at start, under load."""
    broken = source("99.0.2", start='\nraise SystemExit("the broken release says hello")\n')
    before = ids()
    with Load(fleet) as load:
        done = play("playbooks/rolling_update.yml", release_source=broken, worker_gate_timeout=8)
    return {"done": done, "load": load, "before": before, "after": ids()}


def test_login_that_one_host_is_refused_stops_the_update_before_the_first_host_changes(refused, runner):
    registry = runner.get_variables("worker1")["test_registry"]
    shown = one_line(refused["done"])
    assert refused["done"].returncode == 2
    assert refused["after"] == refused["before"]
    assert f"worker2 could not log in to {registry} as pusher" in shown
    assert (
        "Nothing has changed here. Check image_registry_username and image_registry_password (worker_registry_" in shown
    )
    assert "No host's workers were touched" in shown
    assert refused["lock"] is None


def test_new_release_reaches_every_replica_under_load(upgraded, nothing_lost):
    assert upgraded["done"].returncode == 0
    assert upgraded["versions"] == {"99.0.1"}
    assert min(upgraded["load"].live) >= 2
    nothing_lost(upgraded["load"])


def test_broken_release_is_taken_back_from_the_first_replica_under_load(failed, fleet, nothing_lost):
    shown = one_line(failed["done"])
    assert failed["done"].returncode == 2
    assert "worker1 is back on release 99.0.1-" in shown
    assert "Release 99.0.2-" in shown
    assert "has no heartbeat in Redis" in shown or "does not run" in shown
    assert "the broken release says hello" in shown
    assert {beat["version"] for beat in fleet.workers()} == {"99.0.1"}
    assert len(fleet.instances()) == 4
    assert min(failed["load"].live) >= 2
    nothing_lost(failed["load"])


def test_replicas_that_the_broken_release_had_not_reached_go_on_undisturbed(failed):
    assert failed["after"]["worker2"] == failed["before"]["worker2"]
    assert len(failed["after"]["worker1"] & failed["before"]["worker1"]) == 1


def test_rollback_takes_every_replica_to_the_release_before(failed, play, fleet, workers):
    # The broken one has come to this host, and never ran there: it goes with the next change.
    assert images(workers["worker2"]) == {VERSION, "99.0.1", "99.0.2"}
    assert play("playbooks/rollback.yml").returncode == 0
    assert images(workers["worker2"]) == {VERSION, "99.0.1"}
    assert {beat["version"] for beat in fleet.workers()} == {VERSION}
    assert len(fleet.instances()) == 4


def test_rollback_to_a_release_that_is_not_there_changes_nothing(failed, play, ids):
    before = ids()
    done = play("playbooks/rollback.yml", worker_version="0.0.9-00000000")
    assert done.returncode == 2
    assert f"Release 0.0.9-00000000 is not on this host; these are: {VERSION}-" in one_line(done)
    assert ids() == before


def test_task_of_the_gate_that_fails_takes_the_stack_back(failed, play, fleet, workers):
    nothing = {"agent": {"runtime": "callable", "name": "smoke", "target": "demo_agent.steps:there_is_no_such"}}
    settings = "sha256sum /etc/orbiter/worker.env"
    before = workers["worker1"].check_output(settings)
    variables = {"worker_log_level": "warning", "worker_gate_task": nothing}
    done = play("playbooks/rolling_update.yml", "--limit=worker1", **variables)
    shown = one_line(done)
    assert done.returncode == 2
    assert "does not do its work: Task gate-" in shown
    assert "there_is_no_such" in shown
    assert "worker1 is back on release" in shown
    assert workers["worker1"].check_output(settings) == before
    assert len(fleet.instances()) == 4


def test_task_of_the_gate_is_tried_with_a_new_image_or_settings_and_not_without(failed, play, fleet):
    smoke = {"agent": {"runtime": "callable", "name": "smoke", "target": "demo_agent.steps:sleepy"}}
    variables = {"worker_log_level": "warning", "worker_gate_task": smoke | {"metadata": {"seconds": 0.1}}}

    def completed():
        tasks = list(fleet.redis.scan_iter("orbiter:task:gate-*"))
        return sorted(task for task in tasks if fleet.redis.hget(task, "status") == "completed")

    assert play("playbooks/rolling_update.yml", "--limit=worker1", **variables).returncode == 0
    [task] = completed()
    assert play("playbooks/rolling_update.yml", "--limit=worker1", **variables).returncode == 0
    assert completed() == [task]
    # What follows counts on its settings.
    assert play("playbooks/rolling_update.yml", "--limit=worker1").returncode == 0


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
        shown = one_line(play("playbooks/status.yml"))
        assert "more memory" in shown
        assert f"worker2 needs attention, {stopped} (exited after 0 restarts, exit code 0) does not run" in shown
        assert shown.count("needs attention") == 1
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
    # On the last host only; the first has another image that it could change to.
    "pull": (
        "site.yml",
        {
            "worker_image": "{{ '127.0.0.1:9/fleet/orbiter-worker:1' if inventory_hostname == 'worker2'"
            " else image_registry ~ '/orbiter-worker:latest' }}",
            "worker_registry_username": "",
            "worker_registry_password": "",
        },
        [
            "worker2 could not pull 127.0.0.1:9/fleet/orbiter-worker:1",
            "Nothing has changed here. Can this host reach 127.0.0.1:9",
        ],
    ),
    "start": (
        "playbooks/rolling_update.yml",
        {
            "worker_image": "{{ 'does-not-start:1' if inventory_hostname == 'worker2'"
            " else image_registry ~ '/orbiter-worker:latest' }}",
        },
        ["worker2: the image does-not-start:1 does not start", "Nothing has changed here. Was it built by"],
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


@pytest.fixture
def empty_image(workers):
    """Have an image on the last host with nothing in it."""
    host = workers["worker2"]
    host.check_output("tar --create --files-from=/dev/null | docker import - does-not-start:1")
    yield
    host.check_output("docker image rm does-not-start:1")


@pytest.mark.usefixtures("empty_image")
# One of each kind: before a host is asked, on the last one that pulls, on one that starts.
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_costs_a_message_and_changes_nothing(play, state, mistake):
    playbook, variables, words = MISTAKES[mistake]
    before = state()
    done = play(playbook, **variables)
    assert done.returncode == 2
    assert [word for word in words if word not in one_line(done)] == []
    assert state() == before


LACKING = {
    "docker": ("docker-cli docker-compose", "engine - and Compose plugin - (the command docker is not installed)"),
    "plugin": ("docker-compose", "and Compose plugin - (the command docker has no plugin compose)"),
}


@pytest.mark.parametrize("lacking", LACKING)
def test_host_without_docker_is_told_what_to_install_and_may_have_it_installed(play, workers, ids, lacking):
    packages, words = LACKING[lacking]
    before = ids()
    # The engine and what it runs stay.
    workers["worker2"].check_output(f"dpkg --remove --force-depends {packages}")
    told = play("site.yml", worker_log_level="debug")
    installed = play("playbooks/rolling_update.yml", "--limit=localhost,redis1,worker2", worker_install_docker=True)
    assert "worker2 has Docker" in one_line(told)
    assert words in one_line(told)
    assert "worker_install_docker: true" in one_line(told)
    assert_stopped_early(told)
    assert "PLAY [Lock]" in installed.stdout
    assert installed.returncode == 0
    assert ids() == before


def assert_stopped_early(done):
    """Check that a play was over before anything began on any host, though all of them were to change."""
    assert done.returncode == 2
    assert "PLAY [Lock]" not in done.stdout
    assert set(re.findall(r" changed=(\d+) ", done.stdout)) == {"0"}


UNFIT = {
    "engine": ({"__worker_docker_minimum": "99"}, ["has Docker engine", "(too old)", "needs a running engine 99"]),
    "plugin": ({"__worker_compose_minimum": "99"}, ["and Compose plugin", "(too old)", "the plugin 99, or newer"]),
    "Debian 12": (
        {"orbiter_worker_hosts": "redis1", "worker_deploy": "compose", "redis_tls": True},
        ["redis1 runs Debian 12, whose package docker-compose is version 1", "install Docker's own packages"],
    ),
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_what_installing_docker_would_not_help_against_is_said_before_it_is_tried(play, ids, unfit):
    variables, words = UNFIT[unfit]
    before = ids()
    told = play("site.yml", worker_install_docker=True, worker_log_level="debug", **variables)
    assert [word for word in words if word not in one_line(told)] == []
    assert_stopped_early(told)
    assert ids() == before


def test_engine_that_is_stopped_is_found_before_the_first_host_changes(play, fleet, workers, ids):
    host, before = workers["worker2"], ids()
    host.check_output("systemctl stop docker.socket docker.service")
    try:
        told = play("site.yml", worker_install_docker=True, worker_log_level="debug")
    finally:
        host.check_output("systemctl start docker.socket docker.service")
    assert "worker2 has Docker engine - and Compose plugin - (Cannot connect to the Docker daemon" in one_line(told)
    assert "systemctl enable --now docker" in one_line(told)
    assert_stopped_early(told)
    assert ids() == before
    wait_until(lambda: len(fleet.instances()) == 4, within=60, what=lambda: str(fleet.instances()))
