"""From a Redis URL to a client, with errors that say what is wrong, and a form of the URL that is safe to print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry as SyncRetry

if TYPE_CHECKING:
    from urllib.parse import SplitResult

SCHEMES = ("redis", "rediss", "unix")


class RedisUrlError(ValueError):
    """The URL cannot be used; the message names the part, the rule and an example. It never shows a password."""


def check(url: str) -> SplitResult:
    """Return the URL's parts.

    Raises:
        RedisUrlError: The scheme, host, port or database number is wrong.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise RedisUrlError(f"Redis URL {mask(url)}: {error}; write redis://host:6379/0") from None
    if parts.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise RedisUrlError(f"Redis URL {mask(url)}: scheme must be one of {known} (redis://host:6379/0)")
    if parts.scheme == "unix":
        if not parts.path:
            raise RedisUrlError(f"Redis URL {mask(url)}: no socket path; write unix:///run/redis/redis.sock")
        return parts
    if not parts.hostname:
        raise RedisUrlError(f"Redis URL {mask(url)}: no host; write redis://host:6379/0")
    if port == 0:
        raise RedisUrlError(f"Redis URL {mask(url)}: port must be 1 to 65535")
    database = parts.path.strip("/")
    if database and not (database.isascii() and database.isdigit()):
        raise RedisUrlError(f"Redis URL {mask(url)}: database {database!r} must be a number, as in redis://host:6379/0")
    return parts


def mask(url: str) -> str:
    """Return the URL without user, password, database or query: ``redis://host:port/***``."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "redis://***"
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    if not parts.scheme or not host:
        return "redis://***"
    if ":" in host:
        host = f"[{host}]"
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}/***"


# A reply that is not UTF-8 must not end a worker: what is kept is kept in Redis, byte for byte.
_COMMON: dict[str, Any] = {"decode_responses": True, "encoding_errors": "replace", "socket_connect_timeout": 5}


def connect(url: str, *, max_connections: int = 4, retries: int = 3, name: str | None = None) -> Redis:
    """Return an asyncio client; nothing is sent yet.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        max_connections: Size of the pool; a caller waits for a free connection.
        retries: How often a command is sent again after a lost connection. Every script of ours may be sent twice.
        name: Shown in ``CLIENT LIST``.

    Raises:
        RedisUrlError: The URL cannot be used.
    """
    check(url)
    # No socket timeout: redis-py's runs every command through asyncio.wait_for, which on Python 3.11 can lose a
    # cancellation. A dead peer is noticed by keepalive and by the deadlines of those who wait.
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=None,
        socket_timeout=None,
        client_name=name,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1), retries),
        **_COMMON,
        **({} if url.startswith("unix:") else {"socket_keepalive": True}),
    )
    return Redis.from_pool(pool)


def connect_sync(url: str) -> redis.Redis:
    """Return a synchronous client, for health checks and scripts.

    Raises:
        RedisUrlError: The URL cannot be used.
    """
    check(url)
    retry = SyncRetry(ExponentialWithJitterBackoff(base=0.05, cap=1), 1)
    return redis.Redis.from_url(url, socket_timeout=5, retry=retry, **_COMMON)
