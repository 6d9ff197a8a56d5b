"""Plays what a seed makes: a Redis, four workers under a parent that restarts them, producers, readers, and faults."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from tests import keys
from tests.faults_proxy import FaultsProxy, Link, faults_proxy
from tests.fleet import QUEUE, Fleet, leftovers
from tests.servers import Server, eventually
from tests.support import WORKER_DIRECTORY, environment

from chaos import plan
from chaos.history import Claim, Event, Exit, Happened, History, Reader, Record, Run, Sample, Submitted
from chaos.plan import Fault, Work
from orbiter.dev.tied import tied
from orbiter.distributed import Client
from orbiter.distributed.broker.store import decode
from orbiter.distributed.connection.redis_url import connect
from orbiter.distributed.models import TaskPayload, is_final

LEASE = 3
SLOTS = 8
# Long, as workers may have to start on a busy machine; what heals takes a few leases.
HEAL_WITHIN = 180.0
READERS_WITHIN = 20.0
# AOF as documented for production; a script may not run into a snapshot.
REDIS = ('save ""', "appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction")
SETTINGS = ("--retry-backoff", "0.2", "--stall-timeout", "2", "--log-level", "info")
SETTINGS += ("--max-rss-per-process", "400000000")
# Of the workers, in order: how many executor processes each has.
ISOLATION = (("--processes", "1"), ("--processes", "2"), ("--processes", "1"), ("--processes", "2"))
FAILED = (RedisError, OSError, TimeoutError)


class Member:
    """A place in the fleet: a worker's id, and the process that has it now."""

    def __init__(self, name: str, url: str, options: tuple[str, ...], directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self.asked: list[str] = []
        self._env = environment(RUN_NOTES=str(directory / "notes"), RUN_NOTES_BY=name)
        command = [sys.executable, "-m", "orbiter.cli", "start", "worker", "--worker-id", name, "--redis-url", url]
        command += ["--concurrency", str(SLOTS), "--allow-import", "chaos.jobs"]
        self._command = tied([*command, *SETTINGS, *options], signal.SIGKILL)
        self.start()

    def start(self) -> None:
        """Start its process, the first or another one."""
        self.asked = []
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self._command, stdout=output, stderr=output, env=self._env, cwd=WORKER_DIRECTORY
            )

    def send(self, number: signal.Signals) -> bool:
        """Send it a signal; tell whether it was there."""
        if self.process.poll() is not None:
            return False
        self.asked.append(number.name)
        self.process.send_signal(number)
        return True

    def executors(self) -> list[psutil.Process]:
        """Return its executor processes."""
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.process.pid).children()
        return []


