"""Which distributions the roles take, by a host's facts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.orbiter.fleet.plugins.filter.unfit_host import unfit_host

ROLES = Path(__file__).parents[4] / "roles"


def facts(distribution, version, family="Debian", manager="systemd"):
    """Return a host's facts."""
    return {
        "distribution": distribution,
        "distribution_version": version,
        "os_family": family,
        "service_mgr": manager,
    }


@pytest.mark.parametrize(
    "host",
    [
        facts("Debian", "12.11"),
        facts("Debian", "13.1"),
        facts("Debian", "forky/sid"),
        facts("Ubuntu", "24.04"),
        facts("Ubuntu", "24.10"),
        facts("Ubuntu", "26.04"),
        facts("Linux Mint", "22"),
    ],
    ids=lambda host: f"{host['distribution']} {host['distribution_version']}",
)
def test_debian_its_derivatives_and_ubuntu_from_24_04_on_will_do(host):
    assert unfit_host(host) == ""


@pytest.mark.parametrize(
    ("host", "named"),
    [
        (facts("Ubuntu", "22.04"), "runs Ubuntu 22.04"),
        (facts("Ubuntu", "23.10"), "runs Ubuntu 23.10"),
        (facts("Rocky", "9.4", "RedHat"), "runs Rocky 9.4 with systemd"),
        (facts("RedHat", "10.0", "RedHat"), "runs RedHat 10.0 with systemd"),
        (facts("Alpine", "3.20.1", "Alpine", "openrc"), "runs Alpine 3.20.1 with openrc"),
        (facts("Debian", "12.11", manager="sysvinit"), "runs Debian 12.11 with sysvinit"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_will_not_do_is_told_with_the_remedy_in_one_line(host, named):
    said = unfit_host(host)
    assert said.startswith(named)
    assert "Ubuntu 24.04 or newer" in said
    assert "Debian 12 or newer" in said
    assert "\n" not in said


def test_every_role_that_checks_hosts_asks_it():
    checks = {path.parents[1].name: path for path in ROLES.glob("*/tasks/preflight_host.yml")}
    assert set(checks) >= {"dashboard", "monitoring", "redis", "temporal", "worker"}
    texts = {role: path.read_text() + (ROLES / role / "vars/main.yml").read_text() for role, path in checks.items()}
    assert [role for role, text in texts.items() if "orbiter.fleet.unfit_host" not in text] == []
    assert [role for role, text in texts.items() if re.search(r"\['os_family'\]", text)] == []
