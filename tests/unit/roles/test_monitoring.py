"""What the role `monitoring` brings, what it makes of an inventory, and where Prometheus finds workers."""

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

from orbiter.distributed.alerts.export import prometheus_rules
from orbiter.distributed.telemetry import metrics
from orbiter.distributed.telemetry.prometheus import prometheus_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILES = CHECKOUT / "roles/monitoring/files"
PREFLIGHT = "    - include_role: {name: orbiter.fleet.monitoring, tasks_from: preflight_inventory}\n"
HASH = "$2y$10$" + "a" * 53
SHOW = """
    - include_role: {name: orbiter.fleet.monitoring, tasks_from: preflight_values, public: true}
    - copy:
        dest: "{{ playbook_dir }}/shown.json"
        content: "{{ shown | to_json }}"
      vars:
        shown:
          prometheus: "{{ lookup('template', 'prometheus.yml.j2') }}"
          alertmanager: "{{ lookup('template', 'alertmanager.yml.j2') }}"
          started: "{{ lookup('template', 'prometheus.default.j2') }}"
          exporter: "{{ lookup('template', 'prometheus-redis-exporter.default.j2') }}"
          web: "{{ lookup('template', 'web.yml.j2') }}"
"""
WORKERS = """
    - include_role: {name: orbiter.fleet.worker, tasks_from: preflight_values, public: true}
    - copy:
        dest: "{{ playbook_dir }}/shown.json"
        content: "{{ shown | to_json }}"
      vars:
        shown:
          targets: "{{ __worker_targets }}"
          unit: "{{ lookup('template', 'orbiter-worker@.service.j2') }}"
          stack: "{{ lookup('template', 'compose/docker-compose.yml.j2') }}"
          replicas: "{{ lookup('template', 'compose/worker.env.j2') }}"
"""


