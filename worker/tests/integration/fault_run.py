"""One run of random faults: a Redis, two workers behind a proxy each, and what happens to them in a minute."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from redis.exceptions import RedisError

from orbiter.distributed.connection.redis_url import connect
from tests import keys
from tests.faults_proxy import FaultsProxy, Link, faults_proxy
from tests.fleet import Fleet
from tests.integration.fault_plan import KINDS, SIDES, Fault, Work, bursts, draw_faults, draw_work
from tests.servers import Server, plain_server
from tests.support import WORKER_DIRECTORY, environment, slowness

SECONDS = 60.0
# From one task's end to the next, and for all of them.
HEAL_WITHIN, HEAL_ALL_WITHIN = 22.0, 90.0
# Shorter than many a fault lasts; one of them shorter, too, than the six seconds that a worker gives a call.
LEASES = {"left": 5, "right": 3}
CONCURRENCY = {"left": 32, "right": 24}
# By the number of workers: one is often without any way to Redis.
TASKS = {1: 400, 2: 1000}
# A loss is counted for each lease that could not be renewed; here there may be more than five.
SETTINGS = ("--max-crashes", "50", "--retry-backoff", "0.3", "--drain-timeout", "1")


@dataclass
class Failure:
    """A check that failed.

    Attributes:
        check: Its name.
        subject: The task, the worker or the server that it is about.
        text: What was found.
    """

    check: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.check}: {self.subject}: {self.text}"


@dataclass
class Happened:
    """Something that happened, for the report.

    Attributes:
        at: Monotonic time.
        until: When it was over.
        sides: Whom it touched.
        text: What it was.
    """

    at: float
    until: float
    sides: tuple[str, ...]
    text: str


@dataclass
class Member:
    """A worker's process: one of those that followed each other on a side."""

    name: str
    side: str
    process: subprocess.Popen[bytes]
    log: Path
    ready: bool = False


