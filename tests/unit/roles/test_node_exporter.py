"""Node exporters of worker and Redis hosts: who has one, where it is, whose it is, and what Prometheus reads."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from plays import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILE = "/etc/systemd/system/prometheus-node-exporter.service.d/orbiter.conf"
HERE = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_managed": "m"}
SHOW = """
    - include_role: {name: orbiter.fleet.monitoring, tasks_from: preflight_values, public: true}
    - keep:
        dest: "{{ playbook_dir }}/shown.json"
        content: "{{ shown | to_json }}"
      vars:
        shown: SHOWN
"""
DERIVED = {
    "nodes": "orbiter_monitored_nodes",
    "redis": "orbiter_monitored_redis",
    "had": "__site_nodes_left",
    "checked": "__site_node_hosts",
    "changed": "__site_node_changed_hosts",
    "bind": "orbiter_node_bind",
    "address": "orbiter_node_address",
    "file": "__site_node_file",
}


@pytest.fixture
def shown(ansible: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Return a function that gives what an expression is in the role, with values."""

    def show(expression: str, **values: Any) -> Any:
        if not (tmp_path / "templates").exists():
            (tmp_path / "templates").symlink_to(CHECKOUT / "roles/monitoring/templates")
        play = SHOW.replace("SHOWN", json.dumps(f"{{{{ {expression} }}}}"))
        done = ansible(["host"], play, "--extra-vars=" + json.dumps(HERE | values))
        assert done.returncode == 0, done.stdout
        return json.loads((tmp_path / "shown.json").read_text())

    return show


