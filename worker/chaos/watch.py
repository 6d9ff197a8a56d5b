"""What is seen of a run from outside: which processes live, whose each claim is, what the fleet takes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from redis.asyncio import Redis
from redis.exceptions import RedisError
from tests import keys
from tests.fleet import QUEUE

from chaos.history import Claim, History, Run, Sample
from chaos.member import Member

FAILED = (RedisError, OSError, TimeoutError)
SAMPLE_EVERY = 2.0


class Watch:
    """Looks again and again, and notes what it sees in the history.

    Args:
        history: Where that goes.
        notes: The directory in which runs note their beginnings and ends.
        members: The workers.
        client: A connection of its own.
    """

    def __init__(self, history: History, notes: Path, members: Sequence[Member], client: Redis) -> None:
        self._history = history
        self._notes = notes
        self._members = members
        self._client: Any = client
        self._tasks_of: dict[str, str] = {}
        self._alive: dict[str, float] = {}
        self._dead: set[str] = set()

    async def runs(self) -> None:
        """Note until when the processes live that have run something."""
        while True:
            now = time.monotonic()
            for name in {path.name for path in self._notes.iterdir()} - self._dead:
                if _lives(int(name.removesuffix(".jsonl").rpartition("-")[2])):
                    self._alive[name] = now
                else:
                    self._alive.setdefault(name, now)
                    self._dead.add(name)
            await asyncio.sleep(0.05)

    async def claims(self) -> None:
        """Look at the pending list: whose claim each entry is, and when it was last renewed."""
        while True:
            with contextlib.suppress(*FAILED):
                async with asyncio.timeout(10):
                    await self._look_at_claims()
            await asyncio.sleep(0.08)

    async def _look_at_claims(self) -> None:
        asked = time.monotonic()
        rows = await self._client.xpending_range(QUEUE, keys.group(QUEUE), "-", "+", 200)
        for entry in [row["message_id"] for row in rows if row["message_id"] not in self._tasks_of]:
            for _, fields in await self._client.xrange(QUEUE, entry, entry):
                with contextlib.suppress(ValueError, KeyError):
                    self._tasks_of[entry] = json.loads(fields["payload"])["task_id"]
        for row in rows:
            task = self._tasks_of.get(row["message_id"])
            if task is None:
                continue
            renewed = asked - row["time_since_delivered"] / 1000
            claims = self._history.claims.setdefault(task, [])
            place = row["message_id"], row["times_delivered"], row["consumer"]
            if claims and (claims[-1].entry, claims[-1].deliveries, claims[-1].worker) == place:
                claims[-1].renewed = max(claims[-1].renewed, renewed)
            else:
                claims.append(Claim(*place, first=renewed, renewed=renewed))

    async def samples(self, server: Redis) -> None:
        """Note what the fleet takes, of processes and of one server."""
        asked: Any = server
        while True:
            with contextlib.suppress(*FAILED, psutil.Error):
                sample = Sample(time.monotonic())
                for member in self._members:
                    process = psutil.Process(member.process.pid)
                    sample.workers.append(process.memory_info().rss)
                    sample.descriptors += process.num_fds()
                    for child in process.children():
                        with contextlib.suppress(psutil.NoSuchProcess):
                            sample.children.append(child.memory_info().rss)
                # Not while Redis is away: what follows is a look at it.
                sample.connections = (await asked.info("clients"))["connected_clients"]
                sample.consumers = len(await asked.xinfo_consumers(QUEUE, keys.group(QUEUE)))
                sample.keys = await asked.dbsize()
                self._history.samples.append(sample)
            await asyncio.sleep(SAMPLE_EVERY)

    def read_notes(self) -> None:
        """Put all runs into the history, as they noted themselves."""
        for path in sorted(self._notes.iterdir()):
            worker, _, pid = path.name.removesuffix(".jsonl").rpartition("-")
            dead = self._alive.get(path.name) if path.name in self._dead else None
            runs: dict[tuple[str, int], Run] = {}
            for line in path.read_text().splitlines():
                said = json.loads(line)
                place = said["task"], said["attempt"]
                if said["what"] == "begins":
                    runs[place] = Run(*place, worker, int(pid), said["at"], alive_until=dead)
                    self._history.runs.append(runs[place])
                else:
                    runs[place].ended, runs[place].how = said["at"], said["what"]
        self._history.runs.sort(key=lambda run: run.began)


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}
