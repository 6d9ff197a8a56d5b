"""Plays what a seed makes: a Redis, four workers under a parent that restarts them, producers, readers, and faults."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import time
from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psutil
from tests import keys
from tests.faults_proxy import FaultsProxy, faults_proxy
from tests.fleet import QUEUE, Fleet, leftovers

from chaos import plan
from chaos.history import Event, Exit, Happened, History, Reader, Record, Submitted
from chaos.member import Member, Surroundings
from chaos.plan import Fault, Work
from chaos.releases import sources_of
from chaos.strikes import Strikes, plain
from chaos.topology import Topology, topology, wait_until_whole
from chaos.watch import FAILED, Watch
from orbiter.distributed import Client
from orbiter.distributed.broker.cluster_broker import broker_for
from orbiter.distributed.broker.store import decode
from orbiter.distributed.connection.redis_url import connect
from orbiter.distributed.models import TaskPayload, is_final

LEASE = 3
# Long, as workers may have to start on a busy machine; what heals takes a few leases.
HEAL_WITHIN = 180.0
READERS_WITHIN = 20.0


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
        where: Which kind of :mod:`chaos.topology` there is.
        older: A commit or tag; workers that are rolled run its sources and ours in turn.
    """

    def __init__(
        self,
        seed: int,
        duration: float,
        directory: Path,
        *,
        kinds: Collection[str] = plan.drawn_in("single"),
        lease: int = LEASE,
        rate: float = plan.TASKS_A_SECOND,
        poison: bool = True,
        drain: float = 2.0,
        where: str = "single",
        older: str = "",
    ) -> None:
        self.directory = directory
        self.history = History(seed, duration, lease, topology=where)
        self._works = plan.draw_work(seed, duration, rate=rate, poison=poison)
        self._faults = plan.draw_faults(seed, duration, kinds)
        self._shifting = "shift clock" in kinds
        self._older = older
        self._lease = lease
        self._drain = drain
        self._notes = directory / "notes"
        self._notes.mkdir(parents=True)
        self._members: list[Member] = []
        self._readers: set[asyncio.Task[None]] = set()
        self._first_ends: dict[str, str] = {}

    # -- from beginning to end -------------------------------------------------------------------------------------

    async def run(self) -> History:
        """Play it, and return what is known then."""
        with topology(self.history.topology, self.directory, QUEUE) as place:
            try:
                await self._with_place(place)
            finally:
                for member in self._members:
                    with contextlib.suppress(psutil.Error):
                        for process in psutil.Process(member.process.pid).children(recursive=True):
                            process.kill()
                    member.process.kill()
                    member.process.wait()
        self._watch.read_notes()
        (self.directory / "history.json").write_text(self.history.to_json())
        return self.history

    async def _with_place(self, place: Topology) -> None:
        self._place = place
        async with AsyncExitStack() as stack:
            proxies = [await stack.enter_async_context(faults_proxy(port)) for port in self._proxied(place)]
            for proxy in proxies:
                # What was said is for nobody to read here, and a run may last for hours.
                proxy.trace = deque(maxlen=1)  # type: ignore[assignment]
            client, looker = connect(place.url), connect(place.url)
            stack.push_async_callback(client.aclose)
            stack.push_async_callback(looker.aclose)
            server = await stack.enter_async_context(plain(place.servers[0].port))
            self._fleet = Fleet(place.url, client)
            self._any: Any = client
            await broker_for(place.url, client=client).ensure_group()
            self._members += self._start_members(place, proxies)
            self._strikes = Strikes(place, self._members, proxies)
            self._watch = Watch(self.history, self._notes, self._members, looker)
            watched = [self._keep(), self._watch.runs(), self._watch.claims()]
            watched += [self._watch.samples(server)] if len(place.servers) == 1 else []
            far = proxies[0].url if proxies else place.url
            async with self._producers(place.url, far) as producers, _background(*watched):
                await self._all_ready()
                await self._minutes(producers)
                await asyncio.to_thread(wait_until_whole, place)
                await self._heal(producers[0])
                await self._look()
            await self._end_workers()

    @staticmethod
    def _proxied(place: Topology) -> list[int]:
        """Return the ports that are reached through a proxy; where Redis tells its addresses, everybody goes there."""
        return [place.servers[0].port] * plan.PROXIED if len(place.servers) == 1 else []

    def _start_members(self, place: Topology, proxies: list[FaultsProxy]) -> list[Member]:
        options = ["--heartbeat-ttl", str(self._lease), "--drain-timeout", str(self._drain)]
        env = {}
        if place.temporal is not None:
            options += ["--executor", "temporal"]
            env["TEMPORAL_HOST"] = place.temporal.host
        older = sources_of(self._older, self.directory / "older") if self._older else None
        around = Surroundings(self.directory, tuple(options), env, self._shifting, older)
        urls = [proxy.url for proxy in proxies] + [place.url] * (plan.WORKERS - len(proxies))
        return [Member(number, url, around) for number, url in enumerate(urls)]

    @asynccontextmanager
    async def _producers(self, near_url: str, far_url: str) -> AsyncIterator[list[Client]]:
        async with Client(near_url, name="near") as near, Client(far_url, name="far") as far:
            yield [near, far]
            for reader in self._readers:
                reader.cancel()
            await asyncio.gather(*self._readers, return_exceptions=True)

    async def _all_ready(self) -> None:
        async with asyncio.timeout(120):
            while True:
                states = [await self._any.hget(keys.worker(member.name), "state") for member in self._members]
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

    async def _heal(self, producer: Client) -> None:
        """Wait until every task has ended and the queue is empty, for as long as that may take.

        Harmless tasks come meanwhile, as to any fleet in use: a worker on which nothing but poison is left cannot tell
        that from a broken host, and waits for something that ends (docs/isolation.md, "Who is to blame").
        """
        until = time.monotonic() + HEAL_WITHIN
        poisoned = any(known.guilty for known in self.history.submitted.values())
        async with _background(*([self._go_on(producer)] if poisoned else [])):
            healed = await self._all_end(until)
        if healed and await self._all_end(until, empty=True):
            self.history.healed = time.monotonic()
        if self._readers:
            await asyncio.wait(set(self._readers), timeout=READERS_WITHIN)

    async def _go_on(self, producer: Client) -> None:
        for number in count():
            work = Work(self.history.duration + number, f"c{self.history.seed}-more{number:03}", "short", "rest")
            await self._produce(work, [producer])

    async def _all_end(self, until: float, *, empty: bool = False) -> bool:
        """Tell whether all tasks that are accepted by now have ended by then (monotonic), the queue being empty."""
        left = [task for task, known in self.history.submitted.items() if known.accepted is not None]
        while time.monotonic() < until:
            with contextlib.suppress(*FAILED):
                tasks = await self._fleet.store.get_many(left)
                left = [i for i, task in zip(left, tasks, strict=True) if task and not task.status.terminal]
                if not left and (not empty or await self._fleet.is_empty()):
                    return True
            await asyncio.sleep(0.2)
        return False

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

    # -- the parent of the workers --------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            for member in self._members:
                if member.process.poll() is not None:
                    self._exited(member)
                    member.start()
            await asyncio.sleep(0.05)

    def _exited(self, member: Member) -> None:
        self.history.exits.append(Exit(member.name, time.monotonic(), member.process.returncode, member.asked))

    # -- faults ----------------------------------------------------------------------------------------------------

    async def _strike(self, fault: Fault) -> None:
        await self._until(fault.at)
        began = time.monotonic()
        text = ""
        try:
            text = await self._strikes.do(fault)
        except FAILED as error:
            text = f"not done: {error!r}"
        except psutil.NoSuchProcess:
            text = "not done: it was gone"
        of_one = fault.kind not in plan.OF_ALL
        worker = self._members[fault.worker].name if of_one else ""
        self.history.faults.append(Happened(fault.kind, began, time.monotonic(), worker, text))

    # -- what there is in the end ------------------------------------------------------------------------------------

    async def _look(self) -> None:
        queue = {json.loads(fields.get("payload", "{}")).get("task_id") for _, fields in await self._any.xrange(QUEUE)}
        queue |= set(await self._any.zrange(keys.tagged(QUEUE, "delayed"), 0, -1))
        for task_id in self.history.submitted:
            fields = await self._any.hgetall(keys.task(task_id))
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


@asynccontextmanager
async def _background(*works: Any) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        # Again and again: a call of redis-py whose time is over at that moment makes an error of a cancellation.
        while pending := [task for task in tasks if not task.done()]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=1)
        await asyncio.gather(*tasks, return_exceptions=True)
