"""ClusterClient: redis-py's cluster client, as our code needs it.

What redis-py 8.1 does in a cluster, read in its source and tried:

- A pipeline is cut by node and sent to the nodes side by side; scripts in it must have been loaded beforehand, and a
  script whose keys lie in several slots is refused by the client itself.
- Commands without a key (CLIENT ID, PING, TIME) go to a node of the client's choice: the id of a blocked read and the
  CLIENT UNBLOCK for it must be aimed at the node that holds the queue.
- ``max_connections`` counts for each node, and a caller who finds them all in use gets an error instead of waiting.
- Failures to find the cluster are ``RedisClusterException``, which is no ``RedisError``.
- Pub/sub goes to one node of its choice; PUBLISH on any node reaches it, as the cluster bus carries it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from redis.asyncio.cluster import ClusterNode, ClusterPipeline, ClusterPubSub, RedisCluster
from redis.exceptions import ConnectionError, RedisClusterException  # noqa: A004 - redis' own
from redis.maint_notifications import MaintNotificationsConfig

from orbiter.distributed.connections import KEEPALIVE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio.retry import Retry

# As many callers as a worker has parts may want the same node at the same time, and nobody waits for a free connection.
LEAST_CONNECTIONS = 8


class ClusterClient(RedisCluster):
    """A client of a cluster whose failures are all ``RedisError``.

    Args:
        hosts: Some nodes; the others are learnt from them.
        max_connections: For each node.
        retry: Of commands, after the cluster was asked for its nodes again.
        client_name: Shown in ``CLIENT LIST``.
        options: Login and TLS options, as a connection takes them.
    """

    def __init__(
        self,
        hosts: Sequence[tuple[str, int]],
        *,
        max_connections: int,
        retry: Retry,
        client_name: str | None,
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
            ssl="ssl_cert_reqs" in options,
            **options,
        )
        # A drain hands back many tasks at the same time: they wait here, as they would for a connection of a pool.
        self._room = asyncio.Semaphore(max(max_connections, LEAST_CONNECTIONS) - 2)
        # Any node's clock will do; by itself the client asks all of them.
        self.command_flags["TIME"] = self.DEFAULT_NODE

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Send a command, as soon as there is a connection; two to each node are left to pipelines and pub/sub."""
        async with self._room:
            return await super().execute_command(*args, **kwargs)

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:
        """Return a pipeline, cut by node, that may ask for the time: by itself redis-py refuses that."""
        pipeline: Any = super().pipeline(transaction, shard_hint)
        pipeline.time = lambda: pipeline.execute_command("TIME")
        return cast("ClusterPipeline", pipeline)

    def pubsub(self, *args: Any, **kwargs: Any) -> ClusterPubSub:
        """Return a subscriber on one node, whichever."""
        return _PubSub(self, *args, **kwargs)

    def forget(self) -> None:
        """Learn the nodes anew before the next command."""
        self._initialize = True

    async def initialize(self, *args: Any, **kwargs: Any) -> RedisCluster:
        """Learn the nodes, unless they are known.

        Raises:
            ConnectionError: No node answered, or some slots have no owner at the moment.
        """
        try:
            return await super().initialize(*args, **kwargs)
        except RedisClusterException as error:
            raise ConnectionError(str(error)) from error


class _PubSub(ClusterPubSub):
    """A subscriber that learns the nodes where redis-py's takes them for known, and anew when its node was lost."""

    cluster: ClusterClient

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        try:
            await self.cluster.initialize()
            return await super().execute_command(*args, **kwargs)
        except (ConnectionError, OSError):
            self.cluster.forget()
            raise
        except (RedisClusterException, KeyError) as error:
            self.cluster.forget()
            raise ConnectionError(f"no node of the cluster for a subscription: {error}") from error
