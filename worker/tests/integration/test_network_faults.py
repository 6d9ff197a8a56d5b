"""Connections that break, calls that arrive late, a paused Redis: no worker ends by it, no run goes uncounted."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvloop
from redis.exceptions import ConnectionError  # noqa: A004 - redis' own

from orbiter.distributed.broker.events import EventPublisher
from orbiter.distributed.broker.housekeeping import Housekeeping
from orbiter.distributed.broker.records import Batch, Claim
from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.connection.redis_url import connect
from orbiter.distributed.execution.endings import Completed, StopReason
from orbiter.distributed.execution.metering import TaskMeter
from orbiter.distributed.execution.slot import Slot
from orbiter.distributed.models import TaskPayload, TaskStatus, TextEvent
from orbiter.distributed.settings import WorkerSettings
from orbiter.distributed.worker.fetcher import Fetcher
from orbiter.distributed.worker.flow import ClaimFlow
from orbiter.distributed.worker.settler import Settler
from orbiter.distributed.worker.sweeper import Sweeper
from orbiter.distributed.worker.watchdog import Watchdog
from tests import keys
from tests.faults_proxy import faults_proxy
from tests.fleet import QUEUE, Fleet, job_payload, working
from tests.servers import plain_server
from tests.support import wait_until, worker_process

LEASE = 3


# -- resets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "cut"])
def test_a_client_on_uvloop_meets_a_connection_error(redis_url: str, how: str) -> None:
    """Never what the transport raises: uvloop has a RuntimeError for a connection that was reset."""

    async def use_what_has_ended() -> None:
        async with faults_proxy(urlsplit(redis_url).port or 0) as proxy:
            client = connect(proxy.url, max_connections=1, retries=0)
            await client.ping()
            [connection] = client.connection_pool._available_connections  # type: ignore[attr-defined]
            getattr(proxy, how)(proxy.links)
            with pytest.raises(ConnectionError):  # noqa: PT012 - the first ones may still get away
                for _ in range(200):
                    await connection.send_command("PING")
                    await asyncio.sleep(0.01)
            # The next command connects anew.
            assert await client.ping()
            await client.aclose()

    uvloop.run(use_what_has_ended())


@pytest.mark.parametrize("which", [slice(None), *(slice(n, n + 1) for n in range(4))], ids=["all", *"0123"])
async def test_a_worker_reconnects_after_resets(fleet: Fleet, redis_url: str, tmp_path: Path, which: slice) -> None:
    task_id = await fleet.submit("sleep", metadata={"seconds": 2})
    async with faults_proxy(urlsplit(redis_url).port or 0) as proxy:
        options = "--heartbeat-ttl", str(LEASE), "--concurrency", "2"
        starting = partial(worker_process, proxy.url, "w1", tmp_path / "worker.log", *options)
        async with in_thread(starting) as process:
            await fleet.runs(task_id)
            await wait_until(lambda: len(proxy.links) == 4)
            proxy.reset(proxy.links[which])
            task = await fleet.ends(task_id)
            assert await fleet.ends(await fleet.submit("echo"))
            assert process.poll() is None
        assert process.returncode == 0
    assert (task.status, task.attempt, task.losses, task.crashes) == (TaskStatus.COMPLETED, 1, 0, 0)


@contextlib.asynccontextmanager
async def in_thread(starting: Callable[[], Any]) -> AsyncIterator[Any]:
    """Enter and leave what blocks while the event loop, and so the proxy, goes on."""
    manager = starting()
    entered = await asyncio.to_thread(manager.__enter__)
    try:
        yield entered
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


# -- calls that arrive late --------------------------------------------------------------------------------------------


async def claimed_late(fleet: Fleet, number: int) -> list[str]:
    """Claim tasks for w1 behind its back, as a call does that its worker gave up and that arrives all the same."""
    task_ids = await fleet.submit_many("echo", number)
    assert len(await fleet.broker.fetch("w1", number)) == number
    return task_ids


async def check_free_of_charge(fleet: Fleet, task_ids: list[str], *, handoffs: int) -> None:
    for task in await fleet.all_end(task_ids, 20):
        assert (task.status, task.losses, task.crashes, task.handoffs) == (TaskStatus.COMPLETED, 0, 0, handoffs)
        assert task.attempt == 1 + handoffs
    await fleet.check_invariants(task_ids)


async def nobody_holds(fleet: Fleet, task_ids: list[str], *, others: int = 0) -> bool:
    pending = (await fleet.client.xpending(QUEUE, keys.group(QUEUE)))["pending"]
    tasks = await fleet.store.get_many(task_ids)
    return pending == others and all(task and task.status == TaskStatus.PENDING for task in tasks)


async def test_a_quiet_worker_requeues_claims_that_it_does_not_hold(fleet: Fleet) -> None:
    async with working(fleet, worker_id="w1", heartbeat_ttl=LEASE) as worker:
        worker.quiet()
        await wait_until(lambda: worker.state == "quiet")
        task_ids = await claimed_late(fleet, 3)
        await wait_until(lambda: nobody_holds(fleet, task_ids))
        worker.resume()
        await check_free_of_charge(fleet, task_ids, handoffs=1)


async def test_a_busy_worker_requeues_claims_that_it_does_not_hold(fleet: Fleet) -> None:
    async with working(fleet, worker_id="w1", heartbeat_ttl=LEASE, concurrency=1):
        busy = await fleet.submit("sleep", metadata={"seconds": 60})
        await fleet.runs(busy)
        task_ids = await claimed_late(fleet, 2)
        await wait_until(lambda: nobody_holds(fleet, task_ids, others=1))
        async with working(fleet, worker_id="w2", heartbeat_ttl=LEASE):
            for task in await fleet.all_end(task_ids, 20):
                assert (task.worker_id, task.losses, task.crashes, task.handoffs) == ("w2", 0, 0, 1)
        await fleet.broker.cancel(busy)


async def test_a_worker_runs_claims_that_it_does_not_hold(fleet: Fleet, redis_url: str, tmp_path: Path) -> None:
    async def reads() -> bool:
        return any("b" in client["flags"] for client in await fleet.client.client_list())

    starting = partial(worker_process, redis_url, "w1", tmp_path / "worker.log", "--heartbeat-ttl", str(LEASE))
    async with in_thread(starting) as process:
        await wait_until(reads)
        process.send_signal(signal.SIGSTOP)
        try:
            # Its read has ended: what is submitted now does not go to it.
            await wait_until(lambda: not_(reads()))
            task_ids = await claimed_late(fleet, 1)
        finally:
            process.send_signal(signal.SIGCONT)
        await check_free_of_charge(fleet, task_ids, handoffs=0)


async def not_(condition: Any) -> bool:
    return not await condition


# -- the fetcher -------------------------------------------------------------------------------------------------------


class Watched(TaskBroker):
    """A broker whose calls a test looks into."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self.recovered: Callable[[], None] = lambda: None
        self.start_takes: list[float] = []

    async def recover(self, *args: Any, **kwargs: Any) -> Any:
        found = await super().recover(*args, **kwargs)
        self.recovered()
        return found

    async def start(self, *args: Any, **kwargs: Any) -> Any:
        started = await super().start(*args, **kwargs)
        if self.start_takes:
            await asyncio.sleep(self.start_takes.pop())
        return started


