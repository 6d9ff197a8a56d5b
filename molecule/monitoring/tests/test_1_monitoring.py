"""The real Prometheus looks at the fleet, and the real Alertmanager tells who is to be told."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fleet import wait_until

PORT = 9599  # as the inventory's webhook has it
ALERT = "dist_worker_count_critical"
SECRETS = ("alertmanager.yml", "prometheus.yml")


class Prometheus:
    """What Prometheus of the scenario says, asked on its host."""

    def __init__(self, host, address):
        self._host, self._base = host, f"http://{address}:9090/api/v1"

    def ask(self, path):
        script = f"import urllib.request as u; print(u.urlopen('{self._base}/{path}', timeout=10).read().decode())"
        return json.loads(self._host.check_output(f'python3 -c "{script}"'))["data"]

    def targets(self, job="orbiter"):
        """Return the addresses that are looked at, each with its state."""
        active = self.ask("targets?state=active")["activeTargets"]
        return {one["labels"]["instance"]: one["health"] for one in active if one["labels"]["job"] == job}

    def value(self, query):
        """Return the first value of an expression, or nothing."""
        found = self.ask(f"query?query={query}")["result"]
        return float(found[0]["value"][1]) if found else None


@pytest.fixture(scope="module")
def monitor(on):
    return on("monitor1")


@pytest.fixture(scope="module")
def prometheus(monitor, runner):
    return Prometheus(monitor, runner.get_variables("monitor1")["monitoring_bind"])


@pytest.fixture
def webhook(runner):
    """Return what is told to the webhook: the status and names of the alerts of each message, in order."""
    told = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.append((message["status"], message["groupLabels"]["alertname"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_words):
            """Say nothing."""

    address = runner.get_variables("monitor1")["monitoring_bind"].rpartition(".")[0] + ".1"
    with ThreadingHTTPServer((address, PORT), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield told
        server.shutdown()
        thread.join()


def expected(runner, **instances):
    """Return the targets of hosts with so many workers each, all of them well."""
    address = {host: runner.get_variables(host)["ansible_host"] for host in instances}
    return {f"{address[host]}:{9464 + number}": "up" for host, many in instances.items() for number in range(many)}


def assert_follows(prometheus, wanted):
    wait_until(lambda: prometheus.targets() == wanted, within=60, what=lambda: str(prometheus.targets()))


def test_every_worker_process_redis_and_hosts_are_looked_at(prometheus, runner):
    assert_follows(prometheus, expected(runner, worker1=2, worker2=2))
    wait_until(lambda: prometheus.value("redis_up") == 1, within=30, what=lambda: str(prometheus.targets("redis")))
    assert prometheus.targets("redis") == {f"rediss://{runner.get_variables('redis1')['redis_bind']}:6379": "up"}
    everywhere = {"monitor1": "up", "redis1": "up", "worker1": "up"}
    wait_until(
        lambda: prometheus.targets("node") == everywhere, within=30, what=lambda: str(prometheus.targets("node"))
    )
    assert prometheus.value("count(orbiter_distributed_tasks_running)") == 4


def test_only_prometheus_is_reached_from_elsewhere_and_secrets_are_its_own(monitor, runner):
    bind = runner.get_variables("monitor1")["monitoring_bind"]
    listening = monitor.check_output("ss --no-header --listening --tcp --numeric --processes | grep prometheus")
    assert {line.split()[3] for line in listening.splitlines()} == {
        f"{bind}:9090",
        *(f"127.0.0.1:{port}" for port in (9093, 9100, 9121)),
    }
    for name in SECRETS:
        file = monitor.file(f"/etc/prometheus/{name}")
        assert (file.user, file.group, file.mode) == ("root", "prometheus", 0o640)
    exporter = monitor.file("/etc/default/prometheus-redis-exporter")
    assert (exporter.user, exporter.mode) == ("root", 0o600)


def test_all_workers_stopped_is_told_once_and_again_when_it_is_over(prometheus, webhook, workers):
    wait_until(lambda: ALERT not in firing(prometheus), within=30, what=lambda: str(firing(prometheus)))
    for host in workers.values():
        host.check_output("systemctl stop orbiter-workers.target 'orbiter-worker@*'")
    wait_until(lambda: ("firing", ALERT) in webhook, within=60, what=lambda: str(firing(prometheus)))
    for host in workers.values():
        host.check_output("systemctl start orbiter-workers.target orbiter-worker@1 orbiter-worker@2")
    wait_until(lambda: ("resolved", ALERT) in webhook, within=60, what=lambda: str(firing(prometheus)))
    assert [status for status, name in webhook if name == ALERT] == ["firing", "resolved"]


def firing(prometheus):
    return [one["labels"]["alertname"] for one in prometheus.ask("alerts")["alerts"] if one["state"] == "firing"]


def test_targets_follow_a_scaled_fleet(prometheus, play, runner):
    assert play("playbooks/scale.yml", "--limit=worker1", instances=3).returncode == 0
    assert_follows(prometheus, expected(runner, worker1=3, worker2=2))
    again = play("playbooks/scale.yml")
    assert again.returncode == 0
    assert_follows(prometheus, expected(runner, worker1=2, worker2=2))