@dataclass
class FaultRun:
    """Plays the faults and the tasks of a seed.

    Attributes:
        seed: What everything is drawn from.
        directory: Where logs and notes go.
        kinds: Which kinds of fault there are.
        sides: Which of the two workers there are.
        failures: What has failed so far.
        happened: Faults, and what else was done.
        submitted: When each task was accepted, monotonic.
        cancelled: What was said to each request to cancel.
    """

    seed: int
    directory: Path
    kinds: Collection[str] = tuple(KINDS)
    sides: Sequence[str] = SIDES
    failures: list[Failure] = field(default_factory=list)
    happened: list[Happened] = field(default_factory=list)
    submitted: dict[str, float] = field(default_factory=dict)
    cancelled: dict[str, str] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)
    proxies: dict[str, FaultsProxy] = field(default_factory=dict)
    server_ended: bool = False

    def __post_init__(self) -> None:
        self.faults = draw_faults(self.seed, SECONDS, self.kinds)
        self.works = draw_work(self.seed, TASKS[len(self.sides)], SECONDS)
        self.slowness = slowness()
        self.born = time.monotonic()
        self.began = self.began_epoch = 0.0
        self.notes.mkdir(parents=True)

    @property
    def notes(self) -> Path:
        """The directory of the runs' own notes."""
        return self.directory / "notes"

    def now(self) -> float:
        """Return the seconds since the faults began."""
        return time.monotonic() - self.began

    def note(self, text: str, *sides: str, seconds: float = 0.0) -> None:
        at = time.monotonic()
        self.happened.append(Happened(at, at + seconds, sides or tuple(self.sides), text))

    @contextlib.asynccontextmanager
    async def played(self) -> AsyncIterator[Fleet]:
        """Play everything; within, Redis is as it was left, and the workers are there until the end."""
        with plain_server(self.directory) as server:
            url = f"redis://127.0.0.1:{server.port}/0"
            async with faults_proxy(server.port) as left, faults_proxy(server.port) as right:
                self.proxies = {"left": left, "right": right}
                client = connect(url)
                try:
                    self._fleet = Fleet(url, client)
                    await self._play(server)
                    yield self._fleet
                finally:
                    await self._end_workers()
                    await client.aclose()

    async def _play(self, server: Server) -> None:
        await self._fleet.broker.ensure_group()
        run_id = (await self._fleet.client.info("server"))["run_id"]
        playing = asyncio.ensure_future(self._minute())
        ended = asyncio.ensure_future(_ended(server.process))
        try:
            await asyncio.wait({playing, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (playing, ended):
                task.cancel()
            await asyncio.wait({playing, ended})
        if server.process.poll() is not None:
            self.server_ended = True
            tail = "\n".join(line for line in server.log.read_text().splitlines() if "Guru" in line or "crash" in line)
            self._failed("redis-server", "redis-server", f"ended with {server.process.returncode}\n{tail}")
            return
        playing.result()
        if (await self._fleet.client.info("server"))["run_id"] != run_id:
            self._failed("redis-server", "redis-server", "it is another one")

    async def _minute(self) -> None:
        self.began, self.began_epoch = time.monotonic(), time.time()
        for side in self.sides:
            self._start(side)
        keeping = [asyncio.ensure_future(self._keep(side)) for side in self.sides]
        try:
            async with asyncio.timeout(40 * self.slowness):
                while not all(member.ready for member in self.members):
                    await asyncio.sleep(0.02)
            self.began, self.began_epoch = time.monotonic(), time.time()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._submit())
                for fault in self.faults:
                    group.create_task(self._strike(fault))
                group.create_task(self._until(SECONDS))
            self.note("the faults are over")
            for side in self.sides:
                self._signal(side, signal.SIGUSR2)
            await self._heal()
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.wait(keeping)

    async def _heal(self) -> None:
        """Wait until every task has ended and the queue is empty, or nothing has ended for as long as that may take.

        Tasks that were lost run one at a time in a worker, so that many of them take longer than one does.
        """
        left = list(self.submitted)
        patience = HEAL_WITHIN * self.slowness
        latest = time.monotonic() + HEAL_ALL_WITHIN * self.slowness
        count, until = None, 0.0
        while left or not await self._fleet.is_empty():
            tasks = await self._fleet.store.get_many(left)
            left = [i for i, task in zip(left, tasks, strict=True) if not (task and task.status.terminal)]
            if count is None:
                self.note(f"{len(left)} tasks have not ended yet")
            if len(left) != count:
                count, until = len(left), time.monotonic() + patience
            if time.monotonic() > min(until, latest):
                break
            await asyncio.sleep(0.2)
        self.note(f"{len(left)} tasks have not ended; looking at what there is")

    async def _until(self, at: float) -> None:
        await asyncio.sleep(self.began + at - time.monotonic())

    def _failed(self, check: str, subject: str, text: str) -> None:
        self.failures.append(Failure(check, subject, text))

    # -- workers -------------------------------------------------------------------------------------------------

    def member(self, side: str) -> Member:
        """Return the worker that is on a side now."""
        return next(member for member in reversed(self.members) if member.side == side)

    def _start(self, side: str) -> None:
        name = f"{side}-{1 + sum(member.side == side for member in self.members)}"
        command = [sys.executable, "-m", "orbiter.cli", "start", "worker", "--worker-id", name, *SETTINGS]
        command += ["--redis-url", self.proxies[side].url, "--heartbeat-ttl", str(LEASES[side])]
        command += ["--concurrency", str(CONCURRENCY[side]), "--allow-import", "tests.integration.noted_jobs"]
        env = environment(RUN_NOTES=str(self.notes), RUN_NOTES_BY=name)
        log = self.directory / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=env, cwd=WORKER_DIRECTORY)
        self.members.append(Member(name, side, process, log))

    async def _keep(self, side: str) -> None:
        """Start another worker where one has exited, as systemd would: what follows is worth seeing as well."""
        while True:
            member = self.member(side)
            while (code := member.process.poll()) is None:
                if not member.ready:
                    with contextlib.suppress(RedisError, OSError):
                        state = await self._fleet.client.hget(keys.worker(member.name), "state")
                        member.ready = state == "running"
                await asyncio.sleep(0.1)
            self._failed("a worker exits", member.name, f"code {code} after {self.now():.1f} s")
            self.note(f"{member.name} has exited with {code}", side)
            self._start(side)

    def _signal(self, side: str, number: signal.Signals) -> bool:
        member = self.member(side)
        # One that is starting has no handlers yet.
        if member.ready and member.process.poll() is None:
            member.process.send_signal(number)
            self.note(f"{number.name} to {member.name}", side)
            return True
        return False

    async def _end_workers(self) -> None:
        for member in self.members:
            if member.process.poll() is None:
                member.process.terminate()
        for member in self.members:
            try:
                async with asyncio.timeout(within := 15 * self.slowness):
                    await _ended(member.process)
            except TimeoutError:
                self._failed("a worker exits", member.name, f"it did not drain within {within:.0f} s of SIGTERM")
                member.process.kill()
            code = member.process.wait()
            if code and member is self.member(member.side) and not self.server_ended:
                self._failed("a worker exits", member.name, f"code {code} after SIGTERM")

    # -- tasks ---------------------------------------------------------------------------------------------------

    async def _submit(self) -> None:
        async with asyncio.TaskGroup() as group:
            for at, works in bursts(self.works):
                await self._until(at)
                await self._fleet.broker.submit_many([work.task for work in works])
                self.submitted |= dict.fromkeys((work.task.task_id for work in works), time.monotonic())
                for work in works:
                    if work.cancel_at is not None:
                        group.create_task(self._cancel(work, work.cancel_at))

    async def _cancel(self, work: Work, at: float) -> None:
        await self._until(at)
        said = await self._fleet.broker.cancel(work.task.task_id)
        self.cancelled[work.task.task_id] = f"{said} at {self.now():.2f}"

    # -- faults --------------------------------------------------------------------------------------------------

    async def _strike(self, fault: Fault) -> None:
        await self._until(fault.at)
        if fault.kind == "pause":
            await self._pause(fault)
            return
        for side in set(self.sides).intersection(fault.sides):
            proxy = self.proxies[side]
            links = proxy.links
            if fault.one is not None and fault.kind != "stall":
                links = links[int(fault.one * len(links)) :][:1]
            self._strike_links(fault, side, proxy, links)

    def _strike_links(self, fault: Fault, side: str, proxy: FaultsProxy, links: list[Link]) -> None:
        until = time.monotonic() + fault.seconds
        what = fault.kind
        if fault.kind == "reset":
            proxy.reset(links)
        elif fault.kind == "cut":
            proxy.cut(links)
        elif fault.kind == "hold":
            proxy.hold(links, until, ways=fault.ways, new=fault.new)
            what += f" {'+'.join(fault.ways)}{' and new ones' if fault.new else ''}"
        elif fault.kind == "slow":
            proxy.slow(links, until, latency=fault.seconds / 10)
        else:
            proxy.cut(links)
            proxy.hold([], until, new=True)
        if fault.seconds:
            what += f" for {fault.seconds:.1f} s"
        named = ", ".join(map(str, links)) or "none"
        self.note(f"{what}, {side}: {named}", side, seconds=fault.seconds)

    async def _pause(self, fault: Fault) -> None:
        mode = "WRITE" if fault.writes_only else "ALL"
        self.note(f"CLIENT PAUSE {mode}, {fault.seconds:.1f} s", seconds=fault.seconds)
        await self._fleet.client.execute_command("CLIENT", "PAUSE", int(fault.seconds * 1000), mode)
        if fault.quiet in self.sides:
            await self._until(fault.at + fault.seconds / 2)
            if self._signal(fault.quiet, signal.SIGUSR1):
                await self._until(min(fault.at + fault.seconds / 2 + fault.until_resumed, SECONDS))
                self._signal(fault.quiet, signal.SIGUSR2)


async def _ended(process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        await asyncio.sleep(0.05)
