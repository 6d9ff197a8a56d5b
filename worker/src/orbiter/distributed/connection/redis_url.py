"""From a Redis URL to a client, with errors that say what is wrong, and a form of the URL that is safe to print."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, unquote

from redis import ConnectionPool as SyncConnectionPool
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.cluster import ClusterNode
from redis.cluster import RedisCluster as SyncRedisCluster
from redis.exceptions import ConnectionError, RedisClusterException  # noqa: A004 - redis' own
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry as SyncRetry

from orbiter.distributed.connection import transports
from orbiter.distributed.connection.refusals import explained, not_allowed
from orbiter.distributed.reading import REMEDY, may_read, this_user
from orbiter.distributed.secrecy import keep_secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from orbiter.distributed.connection.shared import SharedClient

# What each scheme looks like: the last word of every message.
EXAMPLES = {
    "redis": "redis://host:6379/0",
    "rediss": "rediss://host:6379/0?ssl_ca_certs=/etc/ssl/redis-ca.pem",
    "unix": "unix:///run/redis/redis.sock",
    "redis+sentinel": "redis+sentinel://host1:26379,host2:26379/mymaster/0",
    "rediss+sentinel": "rediss+sentinel://host1:26379,host2:26379/mymaster/0",
    "redis+cluster": "redis+cluster://host1:6379,host2:6379",
    "rediss+cluster": "rediss+cluster://host1:6379,host2:6379",
}
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_OPTIONS = (*_TLS_FILES, "ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL_LOGIN = ("sentinel_username", "sentinel_password")
_SENTINEL_OPTIONS = (*_SENTINEL_LOGIN, "server_port")
_CERT_REQS = ("required", "optional", "none")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


class RedisUrlError(ValueError):
    """The URL cannot be used; the message names the part, the rule and an example. It never shows a password."""


@dataclass(frozen=True)
class RedisUrl:
    """A Redis URL, taken apart.

    Attributes:
        scheme: One of :data:`EXAMPLES`.
        hosts: Redis' host and port; the sentinels'; or some nodes of the cluster.
        path: The socket, for ``unix``.
        service: The name under which the sentinels know the master.
        server_port: The port of the sentinels' servers, whatever they say of it; 0 where it is what they say.
        db: Database number.
        login: ``username`` and ``password``, where given.
        sentinel_login: The same for the sentinels themselves.
        tls: The ``ssl_…`` options, with redis-py's names and types.
    """

    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    server_port: int = 0
    db: int = 0
    login: dict[str, str] = field(default_factory=dict, repr=False)
    sentinel_login: dict[str, str] = field(default_factory=dict, repr=False)
    tls: dict[str, Any] = field(default_factory=dict)

    @property
    def secure(self) -> bool:
        """Whether connections use TLS."""
        return self.scheme.startswith("rediss")

    @property
    def kind(self) -> str:
        """``tcp``, ``unix``, ``sentinel`` or ``cluster``."""
        return "unix" if self.scheme == "unix" else self.scheme.partition("+")[2] or "tcp"


@dataclass(frozen=True)
class _Pieces:
    """The URL's text, cut but not yet judged."""

    scheme: str
    user: str | None
    hosts: str
    path: str
    query: str
    fragment: str
    doubtful: bool


def _cut(url: str) -> _Pieces:
    # Not urlsplit: it reads one host only, and takes a password with a raw "/" for a host and a port.
    scheme, separator, rest = url.partition("://")
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    place, tail = rest[:end], rest[end:]
    user, at, hosts = place.rpartition("@")
    path, _, fragment = tail.partition("#")
    path, _, query = path.partition("?")
    # An "@" where none belongs: part of a user or password may stand anywhere before it.
    doubtful = ("@" in tail and bool(place)) or "@" in user
    return _Pieces(scheme if separator else "", user if at else None, hosts, path, query, fragment, doubtful)


def mask(url: str) -> str:
    """Return the URL without user, password, database or query: ``redis://host:port/***``."""
    pieces = _cut(url)
    if pieces.scheme not in EXAMPLES:
        return "redis://***"
    nothing = f"{pieces.scheme}://***"
    if pieces.doubtful:
        return nothing
    if pieces.scheme == "unix":
        return nothing if pieces.hosts or not pieces.path.isprintable() else f"unix://{pieces.path}"
    try:
        _hosts(pieces)
    except ValueError:
        return nothing
    return f"{pieces.scheme}://{pieces.hosts}/***"


