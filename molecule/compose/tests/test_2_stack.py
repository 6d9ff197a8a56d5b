"""A stack: replicas at work, locked in, with their settings; scaled, stopped and started under load without a loss."""

from __future__ import annotations

import ast
import json
import random
import subprocess
from pathlib import Path

import pytest

from fleet import Load, counted, nightly_but, wait_until

CHECKOUT = Path(__file__).parents[3]
STACK = "docker compose --file /etc/orbiter/docker-compose.yml"


@pytest.mark.guide(
    "docker-compose.yml", "`worker`: URL, `depends_on`, two replicas, `restart`, `stop_grace_period`, `stop_signal`"
)
def test_two_replicas_a_host_are_at_work(fleet, workers, replicas):
    names = {(row["Config"]["Hostname"], name) for name, host in workers.items() for row in replicas(host)}
    assert len(names) == 4
    assert fleet.instances() == names


@pytest.mark.guide("Dockerfile", "application code, for tools by importable path")
def test_a_task_runs(fleet):
    ids = fleet.submit([0.1] * 20)
    fleet.wait_until_done(ids, within=60)
    assert counted(fleet.statuses(ids)) == {"completed": 20}


def test_replicas_are_locked_in(workers, replicas):
    for host in workers.values():
        for row in replicas(host):
            limits = row["HostConfig"]
            assert row["Config"]["User"] == "10001:10001"
            assert limits["ReadonlyRootfs"] is True
            assert limits["CapDrop"] == ["ALL"]
            assert "no-new-privileges:true" in limits["SecurityOpt"]
            assert limits["Privileged"] is False
            assert limits["RestartPolicy"]["Name"] == "unless-stopped"
            assert row["Config"]["StopTimeout"] == 20
            assert not row["NetworkSettings"]["Ports"]
            pid = row["State"]["Pid"]
            assert "CapEff:\t0000000000000000" in host.file(f"/proc/{pid}/status").content_string
            inside = f"docker exec {row['Id']}"
            assert host.check_output(f"{inside} id -u") == "10001"
            assert host.run(f"{inside} touch /opt/orbiter/x").rc != 0
            assert host.run(f"{inside} touch /tmp/x /var/lib/orbiter/x").rc == 0


def test_replicas_tell_docker_that_they_are_well(workers, replicas):
    def health():
        return [row["State"]["Health"]["Status"] for host in workers.values() for row in replicas(host)]

    wait_until(lambda: health() == ["healthy"] * 4, within=60, what=lambda: str(health()))


def test_replica_that_hangs_is_killed_and_started_anew(workers, replicas):
    host = workers["worker1"]
    (first, *_) = replicas(host)
    before = first["RestartCount"]
    # The worker is the last process with such a command line; the first is its init.
    named = "p.isdigit() and b'orbiter\\0start' in open(f'/proc/{p}/cmdline', 'rb').read()"
    stop = f"import os, signal; os.kill(max(int(p) for p in os.listdir('/proc') if {named}), signal.SIGSTOP)"
    host.check_output("docker exec %s python3 -c %s", first["Id"], stop)
    wait_until(lambda: replicas(host)[0]["RestartCount"] == before + 1, within=120, what=lambda: str(replicas(host)[0]))


def test_settings_arrive_as_they_are_in_the_inventory(workers, replicas, runner):
    inventory = runner.get_variables("worker1")
    wanted = inventory["worker_task_env"] | inventory["worker_extra_env"] | {"ORBITER_ISOLATION": "process"}
    assert "${HOME}" in wanted["TEST_NASTY"]
    show = f"import os; print(ascii({{name: os.environ.get(name) for name in {sorted(wanted)}}}))"
    for host in workers.values():
        seen = host.check_output("docker exec %s python3 -c %s", replicas(host)[0]["Id"], show)
        assert ast.literal_eval(seen) == wanted


def test_limits_of_the_inventory_are_in_force(workers, replicas):
    for host in workers.values():
        for row in replicas(host):
            limits = row["HostConfig"]
            assert (limits["Memory"], limits["PidsLimit"], limits["NanoCpus"]) == (1 << 30, 1000, 1_000_000_000)


