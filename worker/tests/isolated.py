"""Workers under attack: real ones, restarted when they die; and what is alive below them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import psutil

from orbiter.distributed.models import TaskPayload, TaskResult, TaskStatus
from tests.fleet import Fleet
from tests.support import PATIENCE, WORKER_DIRECTORY, environment, orbiter, slowness, wait_until

JOBS = "tests.integration.isolation_jobs"


def attack(job: str, text: str = "", *, module: str = JOBS, **fields: Any) -> TaskPayload:
    """Return a task that runs a callable of ``tests.integration.isolation_jobs``, or of another module."""
    config = {"runtime": "callable", "target": f"{module}:{job}", "name": job}
    return TaskPayload(agent_config=config, input=text, **fields)


class IsolatedWorker:
    """``orbiter start worker``, in a process of its own, with what it has started.

    Attributes:
        lease: Its lease in seconds, a short one: what is told to stop has a fourth of it.
    """

    def __init__(self, fleet: Fleet, worker_id: str, log: Path, *options: str, wrap: tuple[str, ...] = (), **env: str):
        self.fleet, self.worker_id, self.log, self.wrap = fleet, worker_id, log, wrap
        self.lease = round(3 * slowness())
        self.options = options
        self.env = {"ORBITER_REDIS_URL": fleet.url, "ORBITER_HEARTBEAT_TTL": str(self.lease), **env}
        self.deaths = 0
        self.pids: list[int] = []
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        command = [*self.wrap, sys.executable, "-m", "orbiter.cli", "start", "worker", "--worker-id", self.worker_id]
        command += ["--allow-import", JOBS, "--drain-timeout", "1", *self.options]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                env=environment(**self.env),
                cwd=WORKER_DIRECTORY,
            )
        self.pids.append(self.process.pid)

    async def ready(self) -> None:
        """Wait until it works, with an executor process."""

        async def running() -> bool:
            assert self.process.poll() is None, self.text
            said = await self.fleet.client.hmget(f"orbiter:workers:{self.worker_id}", ["state", "pid"])
            return said == ["running", str(self.process.pid)] and bool(self.children)

        await wait_until(running)

    @property
    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace")

    @property
    def children(self) -> list[psutil.Process]:
        """Its executor processes."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children()
        return []

    def tree(self) -> list[psutil.Process]:
        """It and all that came of it: descendants, and whatever is in the session of one of its children."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        return []

    def resident(self) -> int:
        """The resident bytes of all of it."""
        total = 0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def threads(self) -> int:
        """The threads of all of it."""
        total = 0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.num_threads()
        return total

    def listed(self) -> dict[str, Any]:
        """What ``orbiter worker list --json`` says of it."""
        said = orbiter("worker", "list", "--json", ORBITER_REDIS_URL=self.fleet.url)
        assert said.returncode == 0, said.stderr
        rows: list[dict[str, Any]] = json.loads(said.stdout)
        return next((row for row in rows if row["worker_id"] == self.worker_id), {})

    def end(self) -> None:
        """Drain it; nothing of it stays."""
        tree = self.tree()
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        gone_by = time.monotonic() + 5
        for process in tree[1:]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
                process.wait(max(0.1, gone_by - time.monotonic()))
                continue
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@contextlib.asynccontextmanager
async def isolated(
    fleet: Fleet, tmp_path: Path, *options: str, number: int = 1, **env: str
) -> AsyncIterator[list[IsolatedWorker]]:
    """Run workers, ready; one that dies is started again at once, as systemd does."""
    workers = [
        IsolatedWorker(fleet, f"w{place}", tmp_path / f"w{place}.log", *options, **env) for place in range(number)
    ]

    async def restart() -> None:
        while True:
            for worker in workers:
                if worker.process.poll() is not None:
                    worker.deaths += 1
                    worker.start()
            await asyncio.sleep(0.05)

    try:
        for worker in workers:
            await worker.ready()
        restarting = asyncio.create_task(restart())
        try:
            yield workers
        finally:
            restarting.cancel()
    finally:
        for worker in workers:
            worker.end()


def check_unharmed(tasks: Iterable[TaskResult], *, runs: int = 3) -> None:
    """Check that tasks that did no harm came to none."""
    for task in tasks:
        assert (task.status, task.crashes) == (TaskStatus.COMPLETED, 0), task
        assert task.attempt <= runs, task