class Play:
    """One run.

    Args:
        seed: What everything is drawn from.
        duration: Seconds for which tasks are submitted and faults happen.
        directory: Where logs and notes go.
        kinds: Which kinds of fault there are.
        lease: Seconds.
        rate: Tasks a second.
        poison: Whether there are tasks that do harm to their process.
        drain: Seconds for which a worker that ends waits for its tasks.
    """

    def __init__(
        self,
        seed: int,
        duration: float,
        directory: Path,
        *,
        kinds: Collection[str] = tuple(plan.FAULTS),
        lease: int = LEASE,
        rate: float = plan.TASKS_A_SECOND,
        poison: bool = True,
        drain: float = 2.0,
    ) -> None:
        self.directory = directory
        self.history = History(seed, duration, lease)
        self._works = plan.draw_work(seed, duration, rate=rate, poison=poison)
        self._faults = plan.draw_faults(seed, duration, kinds)
        self._lease = lease
        self._drain = drain
        self._notes = directory / "notes"
        self._notes.mkdir(parents=True)
        self._redis_free = asyncio.Lock()
        self._members: list[Member] = []
        self._proxies: list[FaultsProxy] = []
        self._readers: set[asyncio.Task[None]] = set()
        self._tasks_of: dict[str, str] = {}
        self._alive: dict[str, float] = {}
        self._dead: set[str] = set()
        self._first_ends: dict[str, str] = {}

    # -- from beginning to end -------------------------------------------------------------------------------------

    async def run(self) -> History:
        """Play it, and return what is known then."""
        server = Server.launch(self.directory, *REDIS)
        try:
            await asyncio.to_thread(eventually, server.answers, what="the server answers")
            await self._with_server(server)
        finally:
            for member in self._members:
                with contextlib.suppress(psutil.Error):
                    for process in [*psutil.Process(member.process.pid).children(recursive=True)]:
                        process.kill()
                member.process.kill()
                member.process.wait()
            with contextlib.suppress(OSError):
                server.process.send_signal(signal.SIGCONT)
            server.kill()
        self._read_notes()
        (self.directory / "history.json").write_text(self.history.to_json())
        return self.history

    async def _with_server(self, server: Server) -> None:
        self._server = server
        self._url = f"redis://127.0.0.1:{server.port}/0"
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(plan.PROXIED):
                proxy = await stack.enter_async_context(faults_proxy(server.port))
                # What was said is for nobody to read here, and a run may last for hours.
                proxy.trace = deque(maxlen=1)  # type: ignore[assignment]
                self._proxies.append(proxy)
            self._admin, self._looker = _plain(server.port), _plain(server.port)
            stack.push_async_callback(self._admin.aclose)
            stack.push_async_callback(self._looker.aclose)
            client = connect(self._url)
            stack.push_async_callback(client.aclose)
            self._fleet = Fleet(self._url, client)
            await self._fleet.broker.ensure_group()
            urls = [proxy.url for proxy in self._proxies] + [self._url] * (plan.WORKERS - plan.PROXIED)
            options = ("--heartbeat-ttl", str(self._lease), "--drain-timeout", str(self._drain))
            self._members = [
                Member(f"w{n}", url, (*options, *ISOLATION[n]), self.directory) for n, url in enumerate(urls)
            ]
            async with (
                self._producers() as producers,
                _background(self._keep(), self._watch_runs(), self._watch_queue()),
            ):
                await self._all_ready()
                await self._minutes(producers)
                await self._heal()
                await self._look()
            await self._end_workers()

    @asynccontextmanager
    async def _producers(self) -> AsyncIterator[list[Client]]:
        async with Client(self._url, name="near") as near, Client(self._proxies[0].url, name="far") as far:
            yield [near, far]
            for reader in self._readers:
                reader.cancel()
            await asyncio.gather(*self._readers, return_exceptions=True)

    async def _all_ready(self) -> None:
        async with asyncio.timeout(120):
            while True:
                states = [await self._admin.hget(keys.worker(member.name), "state") for member in self._members]
                if states == ["running"] * len(states):
                    return
                await asyncio.sleep(0.1)

    async def _minutes(self, producers: list[Client]) -> None:
        self.history.began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for work in self._works:
                group.create_task(self._produce(work, producers))
            for fault in self._faults:
                group.create_task(self._strike(fault))
            group.create_task(self._until(self.history.duration))
        self.history.over = time.monotonic()
        with contextlib.suppress(*FAILED):
            for task in await self._fleet.store.get_many(list(self.history.submitted)):
                if task and task.status.terminal:
                    self._first_ends[task.task_id] = str(task.status)

    async def _until(self, at: float) -> None:
        await asyncio.sleep(self.history.began + at - time.monotonic())

    async def _heal(self) -> None:
        """Wait until every task has ended and the queue is empty, for as long as that may take."""
        left = [task for task, known in self.history.submitted.items() if known.accepted is not None]
        until = time.monotonic() + HEAL_WITHIN
        while time.monotonic() < until:
            with contextlib.suppress(*FAILED):
                tasks = await self._fleet.store.get_many(left)
                left = [i for i, task in zip(left, tasks, strict=True) if task and not task.status.terminal]
                if not left and await self._fleet.is_empty():
                    self.history.healed = time.monotonic()
                    break
            await asyncio.sleep(0.2)
        if self._readers:
            await asyncio.wait(set(self._readers), timeout=READERS_WITHIN)

    async def _end_workers(self) -> None:
        for member in self._members:
            member.send(signal.SIGTERM)
        for member in self._members:
            try:
                await asyncio.to_thread(member.process.wait, 20)
            except subprocess.TimeoutExpired:
                self.history.leftovers.append(f"{member.name} did not drain within 20 s of SIGTERM")
                continue
            self._exited(member)

    # -- producers and readers -------------------------------------------------------------------------------------

    async def _produce(self, work: Work, producers: list[Client]) -> None:
        await self._until(work.at)
        now, until_due = time.monotonic(), work.delay
        known = Submitted(work.kind, list(work.ends), work.guilty, began=now)
        self.history.submitted[work.task_id] = known
        config = {"runtime": "callable", "target": f"chaos.jobs:{work.job}", "name": work.kind}
        payload = TaskPayload(
            task_id=work.task_id,
            agent_config=config,
            metadata=work.metadata,
            not_before=time.time() + until_due if until_due else None,
            **work.options,
        )
        known.not_before = now + until_due if until_due else 0.0
        first = hash(work.at) % len(producers)
        clients = [producers[(first + n) % len(producers)] for n in range(work.times)]
        await asyncio.gather(*(self._submit(client, payload, known) for client in clients))
        if work.read:
            reading = asyncio.ensure_future(self._read(clients[0], work.task_id))
            self._readers.add(reading)
            reading.add_done_callback(self._readers.discard)
        if work.cancel_after is not None:
            await asyncio.sleep(work.cancel_after)
            known.cancel_asked = time.monotonic()
            await self._insist(lambda: clients[0].cancel(work.task_id))

    async def _submit(self, client: Client, payload: TaskPayload, known: Submitted) -> None:
        await self._insist(lambda: client.broker.submit(payload))
        known.accepted = known.accepted or time.monotonic()

    async def _insist(self, step: Any) -> None:
        """Do something until Redis says that it is done: sending it again changes nothing."""
        while True:
            try:
                await step()
            except FAILED:
                await asyncio.sleep(0.2)
            else:
                return

    async def _read(self, client: Client, task_id: str) -> None:
        reader = Reader(task_id, time.monotonic())
        self.history.readers.append(reader)
        last = None
        try:
            async for event in client.stream(task_id):
                last = event
        except FAILED as error:
            reader.how = f"raised {type(error).__name__}"
        else:
            reader.how = "final" if last is not None and is_final(last) else "no final event"
        reader.ended = time.monotonic()

    # -- the parent of the workers, and what is watched --------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            for member in self._members:
                if member.process.poll() is not None:
                    self._exited(member)
                    member.start()
            await asyncio.sleep(0.05)

    def _exited(self, member: Member) -> None:
        self.history.exits.append(Exit(member.name, time.monotonic(), member.process.returncode, member.asked))

    async def _watch_runs(self) -> None:
        """Note until when the processes live that have run something; and what the fleet takes."""
        sampled = 0.0
        while True:
            now = time.monotonic()
            for name in {path.name for path in self._notes.iterdir()} - self._dead:
                if _lives(int(name.removesuffix(".jsonl").rpartition("-")[2])):
                    self._alive[name] = now
                else:
                    self._alive.setdefault(name, now)
                    self._dead.add(name)
            if now - sampled > 2:
                sampled = now
                with contextlib.suppress(*FAILED, psutil.Error):
                    await self._sample()
            await asyncio.sleep(0.05)

    async def _sample(self) -> None:
        sample = Sample(time.monotonic())
        for member in self._members:
            process = psutil.Process(member.process.pid)
            sample.workers.append(process.memory_info().rss)
            sample.descriptors += process.num_fds()
        # Not while Redis is away: what follows is a look at it.
        info = await self._looker.info("clients")
        sample.connections = info["connected_clients"]
        sample.consumers = len(await self._looker.xinfo_consumers(QUEUE, keys.group(QUEUE)))
        sample.keys = await self._looker.dbsize()
        self.history.samples.append(sample)

    async def _watch_queue(self) -> None:
        """Look at the pending list again and again: whose claim each entry is, and when it was last renewed."""
        client = _plain(self._server.port)
        try:
            while True:
                with contextlib.suppress(*FAILED):
                    await self._look_at_claims(client)
                await asyncio.sleep(0.08)
        finally:
            await client.aclose()

    async def _look_at_claims(self, client: Redis) -> None:
        asked = time.monotonic()
        rows = await client.xpending_range(QUEUE, keys.group(QUEUE), "-", "+", 200)
        for entry in [row["message_id"] for row in rows if row["message_id"] not in self._tasks_of]:
            for _, fields in await client.xrange(QUEUE, entry, entry):
                with contextlib.suppress(ValueError, KeyError):
                    self._tasks_of[entry] = json.loads(fields["payload"])["task_id"]
        for row in rows:
            task = self._tasks_of.get(row["message_id"])
            if task is None:
                continue
            renewed = asked - row["time_since_delivered"] / 1000
            claims = self.history.claims.setdefault(task, [])
            place = row["message_id"], row["times_delivered"], row["consumer"]
            if claims and (claims[-1].entry, claims[-1].deliveries, claims[-1].worker) == place:
                claims[-1].renewed = max(claims[-1].renewed, renewed)
            else:
                claims.append(Claim(*place, first=renewed, renewed=renewed))

    # -- faults ----------------------------------------------------------------------------------------------------

    async def _strike(self, fault: Fault) -> None:
        await self._until(fault.at)
        began = time.monotonic()
        text = ""
        try:
            text = await self._do(fault, self._members[fault.worker]) or ""
        except FAILED as error:
            text = f"not done: {error!r}"
        except psutil.NoSuchProcess:
            text = "not done: it was gone"
        of_one = fault.kind not in plan.OF_REDIS and fault.kind != "kill clients"
        worker = self._members[fault.worker].name if of_one else ""
        self.history.faults.append(Happened(fault.kind, began, time.monotonic(), worker, text))

    async def _do(self, fault: Fault, member: Member) -> str | None:
        match fault.kind:
            case "kill worker":
                member.send(signal.SIGKILL)
            case "end worker":
                member.send(signal.SIGTERM)
            case "end worker, hurry":
                member.send(signal.SIGTERM)
                await asyncio.sleep(0.1 + fault.draw)
                member.send(signal.SIGTERM)
            case "freeze worker":
                with_children = fault.draw < 0.4
                frozen = [psutil.Process(member.process.pid), *(member.executors() if with_children else [])]
                await _freeze(frozen, fault.seconds)
                return "with its executor processes" if with_children else "alone"
            case "kill executor" | "freeze executor":
                found = member.executors()
                if not found:
                    return "not done: it has none"
                chosen = found[int(fault.draw * len(found))]
                if fault.kind == "kill executor":
                    chosen.kill()
                else:
                    await _freeze([chosen], fault.seconds)
            case "delay" | "drop" | "reset" | "half-open":
                return await self._break_network(fault, self._proxies[fault.worker])
            case _:
                # One at a time: a server that is being restarted cannot be killed.
                async with self._redis_free:
                    return await self._break_redis(fault)
        return None

    async def _break_network(self, fault: Fault, proxy: FaultsProxy) -> str:
        links, until = self._some_links(fault, proxy), time.monotonic() + fault.seconds
        if fault.kind == "delay":
            proxy.slow(links, until, latency=0.02 + 0.3 * fault.draw)
        elif fault.kind == "drop":
            proxy.hold(links, until, new=len(links) == len(proxy.links))
        elif fault.kind == "reset":
            proxy.reset(links)
        else:
            for link in links:
                link.lose_server(until)
        await asyncio.sleep(fault.seconds)
        return f"{len(links)} connections"

    def _some_links(self, fault: Fault, proxy: FaultsProxy) -> list[Link]:
        """Return all connections, or one of them."""
        links = proxy.links
        return links if fault.draw < 0.5 else links[int((fault.draw - 0.5) * 2 * len(links)) :][:1]

    async def _break_redis(self, fault: Fault) -> str | None:
        server = self._server
        match fault.kind:
            case "freeze redis":
                await _freeze([psutil.Process(server.process.pid)], fault.seconds)
            case "restart redis":
                server.process.terminate()
                await asyncio.to_thread(server.start)
                await asyncio.to_thread(eventually, server.answers, what="the server answers")
            case "kill redis":
                await asyncio.to_thread(server.kill)
                await asyncio.sleep(2 * fault.draw)
                server.start()
                await asyncio.to_thread(eventually, server.answers, what="the server answers")
            case "pause clients":
                mode = "ALL" if fault.draw < 0.5 else "WRITE"
                await self._admin.execute_command("CLIENT", "PAUSE", int(fault.seconds * 1000), mode)
                await asyncio.sleep(fault.seconds)
                return mode
            case "kill clients":
                for kind in ("normal", "pubsub") if fault.draw < 0.5 else ("normal",):
                    await self._admin.execute_command("CLIENT", "KILL", "TYPE", kind)
            case "fill redis":
                await self._admin.config_set("maxmemory", "1mb")
                await asyncio.sleep(fault.seconds)
                await self._insist(lambda: self._admin.config_set("maxmemory", "0"))
        return None

    # -- what there is in the end ------------------------------------------------------------------------------------

    async def _look(self) -> None:
        queue = {
            json.loads(fields.get("payload", "{}")).get("task_id") for _, fields in await self._admin.xrange(QUEUE)
        }
        queue |= set(await self._admin.zrange(keys.tagged(QUEUE, "delayed"), 0, -1))
        for task_id in self.history.submitted:
            fields = await self._admin.hgetall(keys.task(task_id))
            if not fields:
                continue
            task = decode(fields, task_id)
            result = task.result or {}
            self.history.records[task_id] = Record(
                status=str(task.status),
                attempt=task.attempt,
                retries=task.retries,
                losses=task.losses,
                crashes=task.crashes,
                handoffs=task.handoffs,
                worker=task.worker_id or "",
                error_type=task.error_type or "",
                error=task.error or "",
                said_by=[result["attempt"], result["worker"]] if "worker" in result else [],
                held=task_id in queue,
                first_end=self._first_ends.get(task_id, ""),
            )
            events = await self._fleet.events(task_id)
            self.history.events[task_id] = [
                Event(event.attempt, event.seq, event.type, is_final(event), str(getattr(event, "status", "")))
                for event in events
            ]
        self.history.leftovers += await leftovers(self._fleet)

    def _read_notes(self) -> None:
        for path in sorted(self._notes.iterdir()):
            worker, _, pid = path.name.removesuffix(".jsonl").rpartition("-")
            dead = self._alive.get(path.name) if path.name in self._dead else None
            runs: dict[tuple[str, int], Run] = {}
            for line in path.read_text().splitlines():
                said = json.loads(line)
                place = said["task"], said["attempt"]
                if said["what"] == "begins":
                    runs[place] = Run(*place, worker, int(pid), said["at"], alive_until=dead)
                    self.history.runs.append(runs[place])
                else:
                    runs[place].ended, runs[place].how = said["at"], said["what"]
        self.history.runs.sort(key=lambda run: run.began)


def _plain(port: int) -> Redis:
    """Return a client that tries once and tells at once."""
    once = Retry(NoBackoff(), 0)
    return Redis(host="127.0.0.1", port=port, decode_responses=True, socket_timeout=10, protocol=2, retry=once)


@asynccontextmanager
async def _background(*works: Any) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _freeze(processes: list[psutil.Process], seconds: float) -> None:
    try:
        for process in processes:
            process.suspend()
        await asyncio.sleep(seconds)
    finally:
        for process in reversed(processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}