def test_processes_that_last_show_no_setting_of_the_worker(workers, replicas):
    """Neither the init, nor the worker, nor what runs tasks; the health check does, for the moment that it takes."""
    look = """
import glob, os
for path in glob.glob("/proc/[0-9]*/environ"):
    pid = path.split("/")[2]
    try:
        words = open(f"/proc/{pid}/cmdline").read().split("\\0")
        shown = "ORBITER_REDIS_URL" in open(path).read()
    except (PermissionError, FileNotFoundError, ProcessLookupError):
        continue
    if shown and int(pid) != os.getpid() and not any("healthcheck" in word for word in words):
        print(pid, *words[:5])
"""
    for host in workers.values():
        for row in replicas(host):
            assert not row["HostConfig"].get("Init")
            assert host.check_output("docker exec %s python3 -c %s", row["Id"], look) == ""
            assert host.run(f"docker exec {row['Id']} cat /proc/1/environ").rc != 0


def test_orphans_in_a_replica_are_reaped(workers, replicas):
    host = workers["worker1"]
    name = replicas(host)[0]["Id"]
    host.check_output(f"docker exec {name} sh -c '(sleep 0.2 &)'")
    left = f"docker exec {name} sh -c 'grep -l sleep /proc/[0-9]*/comm'"
    wait_until(lambda: host.run(left).stdout == "", within=10, what=lambda: host.run(left).stdout)


def test_operator_asks_the_fleet_on_any_worker_host(workers):
    for host in workers.values():

        def alive(host=host):
            listed = json.loads(host.check_output("orbiter worker list --json"))
            return counted(row["instance"] for row in listed if row["alive"])

        # The one that was killed before is remembered as dead, once its last heartbeat is old enough.
        wait_until(lambda: alive() == {"worker1": 2, "worker2": 2}, within=60, what=lambda: str(alive()))


@pytest.fixture
def scale(play, tmp_path, workers):
    """Return a function that says in the inventory how many replicas each host is to have, and runs a playbook."""

    def run(playbook, count):
        file = tmp_path / "wanted.json"
        file.write_text(json.dumps({"workers": {"hosts": {name: {"worker_instances": count} for name in workers}}}))
        return play(playbook, f"--inventory={file}", "--skip-tags=redis")

    return run


@pytest.mark.parametrize("playbook", nightly_but(["site.yml", "playbooks/scale.yml"], "playbooks/scale.yml"))
def test_scale_by_inventory_under_load_loses_nothing(scale, fleet, workers, replicas, *, nothing_lost, playbook):
    first = {name: replicas(host)[0]["Id"] for name, host in workers.items()}
    with Load(fleet) as load:
        for count in (4, 1):
            assert scale(playbook, count).returncode == 0
            assert counted(host for _, host in fleet.instances()) == {"worker1": count, "worker2": count}
    # The ones that stay were not touched.
    assert {name: [row["Id"] for row in replicas(host)] for name, host in workers.items()} == {
        name: [replica] for name, replica in first.items()
    }
    nothing_lost(load)


def test_check_of_a_scale_shows_the_replicas_that_would_be_there(play, workers, replicas):
    def ids():
        return {name: [row["Id"] for row in replicas(host)] for name, host in workers.items()}

    before = ids()
    done = play("playbooks/scale.yml", "--check", "--diff", instances=len(before["worker1"]) + 1)
    assert done.returncode == 0
    assert len([line for line in done.stdout.splitlines() if line.startswith("+worker ")]) == 2
    assert ids() == before


@pytest.mark.guide("docker-compose.yml", "a replica that is stopped loses nothing")
def test_stop_and_scale_by_hand_under_load_loses_nothing(fleet, workers, replicas, nothing_lost):
    def ends_of(host):
        return [(row["State"], host.check_output(f"docker logs {row['Id']} 2>&1")) for row in replicas(host)]

    one, other = workers["worker1"], workers["worker2"]
    with Load(fleet) as load:
        one.check_output(f"{STACK} up --detach --no-recreate --scale worker=3")
        wait_until(lambda: len(fleet.instances()) == 4, within=60, what=lambda: str(fleet.instances()))
        wait_until(
            lambda: len(fleet.running(load.ids)) > 2, within=60, what=lambda: str(counted(fleet.statuses(load.ids)))
        )
        one.check_output(f"{STACK} stop")
        stopped = ends_of(one)
        one.check_output(f"{STACK} up --detach --no-recreate --scale worker=2")
        wait_until(lambda: len(fleet.instances()) == 3, within=60, what=lambda: str(fleet.instances()))
        (last,) = replicas(other)
        other.check_output(f"docker stop {last['Id']}")
        stopped += ends_of(other)
        other.check_output(f"docker start {last['Id']}")
        wait_until(lambda: len(fleet.instances()) == 3, within=60, what=lambda: str(fleet.instances()))
    assert len(stopped) == 4
    for state, log in stopped:
        assert (state["Status"], state["ExitCode"]) == ("exited", 0), log
        assert "drained in" in log
    nothing_lost(load)


