"""Durable tasks outlive their workers, and wait for a Temporal that is away."""

from __future__ import annotations

import json

import pytest

from fleet import counted, wait_until

INSTANCES = "orbiter-worker@1 orbiter-worker@2"


@pytest.fixture
def temporal(on):
    """Return the host of Temporal."""
    return on("redis1")


@pytest.fixture
def address(runner):
    """Return where the fleet finds Temporal."""
    return f"{runner.get_variables('redis1')['temporal_bind']}:7233"


@pytest.fixture(autouse=True)
def whole_fleet(fleet, temporal, workers):
    """Begin each test with all that there is at work."""
    temporal.check_output("systemctl start orbiter-temporal")
    for host in workers.values():
        host.check_output("systemctl start orbiter-workers.target orbiter-worker@1 orbiter-worker@2")
    wait_until(lambda: len(fleet.instances()) == 4, within=60, what=lambda: str(fleet.workers()))


def hosts_at_work(fleet, ids):
    """Return how many of the tasks each host runs right now."""
    # Until a run says something, a task's record names the worker that has given it to Temporal.
    heard = [task_id for task_id in ids if fleet.redis.exists(f"orbiter:stream:{task_id}")]
    return counted(host_of(task) for task in fleet.tasks(heard) if task["status"] == "running")


def host_of(task):
    """Return the host that has run a task."""
    return task["worker_id"].rsplit("-", 2)[0]


def assert_completed_once(fleet, ids):
    """Check that each task completed, with one end, and that nothing is left over."""
    assert counted(fleet.statuses(ids)) == {"completed": len(ids)}
    for task_id in ids:
        assert fleet.final_events(task_id) == ["completed"]
    wait_until(
        lambda: fleet.left_over() == {"waiting": 0, "pending": 0}, within=15, what=lambda: str(fleet.left_over())
    )


def states(on):
    """Return the states of all workers, as the command shows them."""
    listed = on("worker1").check_output("orbiter worker list --json")
    return {row["state"] for row in json.loads(listed) if row["alive"]}


def test_tasks_run_as_workflows_of_temporal(fleet, temporal, address):
    ids = fleet.submit([0.2] * 12)
    fleet.wait_until_done(ids, within=60)
    assert_completed_once(fleet, ids)
    (task,) = fleet.tasks(ids[:1])
    assert task["workflow_id"].startswith(f"orbiter-task-{ids[0]}-")
    show = f"workflow describe --output json --address {address} --workflow-id {task['workflow_id']}"
    shown = temporal.check_output(f"/opt/orbiter-temporal/current/temporal {show}")
    assert json.loads(shown)["workflowExecutionInfo"]["status"] == "WORKFLOW_EXECUTION_STATUS_COMPLETED"


def test_tasks_of_a_host_whose_workers_are_killed_complete_elsewhere(fleet, workers):
    ids = fleet.submit([8] * 12)  # more than one host has slots for
    wait_until(lambda: set(hosts_at_work(fleet, ids)) == set(workers), within=30, what=lambda: str(fleet.tasks(ids)))
    # Killed first, they have nothing to drain; stopped, they are not started again.
    workers["worker1"].check_output(f"systemctl kill --signal=SIGKILL {INSTANCES}; systemctl stop {INSTANCES}")
    fleet.wait_until_done(ids, within=90)
    assert_completed_once(fleet, ids)
    lost = [task for task in fleet.tasks(ids) if int(task.get("crashes") or 0)]
    assert {(host_of(task), task["crashes"], task["attempt"]) for task in lost} == {("worker2", "1", "2")}


def test_tasks_wait_while_temporal_is_away(fleet, on, temporal):
    running = fleet.submit([1] * 4)
    wait_until(
        lambda: sum(hosts_at_work(fleet, running).values()) == 4, within=30, what=lambda: str(fleet.tasks(running))
    )
    temporal.check_output("systemctl stop orbiter-temporal")
    wait_until(lambda: states(on) == {"degraded"}, within=60, what=lambda: str(fleet.workers()))
    waiting = fleet.submit([0.2] * 4)
    assert states(on) == {"degraded"}
    assert counted(fleet.statuses(waiting)) == {"pending": 4}
    assert not set(fleet.statuses(running)) & {"failed", "cancelled"}
    temporal.check_output("systemctl start orbiter-temporal")
    fleet.wait_until_done(running + waiting, within=90)
    assert_completed_once(fleet, running + waiting)
    assert {int(task.get("retries") or 0) for task in fleet.tasks(running + waiting)} == {0}
    wait_until(lambda: states(on) == {"running"}, within=60, what=lambda: str(fleet.workers()))


