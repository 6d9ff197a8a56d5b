# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one Redis client of the modules that run on Redis hosts.

As much of Redis' protocol as they need, and nothing to install. redis-cli would not do: what it prints does not tell an
error inside an answer from a string, or one line break from two, and it takes some passwords by command line only.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections import Counter
from pathlib import Path


def flavor_of(programs):
    """Return which server a host has, by the folder of its programs: valkey, or else redis."""
    return "valkey" if (programs / "valkey-server").exists() and not (programs / "redis-server").exists() else "redis"


# Debian's packages of Redis and of Valkey differ in this word: so do their programs, units, users, folders and files.
# The role lets a host have one of them, by its variable redis_flavor.
FLAVOR = flavor_of(Path("/usr/bin"))
ETC = Path("/etc", FLAVOR)
DATA = Path("/var/lib", FLAVOR)
SERVER = f"{FLAVOR}-server"  # the program, its package and its unit
SOCKET = f"/run/{FLAVOR}/{SERVER}.sock"
LOG = f"/var/log/{FLAVOR}/{SERVER}.log"
ADMIN = "admin"  # the operator's user, which the role makes on each Redis host


class RedisError(Exception):
    """What Redis said instead of doing it."""


class NoAnswerError(Exception):
    """There is no Redis that answers."""


