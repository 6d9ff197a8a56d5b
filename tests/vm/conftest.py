"""A virtual host with a kernel and cgroups (version 2) of its own, on which the playbooks have deployed a worker.

It is made and started once for all tests, which takes some minutes. TESTVM_KEEP=1 leaves it running, and says which
TESTVM_SSH_PORT and TESTVM_REDIS_PORT name it: with these, tests take one that runs already and leave it so.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT / "molecule"))

from fleet import Fleet, wait_until  # noqa: E402 - the tests of roles have it
from orbiter.distributed.broker.task_broker import TaskBroker  # noqa: E402
from orbiter.distributed.models import TaskPayload  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY = CHECKOUT / ".cache/testvm"
IMAGE = CHECKOUT / "images/testvm"
UNIT = "orbiter-worker@1.service"
# Emulated, and beside others on this machine.
PATIENCE = 600.0


class VirtualHost(Fleet):
    """The host, its worker's unit, and its queue."""

    def __init__(self, ssh_port: str, redis_port: str) -> None:
        super().__init__(f"redis://127.0.0.1:{redis_port}/0")
        self._ssh = ["ssh", "-i", str(DIRECTORY / "id_ed25519"), "-p", ssh_port, "-o", "StrictHostKeyChecking=no"]
        self._ssh += ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        # One connection for all commands: to make one costs an emulated processor seconds.
        socket_path = Path(tempfile.gettempdir(), f"testvm-{os.getpid()}")
        self._ssh += ["-o", "ControlMaster=auto", "-o", f"ControlPath={socket_path}", "-o", "ControlPersist=30"]
        self._ssh += ["root@127.0.0.1"]

    def run(self, command: str, given: str = "") -> str:
        """Return what a command of root's prints; it reads what it is given."""
        # To a file: the connection outlives the command, and holds on to its streams.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [*self._ssh, command], input=given, text=True, stdout=output, stderr=output, check=False
            )
            output.seek(0)
            text = output.read().strip()
        assert done.returncode == 0, f"{command}: {done.returncode}\n{text}"
        return text

    def show(self, name: str) -> str:
        """Return a property of the worker's unit."""
        return self.run(f"systemctl show --property={name} --value {UNIT}")

    def log(self) -> str:
        """Return the end of what the worker has logged."""
        return self.run(f"journalctl --no-pager --output=cat --unit={UNIT} --lines=60")

    def directory(self) -> str:
        """Return where the kernel shows the unit's cgroup."""
        return f"/sys/fs/cgroup{self.show('ControlGroup')}"

    def cgroups(self) -> dict[str, list[int]]:
        """Return the processes in each cgroup below the unit's, by its name; those of the unit's own by ``""``."""
        script = f"cd '{self.directory()}' && for each in . */; do echo $each $(cat $each/cgroup.procs); done"
        lines = [line.split() for line in self.run(script).splitlines()]
        return {name.strip("./"): [int(pid) for pid in pids] for name, *pids in lines}

    def executors(self) -> list[str]:
        """Return the names of executor processes' cgroups."""
        return sorted(name for name in self.cgroups() if name.startswith("executor-"))

    def listed(self) -> dict[str, Any]:
        """Return what ``orbiter worker list`` says of the worker."""
        environment = os.environ | {"ORBITER_REDIS_URL": self.redis_url}
        said = subprocess.run(
            ["orbiter", "worker", "list", "--json"], env=environment, capture_output=True, text=True, check=True
        )
        (row,) = json.loads(said.stdout)
        return row  # type: ignore[no-any-return]

    def named(self, name: str, *, number: int = 1, **metadata: Any) -> list[str]:
        """Submit tasks that run a callable of this folder's ``app``; return their ids."""
        config = {"runtime": "callable", "name": name, "target": f"vm_tasks:{name}"}
        tasks = [TaskPayload(agent_config=config, metadata=metadata) for _number in range(number)]

        async def submit() -> list[str]:
            broker = TaskBroker(self.redis_url)
            await broker.connect()
            try:
                return await broker.submit_many(tasks)
            finally:
                await broker.disconnect()

        return asyncio.run(submit())

    def until_running(self, ids: list[str]) -> None:
        """Wait until each task runs."""
        wait_until(lambda: set(self.statuses(ids)) == {"running"}, within=PATIENCE, what=self.log)

    def ended(self, ids: list[str]) -> list[dict[str, str]]:
        """Wait until each task has ended; return their hashes."""
        over = {"completed", "failed", "cancelled"}
        wait_until(
            lambda: set(self.statuses(ids)) <= over,
            within=PATIENCE,
            what=lambda: f"{self.statuses(ids)}\n{self.log()}",
        )
        return self.tasks(ids)


def free_port() -> str:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def deploy(ssh_port: str, password: str) -> None:
    """Run the playbook that users run."""
    environment = os.environ | {
        "TESTVM_DIRECTORY": str(DIRECTORY),
        "TESTVM_SSH_PORT": ssh_port,
        "TESTVM_PASSWORD": password,
        "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".cache/collections"),
    }
    inventory = Path(__file__).parent / "inventory.yml"
    subprocess.run(
        ["ansible-playbook", "--inventory", inventory, "site.yml"], cwd=CHECKOUT, env=environment, check=True
    )


@pytest.fixture(scope="session")
def running_vm() -> Iterator[VirtualHost]:
    """Return the virtual host with a worker on it."""
    ports = [os.environ.get(f"TESTVM_{name}_PORT") for name in ("SSH", "REDIS")]
    if all(ports):
        yield VirtualHost(*ports)  # type: ignore[arg-type]
        return
    subprocess.run([IMAGE / "build.sh", DIRECTORY], check=True)
    ssh_port, redis_port = free_port(), free_port()
    try:
        subprocess.run([IMAGE / "vm.sh", "start", DIRECTORY, ssh_port, redis_port], check=True)
        vm = VirtualHost(ssh_port, redis_port)
        # What a task of the tests searches for.
        password = f"secret-{secrets.token_hex(16)}"
        vm.redis.acl_setuser(
            "worker", enabled=True, passwords=[f"+{password}"], keys="*", channels="*", categories=["+@all"]
        )
        deploy(ssh_port, password)
        yield vm
    finally:
        if os.environ.get("TESTVM_KEEP"):
            sys.__stdout__.write(f"\ntestvm: TESTVM_SSH_PORT={ssh_port} TESTVM_REDIS_PORT={redis_port}\n")
        else:
            subprocess.run([IMAGE / "vm.sh", "stop", DIRECTORY], check=True)


@pytest.fixture
def vm(running_vm: VirtualHost) -> Iterator[VirtualHost]:
    """Return the virtual host; its supervisor lives through each test, and nothing of it is left in the queue."""
    names = ("MainPID", "NRestarts", "ActiveState")
    before = {name: running_vm.show(name) for name in names}
    yield running_vm
    assert {name: running_vm.show(name) for name in names} == before, running_vm.log()
    assert before["ActiveState"] == "active"
