"""What the role `monitoring` brings, what it makes of an inventory, and where Prometheus finds workers."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import jsonschema
import pytest
import trustme
import yaml
from conftest import free_port, wait_until
from plays import CHECKOUT
from receivers import receiving

from orbiter.distributed.alerts.export import prometheus_rules
from orbiter.distributed.telemetry import metrics
from orbiter.distributed.telemetry.prometheus import prometheus_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FILES = CHECKOUT / "roles/monitoring/files"
HASH = "$2y$10$" + "a" * 53
# Of PASSWORD, by bcrypt with few rounds.
PASSWORD, PASSWORD_HASH = "who reads it", "$2y$04$abcdefghijklmnopqrstuu8S7pqUUG.urad/Nh.ihFkDnZGWdV.T."
SHOW = """
    - include_role: {name: orbiter.fleet.monitoring, tasks_from: preflight_values, public: true}
    - keep:
        dest: "{{ playbook_dir }}/shown.json"
        content: "{{ shown | to_json }}"
      vars:
        shown:
          prometheus: "{{ lookup('template', 'prometheus.yml.j2') }}"
          alertmanager: "{{ lookup('template', 'alertmanager.yml.j2') }}"
          started: "{{ lookup('template', 'prometheus.default.j2') }}"
          told: "{{ lookup('template', 'prometheus-alertmanager.default.j2') }}"
          exporter: "{{ lookup('template', 'prometheus-redis-exporter.default.j2') }}"
          web: "{{ lookup('template', 'web.yml.j2') }}"
"""
WORKERS = """
    - include_role: {name: orbiter.fleet.worker, tasks_from: preflight_values, public: true}
    - keep:
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


def changed(place: str, value: Any) -> dict[str, Any]:
    """Return the dashboard with another value at a place, such as ``panels.1.title``; without it where that is None."""
    found = json.loads((FILES / "grafana.json").read_text())
    *way, last = place.split(".")
    part = found
    for name in way:
        part = part[int(name) if isinstance(part, list) else name]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return found


def test_the_dashboard_is_what_grafana_reads() -> None:
    schema = json.loads((CHECKOUT / "tests/unit/roles/grafana.schema.json").read_text())
    check = jsonschema.Draft202012Validator(schema)
    check.check_schema(schema)
    dashboard = json.loads((FILES / "grafana.json").read_text())
    assert [error.message for error in check.iter_errors(dashboard)] == []
    for place, value in (
        ("uid", "a b"),
        ("schemaVersion", "37"),
        ("panels.1.gridPos.w", 25),
        ("panels.1.targets", []),
        ("panels.1.datasource", "Prometheus"),
        ("panels.1.targtes", []),
        ("panels.1.targets.0.expr", None),
        ("panels.1.fieldConfig.defaults.unit", "secs"),
        ("templating.list.1.query", None),
    ):
        assert not check.is_valid(changed(place, value)), place


def test_grafana_gets_the_dashboard_once_and_again_where_it_differs(ansible: Callable[..., Any]) -> None:
    tasks = "    - include_role: {name: orbiter.fleet.monitoring, tasks_from: grafana}\n"
    with grafana() as (url, kept):
        given = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        given |= {"monitoring_grafana_url": f"{url}/", "monitoring_grafana_token": "secret-token"}

        def played(**values: Any) -> tuple[str, str]:
            done = ansible(["host"], tasks, "-vvv", "--diff", "--extra-vars=" + json.dumps(given | values))
            assert "secret-token" not in done.stdout + done.stderr
            return re.findall(r"^host +: .*?changed=(\d+) .*?failed=(\d+)", done.stdout, re.MULTILINE)[0]

        assert played() == ("1", "0")
        dashboard = json.loads((FILES / "grafana.json").read_text())
        assert {name: kept[name] for name in dashboard} == dashboard
        assert played() == ("0", "0")
        kept["title"] = "somebody's own"
        assert played() == ("1", "0")
        assert kept["title"] == dashboard["title"]
        assert played(monitoring_grafana_token="another") == ("0", "1")


