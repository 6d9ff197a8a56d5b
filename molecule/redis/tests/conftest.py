"""The two fleets of the scenario, and plays on one of them."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Callable

# The Redis host of each fleet, and its worker host.
FLEETS = {"redis1": "worker1", "redis2": "worker2"}


@dataclass
class Server:
    """The Redis of a fleet, from the controller and from the inside."""

    name: str
    variables: dict[str, Any]
    host: Any
    authority: Path

    def url(self, user: str = "admin") -> str:
        """Return the URL by which a user of the inventory connects."""
        users = self.variables["orbiter_redis_users"]
        password = users[user]["password"] if user in users else self.variables["orbiter_redis_password"]
        tls = self.variables.get("redis_tls", False)
        tail = f"?ssl_ca_certs={self.authority}" if tls else ""
        scheme = "rediss" if tls else "redis"
        return f"{scheme}://{user}:{quote(password, safe='')}@{self.variables['redis_bind']}:6379/0{tail}"

    @property
    def fleet(self) -> Fleet:
        """Return the fleet, as its operator sees it."""
        return Fleet(self.url())

    def run_id(self) -> str:
        """Return what is another one after each start of the server."""
        return str(self.fleet.redis.info("server")["run_id"])


@pytest.fixture(scope="session")
def servers(runner: Any, inventory: str) -> dict[str, Server]:
    """Return the two servers."""
    authority = Path(inventory) / ".redis-tls/ca.pem"
    return {name: Server(name, runner.get_variables(name), runner.get_host(name), authority) for name in FLEETS}


@pytest.fixture(params=FLEETS)
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    """Return each of the two servers in turn."""
    return servers[request.param]


@pytest.fixture(scope="session")
def site(play: Callable[..., Any]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that plays the Redis part of site.yml for one of the fleets."""

    def run(redis: str, *options: str, **variables: object) -> subprocess.CompletedProcess[str]:
        hosts = {"orbiter_redis_hosts": redis, "orbiter_worker_hosts": FLEETS[redis]}
        done: subprocess.CompletedProcess[str] = play("site.yml", "--tags", "redis", *options, **hosts, **variables)
        return done

    return run


def changed(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the tasks of a play that changed something."""
    tasks = re.split(r"^(?:TASK|RUNNING HANDLER) ", done.stdout, flags=re.MULTILINE)
    return [task[1 : task.index("]")].rpartition(" : ")[2] for task in tasks if "\nchanged: " in task]


def shown(done: subprocess.CompletedProcess[str]) -> str:
    """Return a play's output without its line breaks."""
    return " ".join((done.stdout + done.stderr).split())


def as_json(text: str) -> Any:
    """Return what a command printed with --json."""
    return json.loads(text)
