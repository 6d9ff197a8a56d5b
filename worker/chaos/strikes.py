"""What each kind of fault does."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psutil
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from tests.faults_proxy import FaultsProxy, Link
from tests.servers import Server, eventually

from chaos import plan
from chaos.member import Member
from chaos.plan import Fault
from chaos.topology import Topology, wait_until_whole

# Seconds by which a clock is wrong at most.
WRONG = 600


class Strikes:
    """Does what was drawn.

    Args:
        place: Where Redis is.
        members: The workers.
        proxies: Of the first of them: how they reach Redis.
    """

    def __init__(self, place: Topology, members: Sequence[Member], proxies: Sequence[FaultsProxy]) -> None:
        self._place = place
        self._members = members
        self._proxies = proxies
        self._redis_free = asyncio.Lock()

    async def do(self, fault: Fault) -> str:
        """Do one, to its end; return what there is to say of it besides its kind."""
        if fault.kind in plan.OF_NETWORK:
            return await self._break_network(fault, self._proxies[fault.worker])
        if fault.kind in plan.OF_REDIS | plan.FAILOVERS | {"kill clients"}:
            # One at a time: a server that is being restarted cannot be killed.
            async with self._redis_free:
                if fault.kind in plan.FAILOVERS:
                    return await self._fail_over(fault)
                return await self._break_redis(fault, self._place.master())
        if fault.kind == "temporal away":
            return await self._stop_temporal(fault)
        return await self._break_worker(fault, self._members[fault.worker])

    # -- workers ---------------------------------------------------------------------------------------------------

    @staticmethod
    async def _break_worker(fault: Fault, member: Member) -> str:
        match fault.kind:
            case "kill worker":
                member.send(signal.SIGKILL)
            case "end worker":
                member.send(signal.SIGTERM)
            case "end worker twice":
                member.send(signal.SIGTERM)
                await asyncio.sleep(0.1 + fault.draw)
                member.send(signal.SIGTERM)
            case "roll worker":
                member.runs_older = not member.runs_older
                member.send(signal.SIGTERM)
                return "to the other release" if member.runs_older else "back to this one"
            case "shift clock":
                wrong = (2 * fault.draw - 1) * WRONG
                member.shift(wrong)
                return f"{wrong:+.0f} s"
            case "freeze worker":
                with_children = fault.draw < 0.4
                frozen = [psutil.Process(member.process.pid), *(member.executors() if with_children else [])]
                await freeze(frozen, fault.seconds)
                return "with its executor processes" if with_children else "alone"
            case "kill executor" | "freeze executor":
                found = member.executors()
                if not found:
                    return "not done: it has none"
                chosen = found[int(fault.draw * len(found))]
                if fault.kind == "kill executor":
                    chosen.kill()
                else:
                    await freeze([chosen], fault.seconds)
        return ""

    # -- the network -------------------------------------------------------------------------------------------------

    async def _break_network(self, fault: Fault, proxy: FaultsProxy) -> str:
        if fault.kind == "end deaf worker":
            return await self._end_deaf(self._members[fault.worker], proxy)
        links, until = _some_links(fault, proxy), time.monotonic() + fault.seconds
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

    @staticmethod
    async def _end_deaf(member: Member, proxy: FaultsProxy) -> str:
        """End a worker that is not told of what its read was given, and never will be."""
        readers = [link for link in proxy.links if link.role == "reader"]
        for link in readers:
            link.ways["down"].said = b""
        proxy.hold(readers, time.monotonic() + 5, ways=("down",), new=False)
        until = time.monotonic() + 2
        while not any(b"payload" in link.ways["down"].said for link in readers) and time.monotonic() < until:
            await asyncio.sleep(0.01)
        member.send(signal.SIGTERM)
        await asyncio.sleep(0.2)
        proxy.reset(readers)
        return f"{len(readers)} connections"

    # -- Redis -------------------------------------------------------------------------------------------------------

    @staticmethod
    async def _break_redis(fault: Fault, server: Server) -> str:
        match fault.kind:
            case "freeze redis":
                await freeze([psutil.Process(server.process.pid)], fault.seconds)
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
                await _ask(server, "CLIENT", "PAUSE", int(fault.seconds * 1000), mode)
                await asyncio.sleep(fault.seconds)
                return mode
            case "kill clients":
                for kind in ("normal", "pubsub") if fault.draw < 0.5 else ("normal",):
                    await _ask(server, "CLIENT", "KILL", "TYPE", kind)
            case "fill redis":
                await _ask(server, "CONFIG", "SET", "maxmemory", "1mb")
                await asyncio.sleep(fault.seconds)
                await asyncio.to_thread(
                    eventually, lambda: server.ask("CONFIG", "SET", "maxmemory", "0"), what="Redis has room again"
                )
        return ""

    async def _fail_over(self, fault: Fault) -> str:
        """Let the replica of the queue's master take over; returns once all are in step again."""
        place = self._place
        before = await asyncio.to_thread(place.master)
        match fault.kind:
            case "kill master":
                await asyncio.to_thread(before.kill)
                await self._other_than(before)
                await asyncio.sleep(fault.seconds)
            case "freeze master":
                async with _frozen([psutil.Process(before.process.pid)]):
                    await self._other_than(before)
                    await asyncio.sleep(fault.seconds)
            case "switch master":
                await asyncio.to_thread(self._switch, before)
        await asyncio.to_thread(wait_until_whole, place)
        return f"{before.port} to {place.master().port}"

    def _switch(self, before: Server) -> None:
        """Have the replica take over; by another order where one was given up, as it is on a busy machine."""
        for within in (20.0, 40.0, 60.0):
            # It may say that the one before is still being carried out.
            with contextlib.suppress(AssertionError, RedisError):
                self._place.switch()
                return eventually(lambda: self._place.master() is not before, within=within)
        raise AssertionError(f"the replica of {before.port} was not promoted by three orders")

    async def _other_than(self, server: Server) -> None:
        await asyncio.to_thread(eventually, lambda: self._place.master() is not server, what="the replica is promoted")

    async def _stop_temporal(self, fault: Fault) -> str:
        temporal = self._place.temporal
        if temporal is None:
            return "not done: there is none"
        async with self._redis_free:
            await asyncio.to_thread(temporal.kill)
            await asyncio.sleep(fault.seconds)
            await asyncio.to_thread(temporal.start)
        return ""


def plain(port: int) -> Redis:
    """Return a client that tries once and tells at once."""
    once = Retry(NoBackoff(), 0)
    return Redis(host="127.0.0.1", port=port, decode_responses=True, socket_timeout=10, protocol=2, retry=once)


async def _ask(server: Server, *command: str | int) -> Any:
    async with plain(server.port) as client:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]


def _some_links(fault: Fault, proxy: FaultsProxy) -> list[Link]:
    """Return all connections, or one of them."""
    links = proxy.links
    return links if fault.draw < 0.5 else links[int((fault.draw - 0.5) * 2 * len(links)) :][:1]


@asynccontextmanager
async def _frozen(processes: list[psutil.Process]) -> AsyncIterator[None]:
    try:
        for process in processes:
            process.suspend()
        yield
    finally:
        for process in reversed(processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


async def freeze(processes: list[psutil.Process], seconds: float) -> None:
    """Let processes do nothing for a while."""
    async with _frozen(processes):
        await asyncio.sleep(seconds)
