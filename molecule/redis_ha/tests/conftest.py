"""The group of the scenario, and what its servers say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from fleet import Fleet, kill_master

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from subprocess import CompletedProcess

    from fleet import StubbornLoad

UNITS = ("redis-server", "redis-sentinel")
TLS = "--tls --cacert /etc/redis/tls/ca.pem"
AS_OPERATOR = "REDISCLI_AUTH=$(cat /etc/redis/admin.password) redis-cli --user admin -s /run/redis/redis-server.sock"
GROUP = "python3 -c \"import json; about = json.load(open('/etc/redis/fleet.json')); print(%s)\""
SENTINEL_PASSWORD = GROUP % "about['sentinel_password']"
AT_SENTINEL = (
    GROUP % "'-p', about['sentinel_port'], *(['--tls', '--cacert', about['tls_ca']] if about['tls_ca'] else [])"
)
# What the passwords become in the middle of the tests. Others than in the scenario `redis`, which may run at the
# same time, and watches all command lines of this machine for its own.
NASTY = '\'s l4ter \\ "p@ss"/w:rd #% $HOME ü'
NEW = {
    "orbiter_redis_password": f"operator{NASTY}",
    "orbiter_redis_users": {name: {"password": f"{name}{NASTY}"} for name in ("worker", "client", "monitor")},
}


def redis(host: Any, command: str) -> str:
    """Return what a host's Redis answers to its operator."""
    return str(host.check_output(f"{AS_OPERATOR} {command}"))


def asked_sentinel(host: Any, command: str) -> str:
    """Return what a host's sentinel answers to its operator."""
    return str(host.check_output(f"REDISCLI_AUTH=$({SENTINEL_PASSWORD}) redis-cli $({AT_SENTINEL}) sentinel {command}"))


def role(host: Any) -> str:
    """Return what a host's Redis says that it is: master, slave, or nothing."""
    said = host.run(f"{AS_OPERATOR} role | head -1")
    return str(said.stdout.strip())


def in_step(host: Any) -> bool:
    """Return whether a host's Redis is a replica with a living link to its master."""
    said = host.run(f"{AS_OPERATOR} info replication").stdout
    return "role:slave" in said and "master_link_status:up" in said


def sizes(servers: dict[str, Any]) -> set[str]:
    """Return how many keys the servers hold: one number if all hold the same."""
    return {redis(host, "dbsize") for host in servers.values()}


def processes(hosts: dict[str, Any], unit: str) -> dict[str, str]:
    """Return the main process of a unit on each host."""
    shown = f"systemctl show --property=MainPID --value {unit}"
    return {name: host.check_output(shown) for name, host in hosts.items()}


def assert_unchanged(done: CompletedProcess[str]) -> None:
    """Check that a play did well, and nothing at all."""
    assert done.returncode == 0
    assert_no_host_changed(done)


def assert_no_host_changed(done: CompletedProcess[str]) -> None:
    """Check that a play, whatever became of it, changed nothing."""
    recap = [line for line in done.stdout.partition("PLAY RECAP")[2].splitlines() if " ok=" in line]
    assert recap
    assert [line for line in recap if " changed=0 " not in line] == []


def lose_the_master(load: StubbornLoad, fleet: Fleet, servers: dict[str, Any], first: str) -> None:
    """Kill the master and its sentinel while tasks run; wait until there is another one, which accepts tasks."""
    kill_master(load, fleet, servers, first, units=UNITS, role=role)


@pytest.fixture(scope="session")
def servers(runner: Any) -> dict[str, Any]:
    """Return the Redis hosts by name."""
    return {name: runner.get_host(name) for name in sorted(runner.get_hosts("redis"))}


@pytest.fixture(scope="session")
def addresses(runner: Any, servers: dict[str, Any]) -> dict[str, str]:
    """Return the Redis hosts' addresses in the fleet's network."""
    return {name: runner.get_variables(name)["redis_bind"] for name in servers}


@pytest.fixture(scope="module")
def settings(servers: dict[str, Any]) -> dict[str, Any]:
    """Return the passwords and the ports that the group has by now."""
    about = json.loads(servers["redis1"].check_output("cat /etc/redis/fleet.json"))
    return NEW | {"redis_tls_port": about["port"], "redis_sentinel_tls_port": about["sentinel_port"]}


@pytest.fixture(scope="session")
def authority(inventory: str) -> Path:
    """Return the certificate of the fleet's own authority, on the controller."""
    return Path(inventory) / ".redis-tls/ca.pem"


@pytest.fixture(scope="session")
def as_workers(workers: dict[str, Any], authority: Path) -> Callable[[], Fleet]:
    """Return a function that gives the fleet by the very URL that its workers have now."""

    def connect() -> Fleet:
        url = workers["worker1"].check_output('. /etc/orbiter/worker.env; printf %s "$ORBITER_REDIS_URL"')
        return Fleet(url.replace("/etc/orbiter/redis-ca.pem", quote(str(authority))))

    return connect


@pytest.fixture(scope="module")
def fleet(as_workers: Callable[[], Fleet]) -> Iterator[Fleet]:
    """Return the fleet as its workers reach it."""
    return as_workers()


@pytest.fixture(scope="session")
def master(servers: dict[str, Any]) -> Callable[[], str]:
    """Return a function that names the only master of now."""

    def only() -> str:
        (name,) = [name for name, host in servers.items() if role(host) == "master"]
        return name

    return only
