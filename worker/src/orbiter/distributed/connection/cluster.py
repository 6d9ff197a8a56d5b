"""ClusterClient: redis-py's cluster client, as our code needs it.

What redis-py 8.1 does in a cluster, read in its source and tried:

- A pipeline is cut by node and sent to the nodes side by side; scripts in it must have been loaded beforehand, and a
  script whose keys lie in several slots is refused by the client itself.
- Commands without a key (PING, TIME) go to a node of the client's choice.
- ``max_connections`` counts for each node, and a caller who finds them all in use gets an error instead of waiting.
- Failures to find the cluster are ``RedisClusterException``, which is no ``RedisError``.
- Pub/sub goes to one node of its choice; PUBLISH on any node reaches it, as the cluster bus carries it.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

from redis.asyncio.cluster import ClusterNode, ClusterPipeline, ClusterPubSub, RedisCluster
from redis.exceptions import ConnectionError, RedisClusterException  # noqa: A004 - redis' own
from redis.maint_notifications import MaintNotificationsConfig

from orbiter.distributed.connection.transports import KEEPALIVE, PlainConnection, TlsConnection, hang_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redis.asyncio.retry import Retry

# As many callers as a worker has parts may want the same node at the same time, and nobody waits for a free connection.
LEAST_CONNECTIONS = 8
LEARN_WITHIN = 5.0


class ClusterClient(RedisCluster):
    """A client of a cluster whose failures are all ``RedisError``.

    Args:
        hosts: Some nodes; the others are learnt from them.
        max_connections: For each node.
        retry: Of commands, after the cluster was asked for its nodes again.
        client_name: Shown in ``CLIENT LIST``.
        one_each: Whether callers share one connection to each node, and wait for each other.
        options: Login and TLS options, as a connection takes them.
    """

    def __init__(
        self,
        hosts: Sequence[tuple[str, int]],
        *,
        max_connections: int,
        retry: Retry,
        client_name: str | None,
        one_each: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            startup_nodes=[ClusterNode(host, port) for host, port in hosts],
            max_connections=max(max_connections, LEAST_CONNECTIONS),
            retry=retry,
            client_name=client_name,
            decode_responses=True,
            encoding_errors="replace",
            socket_timeout=None,
            socket_connect_timeout=2,
            socket_keepalive=True,
            socket_keepalive_options=KEEPALIVE,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            ssl=(secure := "ssl_cert_reqs" in options),
            **options,
        )
        # redis-py takes no class here; nodes that are learnt later are made with these arguments, too.
        self.connection_kwargs["connection_class"] = TlsConnection if secure else PlainConnection
        for node in self.nodes_manager.startup_nodes.values():
            node.connection_class = self.connection_kwargs["connection_class"]
        # A drain hands back many tasks at the same time: they wait here, as they would for a connection of a pool.
        count = 1 if one_each else max(max_connections, LEAST_CONNECTIONS) - 2
        self._turns = _Turns(count)
        self._one_each = one_each
        self._pipelines: AbstractAsyncContextManager[Any] = self._turns if one_each else nullcontext()
        self._shut: Exception | None = None
        # Any node's clock will do; by itself the client asks all of them.
        self.command_flags["TIME"] = self.DEFAULT_NODE

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Send a command, as soon as there is a connection; two to each node are left to pipelines and pub/sub."""
        with self.learning():
            async with self._turns:
                return await super().execute_command(*args, **kwargs)

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:
        """Return a pipeline, cut by node, that may ask for the time: by itself redis-py refuses that."""
        pipeline: Any = super().pipeline(transaction, shard_hint)
        pipeline.time = lambda: pipeline.execute_command("TIME")
        execute = pipeline.execute

        async def learning(*args: Any, **kwargs: Any) -> Any:
            with self.learning():
                async with self._pipelines:
                    return await execute(*args, **kwargs)

        pipeline.execute = learning
        return cast("ClusterPipeline", pipeline)

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Learn the nodes anew after a step which failed for want of one, or was given up: its node may be frozen.

        Raises:
            ConnectionError: No node serves what was asked for.
        """
        try:
            yield
        except (RedisClusterException, KeyError) as error:
            self.forget()
            raise ConnectionError(f"no node of the cluster for this: {error}") from error
        except asyncio.CancelledError:
            self.forget()
            raise

    def pubsub(self, *args: Any, **kwargs: Any) -> ClusterPubSub:
        """Return a subscriber on one node, whichever."""
        return _PubSub(self, *args, **kwargs)

    async def open_connection(self) -> Any:
        """Return a connection of the caller's own to some master, connected.

        Raises:
            ConnectionError: No node answered.
        """
        with self.learning():
            async with self._pipelines:
                await self.initialize()
            node: Any = random.choice(self.get_primaries())  # noqa: S311 - any will do
            connection = node.connection_class(**node.connection_kwargs)
            try:
                await connection.connect()
            except (ConnectionError, OSError):
                self.forget()
                raise
            return connection

    async def shut(self, failure: Exception) -> None:
        """Close for good: who asks later gets this error."""
        self._shut = failure
        await self.aclose()

    def hang_up(self) -> None:
        """Hang up every connection in use; see :func:`~orbiter.distributed.connection.transports.hang_up`."""
        for node in self.get_nodes():
            for connection in set(node._connections).difference(node._free):  # noqa: SLF001 - nobody else knows
                hang_up(connection)

    def forget(self) -> None:
        """Learn the nodes anew before the next command."""
        self._initialize = True

    async def initialize(self, *args: Any, **kwargs: Any) -> RedisCluster:
        """Learn the nodes, unless they are known.

        Raises:
            ConnectionError: No node answered, or some slots have no owner at the moment.
        """
        if self._shut is not None:
            raise type(self._shut)(*self._shut.args)
        try:
            # A node that is frozen takes connections all the same. Another one is asked first the next time.
            learns = self._initialize
            async with asyncio.timeout(LEARN_WITHIN if learns else None):
                await super().initialize(*args, **kwargs)
                if learns and self._one_each:
                    await self._forget_first_nodes()
                return self
        except RedisClusterException as error:
            raise ConnectionError(str(error)) from error
        except TimeoutError as error:
            raise ConnectionError("the cluster's nodes: no answer") from error

    async def _forget_first_nodes(self) -> None:
        """Close what the nodes were learnt by: redis-py keeps it beside the node's other connections."""
        manager = self.nodes_manager
        for name, node in list(manager.startup_nodes.items()):
            known = manager.nodes_cache.get(name, node)
            if known is not node:
                manager.startup_nodes[name] = known
                await node.disconnect()

    async def aclose(self) -> None:
        """Close all connections, also where the nodes are to be learnt anew: redis-py takes these for closed."""
        forgotten = self._initialize
        await super().aclose()
        if forgotten and self._lock:
            async with self._lock:
                if self._initialize:
                    await self.nodes_manager.aclose()
                    await self.nodes_manager.aclose("startup_nodes")


class _Turns(asyncio.Semaphore):
    """Lets so many callers in. Who is in may enter once more: redis-py repeats a part of a pipeline as commands."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self._inside: set[asyncio.Task[Any] | None] = set()
        self._again: set[asyncio.Task[Any] | None] = set()

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if task in self._inside:
            self._again.add(task)
            return
        await self.acquire()
        self._inside.add(task)

    async def __aexit__(self, *_: object) -> None:
        task = asyncio.current_task()
        if task in self._again:
            self._again.discard(task)
            return
        self._inside.discard(task)
        self.release()


class _PubSub(ClusterPubSub):
    """A subscriber that learns the nodes where redis-py's takes them for known, and anew when its node was lost."""

    cluster: ClusterClient

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        try:
            with self.cluster.learning():
                await self.cluster.initialize()
                return await super().execute_command(*args, **kwargs)
        except (ConnectionError, OSError):
            self.cluster.forget()
            raise
