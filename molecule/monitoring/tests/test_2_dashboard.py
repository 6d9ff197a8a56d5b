"""The dashboard that site.yml has started: who may look sees the fleet, and it comes and goes with its variable."""

from __future__ import annotations

import http.cookiejar
import re
import urllib.request
from urllib.error import HTTPError
from urllib.parse import urlencode

import pytest

from fleet import wait_until

UNIT = "orbiter-dashboard.service"
ENV = "/etc/orbiter-dashboard/dashboard.env"
PASSWORD = "who looks at the fleet"


class Browser:
    """Asks the dashboard from outside, with cookies."""

    def __init__(self, address):
        self._address = address
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(jar, urllib.request.ProxyHandler({}))

    def ask(self, path, **fields):
        """Return status, place and text of a page; with fields, of what a form leads to."""
        sent = urlencode(fields).encode() if fields else None
        request = urllib.request.Request(self._address + path, sent, {"Origin": self._address})
        try:
            with self._opener.open(request, timeout=10) as found:
                return found.status, found.url.removeprefix(self._address), found.read().decode()
        except HTTPError as error:
            return error.code, path, error.read().decode()

    def log_in(self, password=PASSWORD):
        token = re.search(r'name="token" value="([0-9a-f]+)"', self.ask("/login")[2].partition("<main")[2])
        return self.ask("/login", token=token[1], user="anna", password=password)


@pytest.fixture
def monitor(on):
    return on("monitor1")


@pytest.fixture
def browser(runner):
    return Browser(f"http://{runner.get_variables('monitor1')['ansible_host']}:8420")


def test_who_logs_in_sees_the_fleet_and_nobody_else_does(browser):
    assert browser.ask("/fleet")[:2] == (200, "/login")
    assert browser.log_in("another password")[0] == 403
    status, place, page = browser.log_in()
    assert (status, place) == (200, "/fleet")
    assert "worker1" in page
    assert "worker2" in page
    for path in ("/queue", "/tasks", "/errors", "/dead", "/usage", "/alerts", "/actions"):
        assert browser.ask(path)[:2] == (200, path)


def test_it_connects_as_the_user_that_looks(fleet, browser):
    assert browser.ask("/healthz")[2] == "ok\n"
    wait_until(
        lambda: (
            {one["user"] for one in fleet.redis.client_list() if one["name"] == "orbiter-dashboard"} == {"dashboard"}
        ),
        within=20,
        what=lambda: str(fleet.redis.client_list()),
    )


def test_its_unit_is_hardened_and_its_secrets_are_in_their_files_alone(monitor):
    monitor.check_output(f"systemd-analyze security --no-pager --threshold=20 {UNIT}")
    shown = dict(
        line.split("=", 1)
        for line in monitor.check_output(f"systemctl show {UNIT} --property=User,MainPID,MemoryMax").splitlines()
    )
    assert (shown["User"], shown["MemoryMax"]) == ("orbiter-dashboard", str(512 * 1024**2))
    files = {"dashboard.env": ("root", "root", 0o600), "users": ("root", "orbiter-dashboard", 0o640)}
    for name, rights in files.items():
        file = monitor.file(f"/etc/orbiter-dashboard/{name}")
        assert (file.user, file.group, file.mode) == rights
    password = re.search(r"//dashboard:(\w+)@", monitor.file(ENV).content_string)[1]
    words = monitor.check_output(f"tr '\\0' ' ' < /proc/{shown['MainPID']}/cmdline")
    for text in (words, monitor.check_output(f"systemctl cat {UNIT}"), monitor.check_output(f"journalctl -u {UNIT}")):
        assert password not in text
    assert "/opt/orbiter-dashboard/releases/" in monitor.check_output("readlink /opt/orbiter-dashboard/current")
    assert not monitor.file("/opt/orbiter").exists


def test_another_program_at_its_port_is_found_before_anything_changes(monitor, play):
    monitor.check_output("systemctl stop " + UNIT)
    monitor.check_output("systemd-run --unit=squatter python3 -m http.server 8420")
    try:
        wait_until(lambda: monitor.run("ss -ltn | grep :8420").rc == 0, within=20, what=str)
        done = play("site.yml")
        assert done.returncode != 0
        assert "set dashboard_port" in " ".join(done.stdout.split())
        assert changed(done) == []
    finally:
        monitor.check_output("systemctl stop squatter.service")
        monitor.check_output("systemctl start " + UNIT)


def test_new_passwords_reach_it_while_the_old_ones_are_valid(monitor, browser, play, runner):
    before = monitor.file(ENV).content_string
    given = runner.get_variables("monitor1")["orbiter_redis_password"]
    done = play("playbooks/rotate_secrets.yml", orbiter_redis_password=given + " new")
    assert done.returncode == 0
    assert monitor.file(ENV).content_string != before
    assert browser.ask("/healthz")[0] == 200
    again = play("playbooks/rotate_secrets.yml")
    assert again.returncode == 0
    assert monitor.file(ENV).content_string == before
    assert browser.ask("/healthz")[0] == 200


def test_without_the_variable_it_goes_and_its_user_of_redis_with_it(monitor, play, fleet):
    assert play("site.yml", dashboard_enabled=False).returncode == 0
    assert_gone(monitor)
    assert "dashboard" not in fleet.redis.acl_users()
    assert monitor.service("prometheus").is_running
    # With actions it is another one.
    assert play("site.yml", dashboard_allow_actions=True).returncode == 0
    assert {"operator", "dashboard"} & set(fleet.redis.acl_users()) == {"operator"}
    again = play("site.yml", dashboard_allow_actions=True)
    assert changed(again) == []


def test_teardown_takes_it_off(monitor, play):
    assert play("playbooks/teardown.yml", "--limit=monitor1", orbiter_teardown_monitoring=True).returncode == 0
    assert_gone(monitor)
    assert not monitor.file("/etc/prometheus/targets").exists


def changed(done):
    return [line for line in done.stdout.splitlines() if line.startswith("changed:")]


def assert_gone(host):
    for path in ("/opt/orbiter-dashboard", "/etc/orbiter-dashboard", f"/etc/systemd/system/{UNIT}"):
        assert not host.file(path).exists
    assert not host.user("orbiter-dashboard").exists
    assert host.run(f"systemctl is-active {UNIT}").stdout.strip() == "inactive"
