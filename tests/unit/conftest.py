"""A real Redis, a real worker and the real command, for the parts of the collection that are Python."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

# pytest does so by itself, unless ansible-test has it import the collection's way.
sys.path.insert(0, str(Path(__file__).parent))

from forked import Ansible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHECKOUT = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).parent / "orbiter")
# Modules import each other by the collection's name, under which `make setup` has linked this checkout.
sys.path.insert(0, str(CHECKOUT / ".cache/collections"))
# The programs that tests start are not those for which ansible-test leaves only the part of Ansible that a host has.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("PYTHONPATH", None)
# So does what the tests start, as Make has it; ansible-test says where its copy is.
os.environ.setdefault("ANSIBLE_COLLECTIONS_PATH", str(CHECKOUT / ".cache/collections"))


def pytest_configure(config):
    """Name the marker where ansible-test runs pytest: it reads a pytest.ini of its own."""
    config.addinivalue_line("markers", "nightly: takes long by nature; run by `make test-nightly` only")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a Redis server with a password."""
    with Server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(redis_server: Server) -> Server:
    """Return the Redis server, empty."""
    redis_server.client.flushall()
    return redis_server


@pytest.fixture
def worker(server: Server, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Return a function that starts a worker; what it started ends with the test."""
    started: list[Worker] = []

    def start(**settings: str) -> Worker:
        started.append(Worker(server, tmp_path, **settings))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def module(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Return a function that runs a module of the collection as Ansible does, and returns its answer."""
    from ansible.module_utils.testing import patch_module_args  # noqa: PLC0415 - not for tests without modules

    def run_module(name: str, *, check: bool = False, diff: bool = False, **options: Any) -> dict[str, Any]:
        module = import_module(f"ansible_collections.orbiter.fleet.plugins.modules.{name}")
        capsys.readouterr()
        how = {"_ansible_check_mode": check, "_ansible_diff": diff}
        with patch_module_args(options | how), pytest.raises(SystemExit):
            module.main()
        answer = json.loads(capsys.readouterr().out)
        assert json.dumps(Server.password)[1:-1] not in json.dumps(answer)
        return answer

    return run_module


@pytest.fixture
def run(server: Server, module: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Return a function that runs a module that calls the command, and returns its answer."""

    def run_module(name: str, **options: Any) -> dict[str, Any]:
        return module(name, **{"redis_url": server.url, "executable": COMMAND} | options)

    return run_module


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ansible]:
    """Return an Ansible without a folder of settings."""
    place = tmp_path_factory.mktemp("ansible")
    ansible = Ansible(place, place)
    yield ansible
    ansible.close()


@pytest.fixture
def ansible(tmp_path: Path, forked: Ansible) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that plays tasks (YAML, a list), or a playbook, on the hosts of an inventory (lines of INI)."""

    def run(inventory: list[str], play: str | Path, *options: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "hosts.ini").write_text("\n".join([*inventory, ""]))
        if isinstance(play, str):
            (tmp_path / "play.yml").write_text(f"- hosts: all\n  gather_facts: false\n  tasks:\n{play}")
            play = tmp_path / "play.yml"
        return forked.play(["--inventory=hosts.ini", play, *options], tmp_path)

    return run


@pytest.fixture
def refusals(tmp_path: Path, forked: Ansible) -> Callable[..., tuple[list[str], str]]:
    """Return a function that has a role check cases of its values, each as those of a host, all in one play.

    It returns the faults found in each case, a line for each fault; and all that was printed, as one line.
    """

    def check(role: str, *cases: dict[str, Any], **common: Any) -> tuple[list[str], str]:
        hosts = {f"case{number}": case for number, case in enumerate(cases)}
        tasks = [{"include_role": {"name": f"orbiter.fleet.{role}", "tasks_from": "preflight_inventory"}}]
        (tmp_path / "cases.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}))
        (tmp_path / "check.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
        done = forked.play(["--inventory=cases.json", "check.yml"], tmp_path)
        found = dict.fromkeys(re.findall(r"^ok: \[(case\d+)\]", done.stdout, re.MULTILINE), "")
        for host, answer in re.findall(r"^fatal: \[(case\d+)\]: FAILED! => (.+)", done.stdout, re.MULTILINE):
            lines = json.loads(answer)["msg"].splitlines()
            assert all(line.startswith(f"{host}: ") for line in lines), lines
            found[host] = "\n".join(line.removeprefix(f"{host}: ") for line in lines)
        assert found.keys() == hosts.keys(), done.stdout + done.stderr
        return [found[host] for host in hosts], " ".join((done.stdout + done.stderr).split())

    return check


class Server:
    """A redis-server of our own on a free port, with its configuration in a file as on a host.

    With a user, which ``options`` must make, it has no password of its own.
    """

    password = 'pass"word\\ #1'

    def __init__(self, directory: Path, *options: str, user: str | None = None) -> None:
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is not installed: apt-get install redis-server"
        self.port = free_port()
        self.config = directory / "redis.conf"
        quoted = self.password.replace("\\", "\\\\").replace('"', '\\"')
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {directory}", 'save ""', "repl-diskless-sync-delay 0"]
        lines += [f'requirepass "{quoted}"'] if user is None else []
        self.config.write_text("\n".join([*lines, *options, ""]))
        self.log = (directory / "redis.log").open("wb")
        self.process = subprocess.Popen([program, str(self.config)], stdout=self.log, stderr=subprocess.STDOUT)
        self.client: Any = redis.Redis(port=self.port, username=user, password=self.password, decode_responses=True)
        self.url = f"redis://default:pass%22word%5C%20%231@127.0.0.1:{self.port}/0"

    def __enter__(self) -> Server:
        def answers() -> bool:
            try:
                return bool(self.client.ping())
            except redis.ConnectionError:
                return False

        wait_until(answers, within=30)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


class Worker:
    """A worker that may run the functions of jobs.py."""

    def __init__(self, server: Server, directory: Path, **settings: str) -> None:
        environment = os.environ | {
            "ORBITER_REDIS_URL": server.url,
            "ORBITER_ALLOW_IMPORT": "jobs",
            "ORBITER_MAX_RETRIES": "0",
            "ORBITER_DRAIN_TIMEOUT": "1",
            "PYTHONPATH": str(Path(__file__).parent),
        }
        self._log = (directory / "worker.log").open("ab")
        known = set(live(server))
        self._process = subprocess.Popen(
            [COMMAND, "start", "worker"], env=environment | settings, stdout=self._log, stderr=subprocess.STDOUT
        )
        wait_until(lambda: set(live(server)) - known, within=60)
        (self.worker_id,) = set(live(server)) - known

    def stop(self) -> None:
        """End it, if it has not left by itself."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(60)
        self._log.close()

    def has_left(self) -> bool:
        """Tell whether its process has ended in order."""
        return self._process.wait(60) == 0


def live(server: Server) -> list[str]:
    """Return the ids of the workers that claim tasks."""
    ids = [key.removeprefix("orbiter:workers:") for key in server.client.scan_iter("orbiter:workers:*")]
    return [one for one in ids if server.client.hget(f"orbiter:workers:{one}", "state") == "running"]


def free_port() -> int:
    """Return a port of the loopback that nobody uses."""
    # Below the ports that systems give to outgoing connections: one of those would take a port before its server does.
    for port in random.sample(range(10_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def wait_until(true: Callable[[], object], *, within: float) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.05)
