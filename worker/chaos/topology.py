"""Where the fleet's Redis is: one server, one under sentinels, or a cluster; and Temporal beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.servers import SERVICE, Cluster, Server, cluster_of_six, eventually, plain_server, sentinel_trio
from tests.temporal import TemporalServer, temporal_server

KINDS = ("single", "sentinel", "cluster", "temporal")
# Persisted as documented for production; a script may not run into a snapshot.
REDIS = ('save ""', "appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction")

# As the role has it: an old master that nobody has told yet accepts nothing any more.
REPLICATED = ("min-replicas-to-write 1", "min-replicas-max-lag 10")


@dataclass(frozen=True)
class Topology:
    """The servers that the workers of a run use.

    Attributes:
        kind: One of :data:`KINDS`.
        url: Where Redis is.
        servers: Every server that holds data.
        master: Returns the one that has the queue now.
        healthy: Starts those that have ended, and tells whether each master has its replica in step.
        switch: Makes the replica of the queue's master the master, as planned.
        temporal: Runs the tasks, where they are durable.
    """

    kind: str
    url: str
    servers: list[Server]
    master: Callable[[], Server]
    healthy: Callable[[], bool]
    switch: Callable[[], object]
    temporal: TemporalServer | None = None


@contextmanager
def topology(kind: str, directory: Path, queue: str) -> Iterator[Topology]:
    """Run one for a while."""
    with ExitStack() as stack:
        if kind == "sentinel":
            trio = stack.enter_context(sentinel_trio(directory, *REDIS, *REPLICATED))
            switch = partial(trio.sentinels[0].ask, "SENTINEL", "FAILOVER", SERVICE)
            yield Topology(kind, trio.url, trio.servers, trio.master, trio.healthy, switch)
        elif kind == "cluster":
            cluster = stack.enter_context(cluster_of_six(directory))
            master, moved = partial(cluster.master_of, queue), partial(_switch, cluster, queue)
            yield Topology(kind, cluster.url, cluster.nodes, master, cluster.healthy, moved)
        else:
            server = stack.enter_context(plain_server(directory, *REDIS))
            temporal = stack.enter_context(temporal_server(directory)) if kind == "temporal" else None
            url = f"redis://127.0.0.1:{server.port}/0"
            yield Topology(kind, url, [server], lambda: server, server.answers, lambda: None, temporal)


def _switch(cluster: Cluster, queue: str) -> None:
    """Have the replica of the queue's master take over."""
    master = cluster.master_of(queue)
    for node in cluster.nodes:
        role: Any = node.ask("ROLE")
        if role[0] == "slave" and role[2] == master.port:
            node.ask("CLUSTER", "FAILOVER")
            return


def wait_until_whole(place: Topology) -> None:
    """Wait until all of it is up and in step.

    Raises:
        AssertionError: It is not, after a minute.
    """
    eventually(place.healthy, what="Redis is whole again")