@pytest.fixture
def shown(ansible: Callable[..., Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that gives what a role makes of values."""

    def show(role: str, tasks: str, **values: Any) -> dict[str, Any]:
        (tmp_path / "templates").symlink_to(CHECKOUT / f"roles/{role}/templates")
        given = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_managed": "m"}
        done = ansible(["host"], tasks, "--extra-vars=" + json.dumps(given | values))
        assert done.returncode == 0, done.stdout
        found: dict[str, Any] = json.loads((tmp_path / "shown.json").read_text())
        return found

    return show


def series() -> set[str]:
    """Return every name that a worker's metrics may have."""
    names = set()
    for one in metrics.INSTRUMENTS:
        name = prometheus_name(one)
        names |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if one.kind == "histogram" else {name}
    return names


def test_what_comes_with_the_role_is_what_the_worker_says() -> None:
    program = [sys.executable, str(CHECKOUT / "tools/monitoring.py"), "--check"]
    done = subprocess.run(program, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (FILES / "orbiter.rules").read_text() == prometheus_rules()


def test_every_expression_of_the_dashboard_asks_for_series_that_exist(tmp_path: Path) -> None:
    dashboard = json.loads((FILES / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(asked) > 20
    for expression in asked:
        used = set(re.findall(r"orbiter_distributed_\w+(?=\{)", expression))
        assert used, expression
        assert used <= series()
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.fail("promtool is not installed: apt-get install prometheus")
    rules = [
        {"record": f"asked_{number}", "expr": expression.replace("$__rate_interval", "1m").replace("$queue", ".*")}
        for number, expression in enumerate(asked)
    ]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "asked", "rules": rules}]}))
    checked = subprocess.run(
        [promtool, "check", "rules", "rules.yml"], cwd=tmp_path, text=True, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_charts_do_not_lie_over_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((FILES / "grafana.json").read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_prometheus_and_alertmanager_are_told_what_the_inventory_says(shown: Callable[..., dict[str, Any]]) -> None:
    found = shown(
        "monitoring",
        SHOW,
        monitoring_bind="10.0.0.9",
        monitoring_retention="3d",
        monitoring_redis_addresses=["rediss://10.0.0.1:6379"],
        monitoring_redis_password='a"b$c',
        monitoring_redis_ca="/tmp/ca.pem",
        monitoring_webhook_urls="http://a.example/x,http://b.example/y",
        monitoring_slack_url="https://hooks.example/T1",
        monitoring_mail_to=["a@example.net"],
        monitoring_mail_from="o@example.net",
        monitoring_mail_smarthost="mail:25",
        monitoring_users={"anna": HASH},
        monitoring_scrape_configs=[{"job_name": "mine", "static_configs": [{"targets": ["x:1"]}]}],
    )
    prometheus, alerts = yaml.safe_load(found["prometheus"]), yaml.safe_load(found["alertmanager"])
    jobs = {job["job_name"]: job for job in prometheus["scrape_configs"]}
    assert set(jobs) == {"orbiter", "node", "alertmanager", "redis", "mine"}
    (files,) = jobs["orbiter"]["file_sd_configs"]
    assert files["files"] == ["/etc/prometheus/targets/*.json"]
    assert jobs["redis"]["static_configs"] == [{"targets": ["rediss://10.0.0.1:6379"]}]
    (receiver,) = alerts["receivers"]
    assert [one["url"] for one in receiver["webhook_configs"]] == ["http://a.example/x", "http://b.example/y"]
    assert receiver["slack_configs"][0]["title"].startswith("{{ .Status")
    assert "auth_username" not in receiver["email_configs"][0]
    assert "--web.listen-address=10.0.0.9:9090 " in found["started"]
    assert "retention.time=3d" in found["started"]
    assert "--web.config.file=" in found["started"]
    assert yaml.safe_load(found["web"]) == {"basic_auth_users": {"anna": HASH}}
    assert 'REDIS_PASSWORD="a\\"b\\$c"' in found["exporter"]
    assert "-tls-ca-cert-file=" in found["exporter"]


def test_what_nobody_has_asked_for_is_not_there(shown: Callable[..., dict[str, Any]]) -> None:
    found = shown("monitoring", SHOW, monitoring_bind="10.0.0.9")
    assert yaml.safe_load(found["alertmanager"])["receivers"] == [{"name": "fleet"}]
    assert "redis" not in {job["job_name"] for job in yaml.safe_load(found["prometheus"])["scrape_configs"]}
    assert "web.config" not in found["started"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("monitoring_port", 9093),
        ("monitoring_retention", "long"),
        ("monitoring_retention_size", "5"),
        ("monitoring_webhook_urls", ["example.net/hook"]),
        ("monitoring_slack_url", "secret-hook"),
        ("monitoring_mail_to", ["a@example.net"]),
        ("monitoring_users", {"anna": "secret-word"}),
        ("monitoring_tls_cert", "/nowhere/web.pem"),
        ("monitoring_grafana_token", ""),
    ],
)
def test_bad_input_is_refused_by_name_and_secrets_are_not_shown(
    ansible: Callable[..., Any], name: str, value: Any
) -> None:
    given = {"monitoring_bind": "10.0.0.9", name: value}
    given |= {"monitoring_grafana_url": "https://grafana.example"} if "grafana" in name else {}
    done = ansible(["m1"], PREFLIGHT, "--extra-vars=" + json.dumps(given))
    assert done.returncode != 0, done.stdout
    assert f"m1: {name}" in done.stdout
    assert "secret-" not in done.stdout


def test_good_input_is_taken(ansible: Callable[..., Any]) -> None:
    given = {
        "monitoring_bind": "10.0.0.9",
        "monitoring_webhook_urls": ["https://a.example/x"],
        "monitoring_users": {"anna": HASH},
    }
    assert ansible(["m1"], PREFLIGHT, "--extra-vars=" + json.dumps(given)).returncode == 0


def test_each_instance_of_a_host_has_a_port(shown: Callable[..., dict[str, Any]]) -> None:
    found = shown(
        "worker",
        WORKERS,
        worker_redis_url="redis://queue",
        worker_instances=3,
        worker_metrics_port=9464,
        worker_metrics_bind="10.0.0.5",
        worker_metrics_address="10.0.0.5",
    )
    assert found["targets"] == [
        {"targets": ["10.0.0.5:9464", "10.0.0.5:9465", "10.0.0.5:9466"], "labels": {"host": "host"}}
    ]
    assert "Environment=ORBITER_HEALTH_HOST=10.0.0.5\n" in found["unit"]
    started = re.search(r"^ExecStart=/bin/sh -c '(.*)'$", found["unit"], re.MULTILINE)
    assert started is not None
    # As systemd has it for the third one.
    script = started[1].replace("$$", "$").replace("%i", "3")
    script = script.replace("exec /opt/orbiter/current/bin/orbiter start worker", "exec printenv ORBITER_HEALTH_PORT")
    assert subprocess.run(["/bin/sh", "-c", script], text=True, capture_output=True, check=True).stdout == "9466\n"


def test_replicas_share_ports_and_all_of_them_are_looked_at(shown: Callable[..., dict[str, Any]]) -> None:
    found = shown(
        "worker",
        WORKERS,
        worker_redis_url="redis://queue",
        worker_deploy="compose",
        worker_image="worker:1",
        worker_instances=2,
        worker_metrics_port=9464,
        worker_metrics_ports=4,
        worker_metrics_bind="10.0.0.5",
        worker_metrics_address="w1",
        worker_compose_service={"ports": ["80:80"]},
    )
    assert found["targets"][0]["targets"] == ["w1:9464", "w1:9465", "w1:9466", "w1:9467"]
    service = yaml.safe_load(found["stack"])["services"]["worker"]
    assert service["ports"] == ["80:80", "10.0.0.5:9464-9467:8080"]
    assert service["deploy"]["replicas"] == 2
    assert "ORBITER_HEALTH_HOST=" in found["replicas"]


def test_without_monitoring_workers_have_no_port(shown: Callable[..., dict[str, Any]]) -> None:
    found = shown("worker", WORKERS, worker_redis_url="redis://queue", worker_image="worker:1")
    assert found["targets"][0]["targets"] == []
    assert "ORBITER_HEALTH" not in found["unit"] + found["replicas"]
    assert "ports" not in yaml.safe_load(found["stack"])["services"]["worker"]


def test_programs_that_are_there_already_are_somebody_elses(ansible: Callable[..., Any], tmp_path: Path) -> None:
    show = """
    - include_role: {name: orbiter.fleet.monitoring, tasks_from: preflight_values, public: true}
    - copy: {dest: "{{ playbook_dir }}/shown.json", content: "{{ __monitoring_found | to_json }}"}
"""
    given = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    host = {"packages": {"prometheus-node-exporter": "1.5", "redis-server": "7.0"}}
    done = ansible(["host"], show, "--extra-vars=" + json.dumps(given | {"__monitoring_host": host}))
    assert done.returncode == 0, done.stdout
    assert json.loads((tmp_path / "shown.json").read_text()) == ["prometheus-node-exporter"]