class Fetching:
    """A fetcher of w1's with one slot.

    Attributes:
        flow: The flow of its claims.
        held: What runs, by entry id.
        begun: The claims that were begun, in order.
        late: For each of them, whether its lease had run out.
    """

    def __init__(self, fleet: Fleet, lease: float) -> None:
        self.lease = lease
        self.late: list[bool] = []
        self.flow = ClaimFlow(1, lease=lease)
        self.flow.heard = math.inf
        self.held: Any = self.flow.runs.held
        self.begun: list[Claim] = []
        self.broker = Watched(fleet.url, client=fleet.client)
        self.fetcher = Fetcher(
            self.broker,
            connect(fleet.url, max_connections=1, retries=0),
            Sweeper(Housekeeping(self.broker), "w1", lease=lease),
            flow=self.flow,
            slots=self,
            meter=TaskMeter(QUEUE, "w1"),
            watchdog=Watchdog(60),
            worker_id="w1",
            queue=QUEUE,
            lease=lease,
        )

    def begin(self, claim: Claim, problem: object, asked: float) -> None:
        self.late.append(time.monotonic() > asked + self.lease)
        self.held[claim.entry_id] = claim
        self.begun.append(claim)

    async def __aenter__(self) -> Fetching:
        self._running = asyncio.create_task(self.fetcher.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.fetcher.stop(self._running)
        await self.fetcher._reader.aclose()


async def test_a_run_given_up_during_a_recovery_is_another_attempt(fleet: Fleet) -> None:
    task_id = await fleet.submit("echo")
    async with Fetching(fleet, 60) as fetching:
        await wait_until(lambda: fetching.begun)
        [first] = fetching.begun

        def given_up_meanwhile() -> None:
            fetching.broker.recovered = lambda: None
            del fetching.held[first.entry_id]
            fetching.flow.give_up(first)

        fetching.broker.recovered = given_up_meanwhile
        fetching.flow.check()
        await wait_until(lambda: len(fetching.begun) == 2)
        assert [claim.attempt for claim in fetching.begun] == [1, 2]
        task = await fleet.store.get_status(task_id)
        assert task is not None
        assert (task.attempt, task.losses, task.crashes) == (2, 1, 0)


async def test_no_run_begins_after_its_lease(fleet: Fleet) -> None:
    """The answer to the start is under way for as long as the lease; the attempt is begun with another lease."""
    # Without a record, as a 0.1 client submits: started by a call of its own.
    await fleet.client.xadd(QUEUE, {"payload": job_payload("echo").to_json()})
    async with Fetching(fleet, 1) as fetching:
        fetching.broker.start_takes = [1.0]
        began = time.monotonic()
        await wait_until(lambda: fetching.begun)
        assert time.monotonic() - began > 1
        [claim] = fetching.begun
        assert (claim.attempt, claim.deliveries) == (1, 1)
        assert fetching.late == [False]


# -- outcomes and events -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["completed", "failed", "retrying"])
async def test_an_outcome_is_not_recorded_where_its_events_were_dropped(fleet: Fleet, outcome: str) -> None:
    """The lease runs out while the events are under way."""
    task_id = await fleet.submit("echo")
    [(entry, started)] = await fleet.broker.fetch("w1", 1)
    claim = Claim(entry.entry_id, TaskPayload(task_id=task_id), started.deliveries, started.attempt, started.retries)
    sent = asyncio.Event()

    async def publish(batches: list[Batch]) -> None:
        slot.stop(StopReason.LOST)
        sent.set()

    publisher = EventPublisher(publish)
    settings = WorkerSettings.of(worker_id="w1", max_retries=3 if outcome == "retrying" else 0)
    settler = Settler(fleet.broker, publisher, ClaimFlow(1, lease=60), settings)
    slot = Slot(claim, publisher.log(task_id, 1), time.monotonic() + 60)
    recorded: list[str] = []

    async def run() -> Completed:
        slot.log.emit(TextEvent(text="one"))
        if outcome == "completed":
            return Completed({"output": "one"})
        raise RuntimeError("two")

    settling = asyncio.create_task(settler.run())
    try:
        deadlines: Any = contextlib.nullcontext()
        deadlines.remove = lambda slot: None
        slot.begin(
            run(), deadlines=deadlines, on_over=lambda slot: settler.settle(slot, lambda _, said: recorded.append(said))
        )
        await wait_until(lambda: recorded)
    finally:
        settling.cancel()
        await asyncio.wait({settling})
    assert sent.is_set()
    assert recorded == ["lost"]
    task = await fleet.store.get_status(task_id)
    assert task is not None
    assert task.status == TaskStatus.RUNNING


# -- pauses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_redis_survives_what_stops_a_worker_during_a_pause(tmp_path: Path, number: int) -> None:
    """CLIENT UNBLOCK of a paused client crashes redis-server 7.0.15; FAILOVER and a hand-over pause clients, too."""
    with plain_server(tmp_path) as server:
        log = tmp_path / "worker.log"
        with worker_process(f"redis://127.0.0.1:{server.port}/0", "w1", log) as process:
            server.ask("CLIENT", "PAUSE", 6000, "WRITE")
            # A read waits for a second; one that the pause keeps waits for longer.
            asyncio.run(wait_until(lambda: re.search("idle=[23456] flags=b", str(server.ask("CLIENT", "LIST")))))
            process.send_signal(number)
            if number == signal.SIGTERM:
                assert process.wait(15) == 0
            else:
                asyncio.run(wait_until(lambda: server.ask("HGET", keys.worker("w1"), "state") == "quiet"))
            assert server.process.poll() is None, server.log.read_text()