def test_a_drained_host_gives_its_tasks_to_the_other(fleet, workers):
    ids = fleet.submit([12] * 12)  # longer than worker_drain_timeout
    wait_until(lambda: set(hosts_at_work(fleet, ids)) == set(workers), within=30, what=lambda: str(fleet.tasks(ids)))
    drained = workers["worker2"]
    drained.check_output("systemctl stop orbiter-workers.target")
    for unit in INSTANCES.split():
        shown = drained.check_output(f"systemctl show --property=Result,ExecMainCode,ExecMainStatus {unit}")
        assert sorted(shown.splitlines()) == ["ExecMainCode=1", "ExecMainStatus=0", "Result=success"]
    fleet.wait_until_done(ids, within=90)
    assert_completed_once(fleet, ids)
    moved = [task for task in fleet.tasks(ids) if int(task.get("handoffs") or 0)]
    assert {(host_of(task), task["handoffs"], task.get("crashes") or "0") for task in moved} == {("worker1", "1", "0")}


def test_server_is_hardened_and_reached_by_one_port(temporal, address):
    listening = temporal.check_output("ss --no-header --listening --tcp --numeric --processes")
    where = {line.split()[3] for line in listening.splitlines() if "systemd" in line or "temporal" in line}
    assert {place for place in where if not place.startswith("127.")} == {address}
    for unit in ("orbiter-temporal.service", "orbiter-temporal-proxy.service"):
        temporal.check_output(f"systemd-analyze security --threshold=20 {unit}")
        shown = temporal.check_output(f"systemctl show --property=User,ActiveState {unit}")
        assert sorted(shown.splitlines()) == ["ActiveState=active", "User=temporal"]
    assert temporal.check_output("stat --format='%a %U' /var/lib/temporal") == "700 temporal"
    assert temporal.check_output("stat --format='%a %U' /opt/orbiter-temporal/current/temporal") == "755 root"


def test_extras_of_the_release_are_there_and_no_others(workers):
    python = "/opt/orbiter/current/bin/python"
    workers["worker1"].check_output(f"{python} -c 'import temporalio, opentelemetry.sdk, openai'")
    assert workers["worker1"].run(f"{python} -c 'import anthropic'").rc == 1


def test_port_that_another_program_has_is_refused(play, temporal):
    temporal.check_output("systemd-run --unit=squatter --collect python3 -m http.server 7299 --bind 127.0.0.1")
    try:
        temporal.check_output("timeout 20 sh -c 'until ss -ltn | grep -q 127.0.0.1:7299; do sleep 0.1; done'")
        done = play("site.yml", "--limit", "redis1", "--skip-tags=redis", temporal_port=7299)
    finally:
        temporal.check_output("systemctl stop squatter")
    assert done.returncode != 0
    assert "another program than orbiter-temporal listens at 127.0.0.1:7299" in " ".join(done.stdout.split())
    assert "changed=0" in done.stdout


def test_teardown_removes_the_servers_and_keeps_their_data(play, temporal):
    parts = {"orbiter_teardown": True, "orbiter_teardown_temporal": "yes", "orbiter_teardown_redis": "yes"}
    data = {"temporal_remove_data": "no", "redis_remove_data": "no"}
    assert play("playbooks/teardown.yml", "--limit", "redis1", **parts, **data).returncode == 0
    assert temporal.run("systemctl cat orbiter-temporal orbiter-temporal-proxy.socket").rc != 0
    assert not temporal.file("/opt/orbiter-temporal").exists
    assert temporal.file("/var/lib/temporal/temporal.db").user == "temporal"
    assert temporal.run("pgrep --exact temporal").rc == 1
    assert temporal.run("command -v redis-server").rc != 0
    assert temporal.file("/var/lib/redis/appendonlydir").is_directory
