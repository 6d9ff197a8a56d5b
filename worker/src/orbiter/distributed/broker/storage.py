"""Storage: whether Redis keeps what it is given, server by server, and what threatens that.

``INFO`` tells nearly all of it. Whether a server takes snapshots is told by ``CONFIG GET`` alone, which also tells
passwords: a user of its own has no right to it, and Redis notes every refusal. So only the user ``default`` asks, and
for others it is unknown, unless the server has taken one. Whatever Redis does not tell is unknown, never an error.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import RedisError, ResponseError

from orbiter.distributed.connection.redis_url import check, connect_to

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio import Redis

    Ask = Callable[..., Awaitable[Any]]

KEEPS_ALL = "noeviction"
# The part of maxmemory from which on it is said that memory runs out.
NEAR = 0.9
# Seconds that a replica gets to answer; it may be where nobody but the master reaches it.
REPLICA_WITHIN = 1.0
SECTIONS = ("memory", "persistence", "replication")


class Threat(StrEnum):
    """What is wrong with a server."""

    EVICTION = "eviction"
    NOT_PERSISTENT = "not_persistent"
    REPLICA_NOT_PERSISTENT = "replica_not_persistent"
    MEMORY_NEAR_LIMIT = "memory_near_limit"


@dataclass(frozen=True, slots=True)
class Server:
    """One Redis server, as far as it tells; ``None`` stands for what it does not.

    Attributes:
        name: Host and port; empty for a master that is the only one.
        replica: Whether it follows a master.
        eviction_policy: Its ``maxmemory-policy``.
        memory_used: Bytes in use.
        memory_max: Its ``maxmemory``, 0 where there is none.
        append_only: Whether it writes an append-only file.
        snapshots: Whether it saves RDB snapshots by itself; not asked where it writes an append-only file.
    """

    name: str = ""
    replica: bool = False
    eviction_policy: str | None = None
    memory_used: int | None = None
    memory_max: int | None = None
    append_only: bool | None = None
    snapshots: bool | None = None

    @property
    def persistent(self) -> bool | None:
        """Whether a restart keeps what it has."""
        if self.append_only or self.snapshots:
            return True
        return None if self.append_only is None or self.snapshots is None else False

    @property
    def memory_share(self) -> float | None:
        """The used part of ``maxmemory``."""
        return self.memory_used / self.memory_max if self.memory_max and self.memory_used is not None else None

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{'replica' if self.replica else 'Redis'} {self.name}".rstrip()


@dataclass(frozen=True, slots=True)
class StorageWarning:
    """A threat to what a server holds.

    Attributes:
        kind: What is wrong.
        server: Which server's, as :attr:`Server.name`.
        message: The setting that was found, what it means, and the remedy, in one line.
    """

    kind: Threat
    server: str
    message: str


@dataclass(frozen=True, slots=True)
class Storage:
    """The servers that hold the fleet's data: masters first, then their replicas."""

    servers: tuple[Server, ...] = ()

    @property
    def warnings(self) -> list[StorageWarning]:
        """What threatens the data."""
        return [warning for server in self.servers for warning in _warnings(server)]

    def count(self, kind: Threat) -> int:
        """Return how many servers are threatened by this."""
        return sum(warning.kind is kind for warning in self.warnings)

    @property
    def memory_share(self) -> float:
        """The used part of ``maxmemory`` of the fullest server; 0 where none has a limit."""
        return max((server.memory_share or 0.0 for server in self.servers), default=0.0)


