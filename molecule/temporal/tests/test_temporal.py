"""Durable tasks outlive their workers, and wait for a Temporal that is away."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from fleet import counted, wait_until

INSTANCES = "orbiter-worker@1 orbiter-worker@2"
SETTINGS = "/etc/orbiter-temporal"
CLI = (
    f"/opt/orbiter-temporal/current/temporal --tls-ca-path {SETTINGS}/ca.pem --tls-cert-path {SETTINGS}/server.pem"
    f" --tls-key-path {SETTINGS}/server.pem.key"
)


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


@pytest.mark.guide("Temporal Execution", "on hosts of a fleet (ours)")
def test_tasks_run_as_workflows_of_temporal(fleet, temporal, address):
    ids = fleet.submit([0.2] * 12)
    fleet.wait_until_done(ids, within=60)
    assert_completed_once(fleet, ids)
    (task,) = fleet.tasks(ids[:1])
    assert task["workflow_id"].startswith(f"orbiter-task-{ids[0]}-")
    show = f"workflow describe --output json --address {address} --workflow-id {task['workflow_id']}"
    shown = temporal.check_output(f"{CLI} {show}")
    assert json.loads(shown)["workflowExecutionInfo"]["status"] == "WORKFLOW_EXECUTION_STATUS_COMPLETED"


@pytest.mark.guide("Temporal Execution", "on hosts of a fleet (ours)")
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


def told(address, **tls):
    """Return what a caller is told: ``settings`` by a server of HTTP/2, ``nothing`` where the connection is ended."""
    host, port = address.split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=10) as plain:
            caller = plain
            if tls:
                context = ssl.create_default_context(cafile=tls["authority"])
                context.set_alpn_protocols(["h2"])
                if "certificate" in tls:
                    context.load_cert_chain(tls["certificate"], tls["key"])
                caller = context.wrap_socket(plain, server_hostname=host)
            caller.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            return "settings" if caller.recv(9)[3:4] == b"\4" else "nothing"
    except (ssl.SSLError, ConnectionError):
        return "nothing"


def test_nobody_without_a_certificate_of_the_fleet_is_answered(temporal, inventory, address, tmp_path):
    kept = Path(inventory) / ".temporal-tls"
    authority = kept / "ca.pem"
    own = {"certificate": kept / "worker-worker2.pem", "key": kept / "worker-worker2.key"}
    other = {"certificate": tmp_path / "other.pem", "key": tmp_path / "other.key"}
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=worker-worker2 -days 1"
    files = ["-out", other["certificate"], "-keyout", other["key"]]
    subprocess.run(["openssl", *made.split(), *files], check=True, capture_output=True)

    assert told(address, authority=authority, **own) == "settings"
    assert told(address) == "nothing"
    assert told(address, authority=authority) == "nothing"
    assert told(address, authority=authority, **other) == "nothing"
    # Nor at the loopback address of its own host, where it listens in a network of its own.
    assert temporal.run("exec 3<>/dev/tcp/127.0.0.1/7233").rc != 0
    assert "127.0.0.1:7233" not in temporal.check_output("ss --no-header --listening --tcp --numeric")


def test_login_of_a_worker_host_is_readable_by_root_alone(workers):
    for host in workers.values():
        where = host.check_output("grep --recursive --files-with-matches 'PRIVATE KEY' /etc/orbiter").split()
        assert "/etc/orbiter/worker.env" in where
        assert {host.check_output(f"stat --format='%a %U' {path}") for path in where} == {"600 root"}


def test_strangers_reach_neither_redis_nor_temporal(on, address, stranger):
    """An address in the same network that is no host of the fleet, nor named by orbiter_firewall_clients."""
    host = address.split(":")[0]
    call = "import socket, sys; socket.create_connection(tuple([sys.argv[1], int(sys.argv[2])]), 3, (sys.argv[3], 0))"
    for port, where in (("6379", host), ("7233", host)):
        assert on("worker2").run("python3 -c %s %s %s 0.0.0.0", call, where, port).rc == 0
        assert on("worker2").run("python3 -c %s %s %s %s", call, where, port, stranger).rc == 1
    # Any other port is none of the fleet's business.
    assert on("worker2").run("python3 -c %s %s %s %s", call, host, "22", stranger).rc == 0


@pytest.fixture
def stranger(on, address):
    """Return an address of a host that the firewall was not told of."""
    new = address.split(":")[0].rpartition(".")[0] + ".99"
    device = on("worker2").check_output("ip -o -4 route show default").split("dev ")[1].split()[0]
    on("worker2").check_output(f"ip address add {new}/24 dev {device}")
    yield new
    on("worker2").check_output(f"ip address del {new}/24 dev {device}")


def test_idle_connections_of_one_host_lock_nobody_out(on, fleet, address):
    """400 sockets without a login, where Redis accepts 200 (redis_maxclients): a quarter of that is let in."""
    hold = (
        "import socket, sys, time\n"
        "held = []\n"
        "for _ in range(400):\n"
        "    try:\n"
        "        held.append(socket.create_connection((sys.argv[1], 6379), 3))\n"
        "    except OSError:\n"
        "        pass\n"
        "open('/run/held', 'w').write(str(len(held)))\n"
        "time.sleep(300)\n"
    )
    bad = on("worker2")
    bad.check_output("systemd-run --unit=idle --collect python3 -c %s %s", hold, address.split(":")[0])
    try:
        wait_until(
            lambda: bad.file("/run/held").exists, within=60, what=lambda: bad.run("systemctl status idle").stdout
        )
        assert 10 < int(bad.file("/run/held").content_string) <= 50
        ids = fleet.submit([0.2] * 4)
        fleet.wait_until_done(ids, within=60)
        assert counted(fleet.statuses(ids)) == {"completed": 4}
    finally:
        bad.check_output("systemctl stop idle; rm -f /run/held")


def test_firewall_touches_no_table_but_its_own(temporal):
    def tables():
        return set(temporal.check_output("nft list tables").splitlines())

    temporal.check_output("nft add table inet another")
    try:
        before = tables()
        temporal.check_output("systemctl restart orbiter-firewall")
        assert tables() == before
        temporal.check_output("systemctl stop orbiter-firewall")
        assert before - tables() == {"table inet orbiter"}
    finally:
        temporal.check_output("nft delete table inet another; systemctl start orbiter-firewall")


def test_unit_of_the_firewall_is_hardened(temporal):
    temporal.check_output("systemd-analyze security --threshold=20 orbiter-firewall.service")


def test_server_is_hardened_and_reached_by_one_port(temporal, address):
    listening = temporal.check_output("ss --no-header --listening --tcp --numeric --processes")
    where = {line.split()[3] for line in listening.splitlines() if "systemd" in line or "temporal" in line}
    assert where == {address}
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


def test_port_that_another_program_has_is_refused(play, temporal, address):
    temporal.check_output("systemd-run --unit=squatter --collect python3 -m http.server 7299")
    try:
        temporal.check_output("timeout 20 sh -c 'until ss -ltn | grep -q :7299; do sleep 0.1; done'")
        done = play("site.yml", "--limit", "redis1", "--skip-tags=redis", temporal_port=7299)
    finally:
        temporal.check_output("systemctl stop squatter")
    assert done.returncode != 0
    assert f"another program than orbiter-temporal listens at {address.replace('7233', '7299')}" in " ".join(
        done.stdout.split()
    )
    assert "changed=0" in done.stdout


def test_teardown_removes_the_servers_and_keeps_their_data(play, temporal):
    parts = {"orbiter_teardown": True, "orbiter_teardown_redis": "yes", "redis_remove_data": "no"}
    assert play("playbooks/teardown.yml", "--limit", "redis1", **parts).returncode == 0
    # What guards Temporal stays with it.
    assert temporal.run("systemctl is-active orbiter-temporal orbiter-firewall").stdout.split() == ["active", "active"]
    parts |= {"orbiter_teardown_temporal": "yes", "temporal_remove_data": "no"}
    assert play("playbooks/teardown.yml", "--limit", "redis1", **parts).returncode == 0
    assert temporal.run("systemctl cat orbiter-firewall || nft list table inet orbiter").rc != 0
    assert temporal.run("systemctl cat orbiter-temporal orbiter-temporal-proxy.socket").rc != 0
    assert not temporal.file("/opt/orbiter-temporal").exists
    assert temporal.file("/var/lib/temporal/temporal.db").user == "temporal"
    assert temporal.run("pgrep --exact temporal").rc == 1
    assert temporal.run("command -v redis-server").rc != 0
    assert temporal.file("/var/lib/redis/appendonlydir").is_directory
