"""Node exporters of worker and Redis hosts come and go with their variable, and somebody else's stays as it is."""

from __future__ import annotations

import pytest
from test_1_monitoring import Prometheus

from fleet import wait_until

UNIT = "prometheus-node-exporter.service"
FILE = f"/etc/systemd/system/{UNIT}.d/orbiter.conf"
OURS = ("redis1", "worker1")


@pytest.fixture(scope="module")
def prometheus(on, runner):
    return Prometheus(on("monitor1"), runner.get_variables("monitor1")["monitoring_bind"])


@pytest.fixture(scope="module")
def somebody_elses(on):
    """Install a node exporter on a worker host, as somebody else would; return its process."""
    host = on("worker2")
    host.check_output("apt-get update && apt-get install --yes --no-install-recommends prometheus-node-exporter")
    return process(host)


def process(host):
    """Return the id of the node exporter's process, 0 where there is none."""
    return int(host.check_output(f"systemctl show --property=MainPID --value {UNIT}"))


def assert_read(prometheus, *names):
    wanted = dict.fromkeys(names, "up")
    wait_until(lambda: prometheus.targets("node") == wanted, within=60, what=lambda: str(prometheus.targets("node")))


def assert_has_none(host):
    assert not host.file(FILE).exists
    assert not host.file(FILE.rpartition("/")[0]).exists
    assert process(host) == 0
    assert not host.package("prometheus-node-exporter").is_installed


@pytest.mark.parametrize("name", OURS)
def test_it_listens_at_the_address_of_the_fleet_alone_in_a_sandbox(on, runner, name):
    host, address = on(name), runner.get_variables(name)["ansible_host"]
    listening = host.check_output("ss --no-header --listening --tcp --numeric --processes | grep prometheus-node")
    assert [line.split()[3] for line in listening.splitlines()] == [f"{address}:9100"]
    host.check_output(f"systemd-analyze security --no-pager --threshold=25 {UNIT}")
    status = host.check_output(f"cat /proc/{process(host)}/status")
    assert "CapBnd:\t0000000000000000" in status
    assert "Seccomp:\t2" in status
    # Debian's file of settings is as the package has it.
    assert host.run("dpkg --verify prometheus-node-exporter | grep /etc/").stdout == ""


def test_sandbox_leaves_it_what_it_reads(prometheus):
    for name in ("timex_sync_status", "memory_MemAvailable_bytes", "load1", "filesystem_avail_bytes"):
        assert prometheus.value(f"count(count+by(host)(node_{name}))") == 1 + len(OURS), name


def test_one_that_somebody_else_has_installed_is_read_and_stays_as_it_is(on, play, prometheus, somebody_elses):
    done = play("site.yml", monitoring_node_exporter=True)
    assert done.returncode == 0
    assert "worker2: prometheus-node-exporter is there" in " ".join(done.stdout.split())
    assert_read(prometheus, "monitor1", "redis1", "worker1", "worker2")
    assert not on("worker2").file(FILE).exists
    assert process(on("worker2")) == somebody_elses


def test_without_the_variable_those_of_the_fleet_go_and_others_stay(on, play, prometheus, somebody_elses):
    assert play("site.yml", monitoring_node_exporter=False).returncode == 0
    for name in OURS:
        assert_has_none(on(name))
    assert process(on("worker2")) == somebody_elses
    assert_read(prometheus, "monitor1")
    again = play("site.yml", monitoring_node_exporter=False)
    assert [line for line in again.stdout.splitlines() if line.startswith("changed:")] == []