@pytest.mark.guide("docker-compose.yml", "a replica that is stopped loses nothing")
def test_task_that_outlives_the_stop_is_handed_back(fleet, workers, replicas):
    ids = fleet.submit([25])  # long beside a drain of 6 s, so that it still runs when a busy machine has begun to stop
    wait_until(lambda: fleet.statuses(ids) == ["running"], within=30, what=lambda: str(fleet.tasks(ids)))
    holder = fleet.tasks(ids)[0]["worker_id"].rsplit("-", 2)[0]
    host = next(host for host in workers.values() if holder in {row["Config"]["Hostname"] for row in replicas(host)})
    host.check_output(f"docker stop {holder}")
    fleet.wait_until_done(ids, within=90)
    (task,) = fleet.tasks(ids)
    assert (task["status"], task["handoffs"], task.get("retries") or "0") == ("completed", "1", "0")


def test_deploy_sets_right_what_was_done_by_hand(play, fleet, workers, replicas):
    assert play("site.yml", "--skip-tags=redis").returncode == 0
    assert counted(host for _, host in fleet.instances()) == {"worker1": 2, "worker2": 2}
    assert {row["State"]["Status"] for host in workers.values() for row in replicas(host)} == {"running"}


def test_deploy_that_changes_nothing_runs_few_tasks_on_a_host(counted_play, workers):
    done, ran, _ = counted_play("site.yml")
    assert done.returncode == 0
    for name in workers:
        print(name, len(ran[name]), *ran[name], sep="\n  ")
        assert 3 < len(ran[name]) <= 12  # as with systemd


def test_stack_to_use_by_hand_is_what_the_role_writes(tmp_path):
    made = tmp_path / "docker-compose.yml"
    subprocess.run(["tools/compose.sh", str(made)], cwd=CHECKOUT, check=True)
    assert made.read_text() == (CHECKOUT / "images/compose/docker-compose.yml").read_text()


@pytest.fixture
def by_hand(on):
    """Return how to call the stack of images/compose on a host, which is taken down afterwards."""
    host = on("worker1")
    image = host.check_output(f"{STACK} config --images worker").splitlines()[0]
    text = (CHECKOUT / "images/compose/docker-compose.yml").read_text()
    host.check_output("mkdir -p /root/hand && printf %%s %s > /root/hand/docker-compose.yml", text)
    # No registry of the world can be reached in tests: the base image has Debian's Redis.
    images = f"ORBITER_IMAGE={image} REDIS_IMAGE=orbiter-testbase:trixie ORBITER_ALLOW_IMPORT=demo_agent"
    call = f"cd /root/hand && {images} docker compose --project-name hand"
    yield lambda words: host.check_output(f"{call} {words}")
    host.check_output(f"{call} --profile temporal down --volumes")


@pytest.mark.guide("Usage", "`docker compose up -d`, `--scale worker=4`")
def test_stack_by_hand_runs_tasks_and_scales_as_in_the_guide(by_hand, on, replicas):
    by_hand("up --detach --quiet-pull")
    assert len(replicas(on("worker1"), project="hand")) == 2
    by_hand("up --detach --scale worker=4")
    assert len(replicas(on("worker1"), project="hand")) == 4

    def listed():
        return json.loads(by_hand("exec -T worker orbiter worker list --json"))

    wait_until(lambda: len(listed()) == 4, within=60, what=lambda: str(listed()))
    agent = json.dumps({"runtime": "callable", "name": "sleepy", "target": "demo_agent.steps:sleepy"})
    number = random.randrange(1_000_000)
    said = by_hand(
        f"exec -T worker orbiter task submit {number} --agent - --count 8 --metadata seconds=0.1 --wait --json "
        f"<<'END'\n{agent}\nEND"
    )
    told = json.loads(said)
    assert (told["tasks"], told["completed"]) == (8, 8)
    assert "6379" not in by_hand("ps --format '{{ .Ports }}' redis").replace("6379/tcp", "")


@pytest.mark.guide("docker-compose.yml", "profile `temporal`: `temporal`, `temporal-worker`")
def test_stack_by_hand_has_the_temporal_profile_of_the_guide(by_hand):
    services = json.loads(by_hand("--profile temporal config --format json"))["services"]
    assert set(services) == {"redis", "worker", "temporal", "temporal-worker"}
    assert services["temporal-worker"]["environment"]["TEMPORAL_HOST"] == "temporal:7233"
    assert services["temporal-worker"]["read_only"] is True
    assert set(json.loads(by_hand("config --format json"))["services"]) == {"redis", "worker"}