def _warnings(server: Server) -> list[StorageWarning]:
    found: list[tuple[Threat, str]] = []
    policy, title = server.eviction_policy, server.title
    if policy not in {None, KEEPS_ALL}:
        meaning = "when maxmemory is reached, Redis deletes tasks that wait or run"
        remedy = f"CONFIG SET maxmemory-policy {KEEPS_ALL}, and the same in redis.conf"
        found.append((Threat.EVICTION, f"{title}: maxmemory-policy is {policy}: {meaning}. Remedy: {remedy}"))
    if server.persistent is False:
        what = "appendonly is no and save is empty"
        remedy = "CONFIG SET appendonly yes, and the same in redis.conf"
        if server.replica:
            meaning = "it keeps nothing on disk, and once it is master its restart loses every task"
            found.append((Threat.REPLICA_NOT_PERSISTENT, f"{title}: {what}: {meaning}. Remedy: {remedy}"))
        else:
            meaning = f"{NOTHING_ON_DISK}, and its restart loses every task"
            found.append((Threat.NOT_PERSISTENT, f"{title}: {what}: {meaning}. Remedy: {remedy}"))
    share = server.memory_share
    if share is not None and share >= NEAR:
        full = "refuses new tasks" if policy in {None, KEEPS_ALL} else "deletes tasks"
        remedy = "raise maxmemory, keep records for a shorter time (--task-ttl), or drop dead letters"
        meaning = f"when it is full, Redis {full}"
        found.append(
            (Threat.MEMORY_NEAR_LIMIT, f"{title}: {share:.0%} of maxmemory is in use: {meaning}. Remedy: {remedy}")
        )
    return [StorageWarning(kind, server.name, message) for kind, message in found]


# Said of a server that is meant to be so by `orbiter dev`, too, which leaves it out.
NOTHING_ON_DISK = "Redis keeps nothing on disk"


async def read_storage(redis_url: str, client: Redis) -> Storage:
    """Ask every master, and every replica that answers within a second.

    Args:
        redis_url: Where Redis is; replicas are asked with its login.
        client: A client of it.

    Raises:
        redis.RedisError: A master cannot be reached.
    """
    may_configure = check(redis_url).login.get("username", "default") in ("default", "admin")
    masters, found = _masters(client), []
    replicas: dict[tuple[str, int], None] = {}
    for name, ask in masters:
        facts = await _facts(ask)
        found.append(await _server(facts, ask, name=name, may_configure=may_configure))
        replicas |= dict.fromkeys(_replicas(facts))
    looks = (_replica(redis_url, *place, may_configure=may_configure) for place in replicas)
    return Storage((*found, *await asyncio.gather(*looks)))


def _masters(client: Any) -> list[tuple[str, Ask]]:
    """Return each master's name, and how to send it a command."""
    if not hasattr(client, "get_primaries"):
        return [("", client.execute_command)]

    def asking(node: Any) -> Ask:
        return lambda *words: client.execute_command(*words, target_nodes=node)

    return [(str(node.name), asking(node)) for node in sorted(client.get_primaries(), key=lambda node: str(node.name))]


async def _facts(ask: Ask) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", await ask("INFO", *SECTIONS))
    except ResponseError:
        return {}


async def _server(facts: dict[str, Any], ask: Ask, *, name: str, may_configure: bool, replica: bool = False) -> Server:
    append_only = facts["aof_enabled"] == 1 if "aof_enabled" in facts else None
    snapshots = None
    if append_only is False:
        snapshots = await _saves(ask) if may_configure else None
        if snapshots is None and facts.get("rdb_saves"):
            snapshots = True
    return Server(
        name=name,
        replica=replica,
        eviction_policy=facts.get("maxmemory_policy"),
        memory_used=facts.get("used_memory"),
        memory_max=facts.get("maxmemory"),
        append_only=append_only,
        snapshots=snapshots,
    )


async def _saves(ask: Ask) -> bool | None:
    try:
        answer = await ask("CONFIG GET", "save")
    except ResponseError:
        # No right to it, or a Redis that is managed by somebody else and has no such command.
        return None
    pairs = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=False))
    return bool(pairs["save"].strip()) if "save" in pairs else None


def _replicas(facts: dict[str, Any]) -> list[tuple[str, int]]:
    rows = [row for name, row in facts.items() if name.startswith("slave") and isinstance(row, dict)]
    return [(str(row["ip"]), int(row["port"])) for row in rows if "ip" in row and "port" in row]


async def _replica(redis_url: str, host: str, port: int, *, may_configure: bool) -> Server:
    name = f"{host}:{port}"
    try:
        async with asyncio.timeout(REPLICA_WITHIN), connect_to(redis_url, host, port, name="orbiter-storage") as client:
            ask = client.execute_command
            return await _server(await _facts(ask), ask, name=name, may_configure=may_configure, replica=True)
    except (RedisError, OSError, TimeoutError):
        return Server(name=name, replica=True)