def check(url: str) -> RedisUrl:
    """Return the URL's parts.

    Raises:
        RedisUrlError: The scheme, a host, a port, the database, the master's name or an option is wrong.
    """
    pieces = _cut(url)
    if _is_place(url):
        raise RedisUrlError(f"Redis URL {url}: no scheme before the host; write redis://{url} (rediss:// with TLS)")
    if pieces.scheme not in EXAMPLES:
        known = ", ".join(f"{scheme}://" for scheme in EXAMPLES)
        # Letters alone: whatever else stands there may be part of a password.
        shown = f"{pieces.scheme}://***" if re.fullmatch("[a-z+]{1,20}", pieces.scheme) else "***"
        raise RedisUrlError(f"Redis URL {shown}: scheme must be one of {known} (as in {EXAMPLES['redis']})")
    try:
        parts = _judge(pieces)
    except ValueError as error:
        raise RedisUrlError(f"Redis URL {mask(url)}: {error}; write {EXAMPLES[pieces.scheme]}") from None
    for login in (parts.login, parts.sentinel_login):
        keep_secret(login.get("password"))
    return parts


def explain(error: Exception, url: str) -> str:
    """Return an error of connecting to a URL in words: where, what is wrong, and what mends it."""
    return explained(error, mask(url), password=bool(check(url).login.get("password")))


def user_of(url: str) -> str:
    """Return the user of Redis that a URL names, ``default`` where it names none."""
    return check(url).login.get("username", "default")


def explain_right(error: Exception, url: str, what: str) -> str:
    """Return in words that the user of a URL lacks a right for something, and who has it."""
    return not_allowed(error, what, user_of(url))


def _is_place(url: str) -> bool:
    """Tell whether it is a host and a port and nothing besides, which may be shown: no user, no password."""
    host, _, port = url.partition(":")
    if not _HOST.fullmatch(host):
        return False
    try:
        _port(port, "port")
    except ValueError:
        return False
    return True


def _judge(pieces: _Pieces) -> RedisUrl:
    """Return the parts; a ``ValueError`` says which rule is broken, in words of our own only."""
    scheme = pieces.scheme
    if pieces.doubtful:
        raise ValueError("an @ / ? or # in user, password or option must be percent-encoded (%40 %2F %3F %23)")
    if pieces.fragment:
        raise ValueError("nothing may follow a #")
    tail = "".join((pieces.hosts, pieces.path, pieces.query))
    if not tail.isprintable() or " " in tail:
        raise ValueError("spaces and control characters must be percent-encoded")
    options = _options(pieces)
    login = _login(pieces.user)
    if scheme == "unix":
        if pieces.hosts or not pieces.path.strip("/"):
            raise ValueError("no socket path" if not pieces.hosts else "the socket path must begin with a /")
        return RedisUrl(scheme, path=unquote(pieces.path), db=_database(options.get("db", "")), login=login)
    hosts = _hosts(pieces)
    service, database = "", pieces.path.strip("/")
    if scheme.endswith("+sentinel"):
        service, _, database = database.partition("/")
        service = unquote(service)
        if not re.fullmatch(r"[A-Za-z0-9._-]+", service):
            rule = "must be letters, digits, . _ -" if service else "is missing after the hosts"
            raise ValueError(f"the master's name {rule}")
    db = _database(database)
    if scheme.endswith("+cluster") and db:
        raise ValueError("a cluster has database 0 only")
    sentinel_login = {name.removeprefix("sentinel_"): options[name] for name in _SENTINEL_LOGIN if name in options}
    server_port = _port(options["server_port"], "server_port") if "server_port" in options else 0
    tls = _tls(options) if scheme.startswith("rediss") else {}
    return RedisUrl(scheme, hosts, "", service, server_port, db, login, sentinel_login, tls)


def _login(user: str | None) -> dict[str, str]:
    name, colon, password = (user or "").partition(":")
    return {key: unquote(text) for key, text in (("username", name), ("password", password if colon else "")) if text}


def _hosts(pieces: _Pieces) -> tuple[tuple[str, int], ...]:
    many = "+" in pieces.scheme
    default = 26379 if pieces.scheme.endswith("+sentinel") else 6379
    rows = pieces.hosts.split(",") if many else [pieces.hosts]
    return tuple(_host(row, default) for row in rows)


def _host(text: str, default: int) -> tuple[str, int]:
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        try:
            ipaddress.IPv6Address(host if bracket else "")
        except ValueError:
            raise ValueError("what stands in [ ] must be an IPv6 address") from None
        if port and not port.startswith(":"):
            raise ValueError("after ] comes :port")
        port = port[1:]
    else:
        host, _, port = text.partition(":")
        if not host:
            raise ValueError("no host")
        if not _HOST.fullmatch(host):
            raise ValueError("a host is a name or an address, IPv6 in [ ]")
    if not port:
        return host, default
    return host, _port(port, "port")