@contextmanager
def grafana() -> Iterator[tuple[str, dict[str, Any]]]:
    """Serve of Grafana's API what reads and writes a dashboard; give its address, and the dashboard that it keeps."""
    kept: dict[str, Any] = {}

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            there = self.path == f"/api/dashboards/uid/{kept.get('uid')}"
            self._answer(200 if there else 404, {"dashboard": kept, "meta": {}} if there else {"message": "not found"})

        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/api/dashboards/db" and sent["overwrite"]:
                kept.update(sent["dashboard"], id=17, version=kept.get("version", 0) + 1)
            self._answer(200, {"uid": kept["uid"]})

        def _answer(self, status: int, said: dict[str, Any]) -> None:
            known = self.headers["Authorization"] == "Bearer secret-token"
            text = json.dumps(said if known else {"message": "Invalid API key"}).encode()
            self.send_response(status if known else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_words: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", kept
        finally:
            server.shutdown()
            thread.join()


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


def program(name: str, package: str) -> str:
    """Return the path of one of Debian's programs."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed: apt-get install {package}")
    return found


def written(folder: Path, found: dict[str, Any]) -> Path:
    """Write what the role makes of values, as on a host whose /etc/prometheus is this folder."""
    folder.mkdir()
    (folder / "rules").mkdir()
    shutil.copy(FILES / "orbiter.rules", folder / "rules/orbiter.yml")
    for name in ("prometheus", "alertmanager", "web"):
        (folder / f"{name}.yml").write_text(found[name].replace("/etc/prometheus", str(folder)))
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "web.key"))
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(str(folder / "web.pem"), append=number > 0)
    return folder


def arguments(found: str, folder: Path) -> list[str]:
    """Return what a file in /etc/default gives to its program."""
    (line,) = re.findall(r'^ARGS="(.*)"$', found, re.MULTILINE)
    return shlex.split(line.replace("/etc/prometheus", str(folder)))


@contextmanager
def running(name: str, package: str, *words: str, ready: Callable[[], bool], **environment: str) -> Iterator[None]:
    """Run one of the programs until it is ready, and as long as it is asked."""
    process = subprocess.Popen(
        [program(name, package), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    )
    try:
        wait_until(lambda: process.poll() is not None or ready(), within=30)
        assert process.poll() is None, process.stderr.read().decode()
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


def answers(url: str, *, context: ssl.SSLContext | None = None, user: str = "", password: str = "") -> int:
    """Return the status of a page, 0 where nobody answers."""
    said = base64.b64encode(f"{user}:{password}".encode()).decode()
    request = Request(url, headers={"Authorization": f"Basic {said}"} if user else {})
    try:
        with urlopen(request, timeout=10, context=context) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except (URLError, OSError):
        return 0


GIVEN = {
    "nobody is told": {},
    "webhook": {"monitoring_webhook_urls": ["http://a.example/x?y=1&z='#: "]},
    "slack": {"monitoring_slack_url": "https://hooks.example/T1/B2", "monitoring_slack_channel": "#on call"},
    "mail": {
        "monitoring_mail_to": ["a@example.net", "b@example.net"],
        "monitoring_mail_from": "Orbiter <o@example.net>",
        "monitoring_mail_smarthost": "mail.example.net:465",
        "monitoring_mail_username": "o",
        "monitoring_mail_password": 'a"b: #$\\',
    },
    "guarded": {
        "monitoring_users": {"anna": PASSWORD_HASH, "true": HASH},
        "monitoring_tls_cert": "/tmp/web.pem",
        "monitoring_tls_key": "/tmp/web.key",
        "monitoring_redis_addresses": ["rediss://10.0.0.1:6379", "redis://[::1]:6379"],
        "monitoring_redis_ca": "/tmp/ca.pem",
        "monitoring_scrape_configs": [{"job_name": "mine", "static_configs": [{"targets": ["x:1"]}]}],
    },
}


@pytest.mark.parametrize("name", GIVEN)
def test_their_own_tools_take_what_the_role_writes(
    shown: Callable[..., dict[str, Any]], tmp_path: Path, name: str
) -> None:
    folder = written(tmp_path / "etc", shown("monitoring", SHOW, monitoring_bind="10.0.0.9", **GIVEN[name]))
    promtool, amtool = program("promtool", "prometheus"), program("amtool", "prometheus-alertmanager")
    commands = [[promtool, "check", "config", "prometheus.yml"], [amtool, "check-config", "alertmanager.yml"]]
    if "monitoring_users" in GIVEN[name]:
        commands.append([promtool, "check", "web-config", "web.yml"])
    for command in commands:
        checked = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    # They would say so.
    (folder / "alertmanager.yml").write_text((folder / "alertmanager.yml").read_text().replace("fleet", "flet", 1))
    assert subprocess.run(commands[1], cwd=folder, capture_output=True, check=False).returncode != 0


def test_prometheus_shows_its_certificate_and_asks_for_a_password(
    shown: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    port = free_port()
    given = {"monitoring_bind": "127.0.0.1", "monitoring_port": port, "monitoring_users": {"anna": PASSWORD_HASH}}
    tls = {"monitoring_tls_cert": "/tmp/web.pem", "monitoring_tls_key": "/tmp/web.key"}
    found = shown("monitoring", SHOW, **given, **tls)
    folder = written(tmp_path / "etc", found)
    trusting = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    page = f"https://127.0.0.1:{port}/-/ready"
    words = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]

    def ready() -> bool:
        return answers(page, context=trusting) == 401

    with running("prometheus", "prometheus", *words, *arguments(found["started"], folder), ready=ready):
        assert answers(page, context=trusting, user="anna", password="another") == 401
        assert answers(page, context=trusting, user="ben", password=PASSWORD) == 401
        wait_until(lambda: answers(page, context=trusting, user="anna", password=PASSWORD) == 200, within=30)
        # Nobody who asks without TLS, or knows no such authority.
        assert answers(page.replace("https", "http")) == 400
        assert answers(page, user="anna", password=PASSWORD) == 0


def test_alertmanager_tells_everybody_once_and_again_when_it_is_over(
    shown: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    port, authority = free_port(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "mail-ca.pem"))
    with receiving(authority.issue_cert("localhost")) as receivers:
        web = f"http://127.0.0.1:{receivers.web_port}"
        found = shown(
            "monitoring",
            SHOW,
            monitoring_bind="127.0.0.1",
            monitoring_alertmanager_port=port,
            monitoring_group_wait="0s",
            monitoring_group_interval="1s",
            monitoring_webhook_urls=[f"{web}/hook", f"{web}/another"],
            monitoring_slack_url=f"{web}/slack",
            monitoring_slack_channel="#alerts",
            monitoring_mail_to=["a@example.net", "b@example.net"],
            monitoring_mail_from="orbiter@example.net",
            monitoring_mail_smarthost=f"localhost:{receivers.mail_port}",
            monitoring_mail_username="orbiter",
            monitoring_mail_password='pass"word: #$',
        )
        folder = written(tmp_path / "etc", found)
        words = [f"--config.file={folder / 'alertmanager.yml'}", f"--storage.path={tmp_path / 'data'}"]
        words += arguments(found["told"], folder)
        api = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            return answers(f"{api}/-/ready") == 200

        # Programs in Go trust who is in this file, and nobody else.
        trusted = {"SSL_CERT_FILE": str(tmp_path / "mail-ca.pem")}
        with running("prometheus-alertmanager", "prometheus-alertmanager", *words, ready=ready, **trusted):
            for told, ends in ((1, None), (2, time.time())):
                alert(api, ends)
                wait_until(lambda told=told: heard(receivers) == [told] * 5, within=60)
    for place in ("/hook", "/another"):
        assert [message["status"] for message in receivers.posts[place]] == ["firing", "resolved"]
    slack = [(message["channel"], message["attachments"][0]) for message in receivers.posts["/slack"]]
    assert [(channel, one["title"]) for channel, one in slack] == [
        ("#alerts", "FIRING: no worker"),
        ("#alerts", "RESOLVED: no worker"),
    ]
    assert "nobody takes tasks https://docs.example/runbook" in slack[0][1]["text"]
    for user, password, _to, mail in receivers.mails:
        assert (user, password) == ("orbiter", 'pass"word: #$')
        assert mail["From"] == "orbiter@example.net"
        assert "dist_worker_count_critical" in mail["Subject"]


def alert(api: str, ends: float | None) -> None:
    """Tell Alertmanager of an alert, as Prometheus does, or of its end."""
    told: dict[str, Any] = {
        "labels": {"alertname": "dist_worker_count_critical", "severity": "critical"},
        "annotations": {
            "summary": "no worker",
            "description": "nobody takes tasks",
            "runbook_url": "https://docs.example/runbook",
        },
    }
    if ends is not None:
        told["endsAt"] = datetime.fromtimestamp(ends, UTC).isoformat()
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(f"{api}/api/v2/alerts", json.dumps([told]).encode(), headers), timeout=10) as answer:
        assert answer.status == 200


def heard(receivers: Any) -> list[int]:
    """Return how often each receiver was told."""
    mails = [to for mail in receivers.mails for to in mail[2]]
    return [
        *(len(receivers.posts.get(place, [])) for place in ("/hook", "/another", "/slack")),
        *(mails.count(f"{name}@example.net") for name in "ab"),
    ]


BAD = [
    ("monitoring_port", 9093),
    ("monitoring_retention", "long"),
    ("monitoring_retention_size", "5"),
    ("monitoring_webhook_urls", ["example.net/hook"]),
    ("monitoring_slack_url", "secret-hook"),
    ("monitoring_mail_to", ["a@example.net"]),
    ("monitoring_users", {"anna": "secret-word"}),
    ("monitoring_tls_cert", "/nowhere/web.pem"),
    ("monitoring_grafana_token", ""),
]


def test_bad_input_is_refused_by_name_and_secrets_are_not_shown(refusals: Callable[..., Any]) -> None:
    url = {"monitoring_grafana_url": "https://grafana.example"}
    cases = [{name: value} | (url if "grafana" in name else {}) for name, value in BAD]
    found, shown = refusals("monitoring", *cases, monitoring_bind="10.0.0.9")
    for (name, value), said in zip(BAD, found, strict=True):
        assert said.startswith(name), (name, value, said)
    assert "secret-" not in shown


def test_good_input_is_taken(refusals: Callable[..., Any]) -> None:
    given = {
        "monitoring_bind": "10.0.0.9",
        "monitoring_webhook_urls": ["https://a.example/x"],
        "monitoring_users": {"anna": HASH},
    }
    assert refusals("monitoring", given)[0] == [""]


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
    - keep: {dest: "{{ playbook_dir }}/shown.json", content: "{{ __monitoring_found | to_json }}"}
"""
    given = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    host = {"packages": {"prometheus-node-exporter": "1.5", "redis-server": "7.0"}}
    done = ansible(["host"], show, "--extra-vars=" + json.dumps(given | {"__monitoring_host": host}))
    assert done.returncode == 0, done.stdout
    assert json.loads((tmp_path / "shown.json").read_text()) == ["prometheus-node-exporter"]