@pytest.fixture
def derived(ansible: Callable[..., Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that gives what the playbooks derive for a host of an inventory."""

    def derive(host: str, *hosts: str, monitoring: str = "m1", **facts: Any) -> dict[str, Any]:
        value = "{{ {" + ", ".join(f"'{name}': {said}" for name, said in DERIVED.items()) + "} }}"
        plays = [
            {"hosts": "all", "gather_facts": False, "tasks": [{"set_fact": facts or {"nothing": 0}}]},
            {
                "hosts": host,
                "gather_facts": False,
                "roles": [str(CHECKOUT / "playbooks/roles/derived")],
                "tasks": [{"keep": {"dest": "{{ playbook_dir }}/derived.json", "content": value}}],
            },
        ]
        (tmp_path / "derived.yml").write_text(json.dumps(plays))
        fleet = [*(["[monitoring]", monitoring] if monitoring else []), *hosts]
        done = ansible(fleet, tmp_path / "derived.yml", "--extra-vars=" + json.dumps(HERE))
        assert done.returncode == 0, done.stdout
        found: dict[str, Any] = yaml.safe_load((tmp_path / "derived.json").read_text())
        return found

    return derive


def hosts_of(pattern: str) -> set[str]:
    """Return the hosts that a pattern names."""
    return set(pattern.split(","))


def looked(path: str) -> dict[str, Any]:
    """Return what a look at a host has found of the file."""
    return {"disks": {FILE: {"path": path, "free": 1}}}


def seen(path: str = "/etc/systemd/system", *, package: bool = False, taken: bool = False) -> dict[str, Any]:
    """Return what a look at a host has found."""
    packages = {"prometheus-node-exporter": "1.5"} if package else {}
    who = [{"port": 9100, "name": "python3", "pid": 812}] if taken else []
    return {"__monitoring_node": looked(path) | {"packages": packages, "taken": who}}


def test_hosts_that_ask_for_one_are_read_by_their_addresses(derived: Callable[..., dict[str, Any]]) -> None:
    found = derived(
        "w1",
        "[redis]",
        "r1 ansible_host=r1.example.net redis_bind=10.0.0.1",
        "both worker_metrics_bind=10.0.0.2 redis_bind=10.0.1.2",
        "[workers]",
        "both",
        "w1 ansible_host=10.0.0.11",
        "w2 ansible_host=10.0.0.12 worker_metrics_address=198.51.100.12 monitoring_node_exporter_port=9200",
        "w3 ansible_host=10.0.0.13 monitoring_node_exporter_bind=fd00::13",
        "w4 monitoring_node_exporter_bind=10.0.0.14 monitoring_node_exporter_address=198.51.100.14",
        "w5 ansible_host=10.0.0.15 monitoring_node_exporter=no",
        "m1",
        "[all:vars]",
        "monitoring_node_exporter=yes",
    )
    assert found["nodes"] == {
        "r1": "10.0.0.1:9100",
        "both": "10.0.0.2:9100",
        "w1": "10.0.0.11:9100",
        "w2": "198.51.100.12:9200",
        "w3": "[fd00::13]:9100",
        "w4": "198.51.100.14:9100",
    }
    assert hosts_of(found["checked"]) == hosts_of(found["changed"]) == {"r1", "both", "w1", "w2", "w3", "w4"}


def test_a_redis_with_an_ipv6_address_is_looked_at(derived: Callable[..., dict[str, Any]]) -> None:
    found = derived("w1", "[redis]", "r1 redis_bind=fd00::1", "[workers]", "w1")
    assert found["redis"] == ["rediss://[fd00::1]:6379"]


@pytest.mark.parametrize("monitoring", ["", "m1"])
def test_nobody_gets_one_without_being_asked_or_without_a_prometheus(
    derived: Callable[..., dict[str, Any]], monitoring: str
) -> None:
    said = "" if monitoring else "monitoring_node_exporter=yes"
    found = derived("w1", "[redis]", "r1", "[workers]", f"w1 {said}", monitoring=monitoring)
    assert (found["nodes"], found["had"], found["changed"]) == ({}, [], "all:!all")


def test_it_listens_at_the_address_of_the_fleet_if_that_is_the_hosts_own(
    derived: Callable[..., dict[str, Any]],
) -> None:
    facts = {"all_ipv4_addresses": ["10.0.0.5", "192.0.2.5"], "default_ipv4": {"address": "192.0.2.5"}}
    for said, bind in (
        ("worker_metrics_bind=10.0.0.5", "10.0.0.5"),
        ("ansible_host=10.0.0.5", "10.0.0.5"),
        ("ansible_host=203.0.113.1", "192.0.2.5"),
        ("", "192.0.2.5"),
    ):
        found = derived("w1", "[redis]", "r1", "[workers]", f"w1 {said}", ansible_facts=facts)
        assert found["bind"] == bind


@pytest.mark.parametrize("kind", ["__worker_host", "__redis_seen"])
def test_a_host_that_has_one_of_ours_and_is_not_to_have_it_is_found(
    derived: Callable[..., dict[str, Any]], kind: str
) -> None:
    hosts = ("[redis]", "r1", "[workers]", "w1 monitoring_node_exporter=yes", "w2", "m1")
    assert derived("w1", *hosts, **{kind: looked("/etc/systemd/system")})["had"] == []
    found = derived("w1", *hosts, **{kind: looked(FILE)})
    assert (set(found["had"]), found["checked"]) == ({"r1", "w2"}, "w1")
    assert hosts_of(found["changed"]) == {"r1", "w1", "w2"}
    without = derived("w1", *hosts[:-1], monitoring="", **{kind: looked(FILE)})
    assert set(without["had"]) == {"r1", "w1", "w2"}


def test_playbooks_look_for_the_file_that_the_role_writes(
    derived: Callable[..., dict[str, Any]], shown: Callable[..., Any]
) -> None:
    assert derived("w1", "[workers]", "w1")["file"] == shown("__monitoring_node_file") == FILE


@pytest.mark.parametrize(
    ("found", "foreign"),
    [
        (seen(), False),
        (seen(package=True), True),
        (seen(taken=True), True),
        (seen(FILE), False),
        (seen(FILE, package=True), False),
    ],
)
def test_one_that_is_there_without_our_file_is_somebody_elses(
    shown: Callable[..., Any], found: dict[str, Any], foreign: bool
) -> None:
    assert shown("__monitoring_node_foreign", **found) is foreign


def test_a_host_that_cannot_have_one_is_told_why(shown: Callable[..., Any]) -> None:
    facts = {"ansible_facts": {"all_ipv4_addresses": ["10.0.0.5"]}}
    fit = {"monitoring_node_exporter_bind": "10.0.0.5"}
    assert shown("__monitoring_node_unfit", **seen(FILE), **facts, **fit) == []
    (address,) = shown("__monitoring_node_unfit", **seen(), **facts, monitoring_node_exporter_bind="10.0.0.6")
    assert "monitoring_node_exporter_bind is '10.0.0.6'" in address
    assert "it has 10.0.0.5" in address
    (port,) = shown("__monitoring_node_unfit", **seen(FILE, taken=True), **facts, **fit)
    assert "9100" in port
    assert "python3 (process 812)" in port


@pytest.mark.parametrize(("bind", "place"), [("10.0.0.5", "10.0.0.5:9200"), ("fd00::5", "[fd00::5]:9200")])
def test_the_drop_in_adds_to_what_debians_settings_say(shown: Callable[..., Any], bind: str, place: str) -> None:
    values = {"monitoring_node_exporter_bind": bind, "monitoring_node_exporter_port": 9200}
    text = shown("lookup('template', 'prometheus-node-exporter.conf.j2')", **values)
    started = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    assert started == ["", f"/usr/bin/prometheus-node-exporter --web.listen-address={place} $ARGS"]


def test_prometheus_reads_each_host_by_its_name(shown: Callable[..., Any]) -> None:
    nodes = {"w2": "10.0.0.12:9100", "w1": "10.0.0.11:9100"}
    assert shown("__monitoring_node_targets", monitoring_nodes=nodes) == [
        {"targets": ["10.0.0.11:9100"], "labels": {"instance": "w1", "host": "w1"}},
        {"targets": ["10.0.0.12:9100"], "labels": {"instance": "w2", "host": "w2"}},
    ]
    assert shown("__monitoring_node_targets") == []
    read = yaml.safe_load(shown("lookup('template', 'prometheus.yml.j2')", monitoring_bind="10.0.0.9"))
    (job,) = [one for one in read["scrape_configs"] if one["job_name"] == "node"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:9100"], "labels": {"instance": "host", "host": "host"}}]
    assert [one["files"] for one in job["file_sd_configs"]] == [["/etc/prometheus/nodes.json"]]


def test_a_host_that_becomes_a_monitoring_host_brings_a_node_exporter_of_ours(shown: Callable[..., Any]) -> None:
    host = {"packages": {"prometheus-node-exporter": "1.5"}}
    assert shown("__monitoring_found", __monitoring_host=host | looked("/etc")) == ["prometheus-node-exporter"]
    assert shown("__monitoring_found", __monitoring_host=host | looked(FILE)) == []


FLEET = ["[redis]", "r1 redis_bind=10.0.0.1", "[workers]"]
COMMON = ["[all:vars]", "ansible_host=127.0.0.1", "ansible_port=1", "orbiter_redis_password=a-good-passw0rd-of-redis"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("monitoring_node_exporter", "maybe"),
        ("monitoring_node_exporter_port", "0"),
        ("monitoring_node_exporter_bind", "w1"),
        ("monitoring_node_exporter_address", "w1:9100"),
    ],
)
def test_bad_input_is_refused_by_name_before_a_host_is_asked(
    ansible: Callable[..., Any], name: str, value: str
) -> None:
    given = {"monitoring_node_exporter": "yes", name: value}
    host = "w1 " + " ".join(f"{one}={said}" for one, said in given.items())
    done = ansible([*FLEET, host, "[monitoring]", "m1", *COMMON], CHECKOUT / "playbooks/prepare.yml")
    said = " ".join(done.stdout.split())
    assert f"w1: {name} is " in said
    assert "Look at the hosts" not in said


@pytest.mark.parametrize(("monitoring", "warned"), [([], True), (["[monitoring]", "m1"], False)])
def test_a_node_exporter_that_nobody_would_read_is_a_warning(
    ansible: Callable[..., Any], monitoring: list[str], warned: bool
) -> None:
    fleet = [*FLEET, "w1 monitoring_node_exporter=yes", "w2 monitoring_node_exporter=no", *monitoring, *COMMON]
    done = ansible(fleet, CHECKOUT / "playbooks/prepare.yml")
    said = " ".join((done.stdout + done.stderr).split())
    assert "Look at the hosts" in said
    assert ("w1: monitoring_node_exporter is on" in said) is warned


RULES = {
    "disk_almost_full": {
        'node_filesystem_avail_bytes{fstype="ext4"}': 9,
        'node_filesystem_size_bytes{fstype="ext4"}': 100,
    },
    "memory_low": {"node_memory_MemAvailable_bytes": 4, "node_memory_MemTotal_bytes": 100},
    "clock_off": {"node_timex_offset_seconds": -2, "node_timex_sync_status": 1},
}
WELL = {
    'node_filesystem_avail_bytes{fstype="ext4"}': 11,
    'node_filesystem_size_bytes{fstype="ext4"}': 100,
    'node_filesystem_avail_bytes{fstype="tmpfs"}': 0,
    'node_filesystem_size_bytes{fstype="tmpfs"}': 100,
    "node_memory_MemAvailable_bytes": 6,
    "node_memory_MemTotal_bytes": 100,
    "node_timex_offset_seconds": 0,
    "node_timex_sync_status": 1,
}


def test_each_rule_of_the_page_fires_for_its_reason_alone(tmp_path: Path) -> None:
    page = (CHECKOUT / "docs/monitoring.md").read_text()
    (block,) = re.findall(r"^```yaml\n# /etc/prometheus/rules/hosts.yml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "rules.yml").write_text(block)
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": one, "values": f"{value}x20"} for one, value in (WELL | bad).items()],
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": "15m",
                    "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1}] if name else [],
                }
            ],
        }
        for name, bad in {"": {}, **RULES}.items()
    ]
    (tmp_path / "test.yml").write_text(json.dumps({"rule_files": ["rules.yml"], "tests": tests}))
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.fail("promtool is not installed: apt-get install prometheus")
    done = subprocess.run(
        [promtool, "test", "rules", "test.yml"], cwd=tmp_path, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