def _port(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ValueError(f"{name} must be 1 to 65535")
    return int(text)


def _database(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) <= 5):
        # Not repeated: of a URL without its host, it may be a piece of a password.
        raise ValueError("the database must be a number")
    return int(text or 0)


def _options(pieces: _Pieces) -> dict[str, str]:
    scheme = pieces.scheme
    allowed: tuple[str, ...] = ("db",) if scheme == "unix" else ()
    if scheme.startswith("rediss"):
        allowed += _TLS_OPTIONS
    if scheme.endswith("+sentinel"):
        allowed += _SENTINEL_OPTIONS
    options: dict[str, str] = {}
    for name, value in parse_qsl(pieces.query, keep_blank_values=True):
        if name in _TLS_OPTIONS and name not in allowed:
            secure = "rediss" + scheme.removeprefix("redis")
            raise ValueError(f"{name} needs TLS: {secure if secure in EXAMPLES else 'rediss'}://")
        if name not in allowed:
            # The unknown name is not repeated: it may be a piece of a password with a raw "?" in it.
            rule = f"known are {', '.join(allowed)}" if allowed else f"{scheme}:// knows none"
            raise ValueError(f"unknown option after the ?; {rule}")
        if name in options:
            raise ValueError(f"{name} is given twice")
        if not value:
            raise ValueError(f"{name} has no value")
        options[name] = value
    return options


def _tls(options: dict[str, str]) -> dict[str, Any]:
    files = {name: options[name] for name in _TLS_FILES if name in options}
    for name, path in files.items():
        if not may_read(path):
            raise ValueError(f"{name} names a file that may not be read by {this_user()}; {REMEDY}")
        if "\0" in path or not os.path.isfile(path):  # noqa: PTH113 - bad text is False
            raise ValueError(f"{name} must name a file that can be read")
    if "ssl_keyfile" in files and "ssl_certfile" not in files:
        raise ValueError("ssl_keyfile needs ssl_certfile")
    reqs = options.get("ssl_cert_reqs", "required")
    if reqs not in _CERT_REQS:
        raise ValueError(f"ssl_cert_reqs must be one of {', '.join(_CERT_REQS)}")
    hostname = options.get("ssl_check_hostname", "false" if reqs == "none" else "true").lower()
    if hostname not in _BOOLEANS:
        raise ValueError("ssl_check_hostname must be true or false")
    if reqs == "none" and _BOOLEANS[hostname]:
        raise ValueError("ssl_check_hostname=true needs ssl_cert_reqs=required")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if "ssl_ca_certs" in files:
        _load("ssl_ca_certs", lambda: context.load_verify_locations(files["ssl_ca_certs"]))
    if "ssl_certfile" in files:
        # The empty password: without one, OpenSSL would ask for it at the terminal.
        chain = files["ssl_certfile"], files.get("ssl_keyfile")
        _load("ssl_certfile", lambda: context.load_cert_chain(*chain, password=""))
    return {**files, "ssl_cert_reqs": reqs, "ssl_check_hostname": _BOOLEANS[hostname]}


def _load(name: str, load: Callable[[], None]) -> None:
    try:
        load()
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        raise ValueError(f"{name} does not hold PEM certificates (with their key, unencrypted) that fit") from None


# -- clients -----------------------------------------------------------------------------------------------------------

# A reply that is not UTF-8 must not end a worker: what is kept is kept in Redis, byte for byte. Announcements of
# maintenance are a service of Redis' own cloud; asking for them costs each connection a refused command.
_COMMON: dict[str, Any] = {
    "decode_responses": True,
    "encoding_errors": "replace",
    "socket_connect_timeout": 5,
    "maint_notifications_config": MaintNotificationsConfig(enabled=False),
}


def _backoff() -> ExponentialWithJitterBackoff:
    return ExponentialWithJitterBackoff(base=0.05, cap=1)


def _connection_options(parts: RedisUrl) -> dict[str, Any]:
    """Return what every connection of this URL is made with, asynchronous or not."""
    options: dict[str, Any] = {**_COMMON, **parts.login, "db": parts.db}
    if parts.kind == "unix":
        return {**options, "path": parts.path}
    options |= {**parts.tls, "socket_keepalive": True, "socket_keepalive_options": transports.KEEPALIVE}
    if parts.kind == "sentinel":
        login = {**parts.sentinel_login, **parts.tls}
        sentinels = transports.Sentinels(
            parts.hosts, parts.service, login, secure=parts.secure, server_port=parts.server_port
        )
        return {**options, "sentinels": sentinels}
    [(options["host"], options["port"]), *_] = parts.hosts
    return options