class Redis:
    """One connection.

    Args:
        place: The path of a Unix socket, or a host and a port.
        password: What to log in with; without one the connection is whatever the server makes of a stranger.
        user: Whose password it is. Without one it is that of requirepass.
        tls: How to encrypt; without it nothing is. See ``tls_context``.
        timeout: Seconds that an answer takes at most.
    """

    def __init__(self, place, password=None, user=ADMIN, tls=None, timeout=30.0):
        self.place = place if isinstance(place, str) else f"{place[0]} port {place[1]}"
        try:
            self._socket = _connect(place, timeout)
            if tls is not None:
                name = None if isinstance(place, str) else place[0]
                self._socket = tls.wrap_socket(self._socket, server_hostname=name)
            self._answers = self._socket.makefile("rb")
        except OSError as error:
            raise NoAnswerError(f"nothing answers at {self.place}: {error}") from None
        try:
            if password is not None:
                self.ask("AUTH", *([user] if user else []), password)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def wait_at_most(self, seconds):
        """Say how long an answer may take from now on."""
        self._socket.settimeout(seconds)

    def close(self):
        """End the connection."""
        self._answers.close()
        self._socket.close()

    def ask(self, *words):
        """Send a command; return its answer: a string, a number, None, or a list of these.

        Bytes that are no UTF-8 come as Python's surrogates, and go back as the same bytes. An error within a list (of
        EXEC) is a ``RedisError`` there.

        Raises:
            RedisError: What Redis said instead of doing it.
            NoAnswerError: It did not answer in time, or not at all.
        """
        encoded = [str(word).encode(errors="surrogateescape") for word in words]
        parts = [b"*%d\r\n" % len(encoded), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)]
        try:
            self._socket.sendall(b"".join(parts))
            answer = self._answer()
        except OSError as error:
            raise NoAnswerError(f"Redis at {self.place} does not answer {words[0]}: {error}") from None
        if isinstance(answer, RedisError):
            raise answer
        return answer

    def settings(self, *patterns):
        """Return the server's settings of these names, such as ``tls-*``: values by name."""
        answer = self.ask("CONFIG", "GET", *patterns)
        return dict(zip(answer[::2], answer[1::2]))  # noqa: B905 - host_info runs on Python 3.8, too

    def info(self, *sections):
        """Return what INFO says: values by name."""
        lines = (line.partition(":") for line in self.ask("INFO", *sections).splitlines())
        return {name: value for name, colon, value in lines if colon}

    def clients(self):
        """Return who is connected: what CLIENT LIST says of each."""
        rows = self.ask("CLIENT", "LIST").splitlines()
        return [dict(word.partition("=")[::2] for word in row.split(" ")) for row in rows]

    def _answer(self):
        line = self._answers.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("it closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            return RedisError(_text(rest))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return self._string(int(rest))
        if kind == b"*":
            return [self._answer() for dummy in range(int(rest))] if rest != b"-1" else None
        if kind != b"+":
            raise ConnectionAbortedError("what answers there is not Redis; check host and port")
        return _text(rest)

    def _string(self, length):
        if length < 0:
            return None
        content = self._answers.read(length + 2)
        if len(content) != length + 2:
            raise ConnectionResetError("it closed the connection")
        return _text(content[:-2])


def _connect(place, timeout):
    if not isinstance(place, str):
        return socket.create_connection(place, timeout=timeout)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    try:
        connection.connect(place)
    except OSError:
        connection.close()
        raise
    return connection


def _text(content):
    return content.decode(errors="surrogateescape")


# Seconds after which it is looked whether a server that was asked for encryption has any.
QUICK = 0.5


def in_clear(place):
    """Return whether a server answers at a host and port without encryption. It would wait for the rest of a question.

    So does the package's own, which a host has until it restarts with the role's settings.
    """
    with contextlib.suppress(OSError), socket.create_connection(place, timeout=QUICK) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(1) in (b"+", b"-")  # what all answers to that begin with: PONG, or an error
    return False


def tls_context(ca, cert=None, key=None):
    """Return how to encrypt: whom to believe, and what to show to servers that ask who one is.

    The certificate must be of that authority. The name in it is not compared: members of a group are known by address.
    """
    context = ssl.create_default_context(cafile=ca)
    context.check_hostname = False
    if cert:
        context.load_cert_chain(cert, key)
    return context


def local(patience=0.0, etc=ETC, place=SOCKET):
    """Return a connection to this host's Redis that may do everything, by its Unix socket.

    The password is in a file that the role keeps. So is the one before it, which counts until the server knows the new.

    Args:
        patience: Seconds to wait for a server that has just been started, until it has loaded its data.
        etc: Where the files with the passwords are.
        place: Its Unix socket.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return _log_in(place, admin_passwords(etc))
        except (NoAnswerError, RedisError) as error:
            if str(error).startswith("WRONGPASS"):
                raise RedisError(
                    f"Redis accepts neither the password in {etc}/admin.password nor the one before it: somebody has "
                    f"changed its users by hand. It reads them from users.acl with systemctl restart {SERVER}"
                ) from None
            if time.monotonic() > deadline:
                raise NoAnswerError(f"{error}. See journalctl -u {SERVER}") from None
        time.sleep(0.1)


def admin_passwords(etc=ETC):
    """Return the passwords that the operator's user has, or had last; the newest first."""
    files = (Path(etc, name) for name in ("admin.password", ".admin.password"))
    return [file.read_text().rstrip("\n") for file in files if file.exists()]


def _log_in(place, passwords):
    for number, password in enumerate(passwords, 1):
        try:
            redis = Redis(place, password)
            break
        except RedisError as error:
            if not str(error).startswith("WRONGPASS") or number == len(passwords):
                raise
    else:
        raise NoAnswerError("no Redis of this fleet runs here: there is no admin.password")
    try:
        redis.ask("PING")  # a server that loads its data lets one in, and does nothing else
    except BaseException:
        redis.close()
        raise
    return redis


def callers(clients):
    """Return who they are, of what ``clients`` tells, in words: address, user and name, and how often."""
    found = Counter(
        client["addr"].rpartition(":")[0] + f" as {client['user']}" + (f", {client['name']}" if client["name"] else "")
        for client in clients
    )
    return [f"{caller} ({count} connection{'s' * (count > 1)})" for caller, count in sorted(found.items())]


def written_settings(path):
    """Return what a file of settings says, values by name; of one that is there twice, the last."""
    stripped = (line.strip() for line in Path(path).read_text(errors="surrogateescape").splitlines())
    parts = (line.partition(" ") for line in stripped if line and not line.startswith("#"))
    return {name: unquote(value.strip()) for name, dummy, value in parts}


def unquote(value):
    """Return what redis.conf means by a value in double quotes."""
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value[:1] == value[-1:] == '"' and len(value) > 1 else value