def connect(url: str, *, max_connections: int = 4, retries: int = 3, name: str | None = None) -> Redis:
    """Return an asyncio client; nothing is sent yet.

    Args:
        url: Any of :data:`EXAMPLES`.
        max_connections: Size of the pool; a caller waits for a free connection. In a cluster, that is for each node.
        retries: How often a command is sent again after a lost connection. Every script of ours may be sent twice.
        name: Shown in ``CLIENT LIST``.

    Raises:
        RedisUrlError: The URL cannot be used.
    """
    parts = check(url)
    retry = Retry(_backoff(), retries)
    if parts.kind == "cluster":
        return cast("Redis", _cluster_client(parts, max_connections=max_connections, retry=retry, client_name=name))
    # No socket timeout: redis-py's runs every command through asyncio.wait_for, which on Python 3.11 can lose a
    # cancellation. A dead peer is noticed by keepalive and by the deadlines of those who wait.
    pool = transports.Pool(
        connection_class=transports.ASYNC[parts.kind, parts.secure],
        max_connections=max_connections,
        timeout=None,
        socket_timeout=None,
        client_name=name,
        retry=retry,
        **_connection_options(parts),
    )
    return Redis.from_pool(pool)


def connect_to(url: str, host: str, port: int, *, name: str | None = None) -> Redis:
    """Return an asyncio client of one server, such as a replica, with a URL's login and TLS options.

    Args:
        url: Any of :data:`EXAMPLES`.
        host: The server's host.
        port: Its port; that of the URL's ``server_port`` comes before it.
        name: Shown in ``CLIENT LIST``.

    Raises:
        RedisUrlError: The URL cannot be used.
    """
    known = check(url)
    scheme, place = "rediss" if known.secure else "redis", (host, known.server_port or port)
    parts = replace(known, scheme=scheme, hosts=(place,), path="", service="")
    pool = transports.Pool(
        connection_class=transports.ASYNC[parts.kind, parts.secure],
        max_connections=1,
        timeout=None,
        socket_timeout=None,
        client_name=name,
        retry=Retry(_backoff(), 0),
        **_connection_options(parts),
    )
    return Redis.from_pool(pool)


def connect_shared(url: str, *, retries: int = 3, name: str | None = None) -> SharedClient:
    """Return an asyncio client that has one connection for all its callers; nothing is sent yet.

    In a cluster, that is one to each node.

    Args:
        url: Any of :data:`EXAMPLES`.
        retries: How often a command is sent again after a lost connection. Every script of ours may be sent twice.
        name: Shown in ``CLIENT LIST``.

    Raises:
        RedisUrlError: The URL cannot be used.
    """
    from orbiter.distributed.connection.shared import SharedClient, SharedPool  # noqa: PLC0415 - workers need none

    parts = check(url)
    retry = Retry(_backoff(), retries)
    if parts.kind == "cluster":
        shared = {"max_connections": 1, "one_each": True}
        return cast("SharedClient", _cluster_client(parts, retry=retry, client_name=name, **shared))
    pool = SharedPool(
        partial(explain, url=url),
        connection_class=transports.ASYNC[parts.kind, parts.secure],
        timeout=None,
        socket_timeout=None,
        client_name=name,
        retry=retry,
        **_connection_options(parts),
    )
    return cast("SharedClient", SharedClient.from_pool(pool))


def _cluster_client(parts: RedisUrl, **options: Any) -> object:
    """Return a cluster's client: what we use of a client, it has too."""
    from orbiter.distributed.connection.cluster import ClusterClient  # noqa: PLC0415 - few need it

    return ClusterClient(parts.hosts, **{**options, **parts.login, **parts.tls})


def connect_sync(url: str) -> SyncRedis:
    """Return a synchronous client, for health checks and scripts.

    Raises:
        RedisUrlError: The URL cannot be used.
        redis.ConnectionError: It is a cluster's, which is asked for its nodes at once, and none answered.
    """
    parts = check(url)
    retry = SyncRetry(_backoff(), 1)
    options = _connection_options(parts)
    if parts.kind == "cluster":
        for single in ("db", "host", "port"):
            del options[single]
        nodes = [ClusterNode(host, port) for host, port in parts.hosts]  # type: ignore[no-untyped-call]
        try:
            cluster = SyncRedisCluster(startup_nodes=nodes, ssl=parts.secure, socket_timeout=5, retry=retry, **options)
        except RedisClusterException as error:
            raise ConnectionError(str(transports.without_arguments(error))) from None
        return cast("SyncRedis", cluster)
    pool = SyncConnectionPool(
        connection_class=transports.SYNC[parts.kind, parts.secure], socket_timeout=5, retry=retry, **options
    )
    return SyncRedis.from_pool(pool)
