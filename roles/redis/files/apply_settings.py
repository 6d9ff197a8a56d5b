"""Bring a running Redis to what the files in /etc/redis say, without a restart, and tell what of it changed.

Usage: apply_settings.py [--beside] [--reload-certificate]
Settings by CONFIG SET, users by ACL SETUSER and DELUSER, a renewed certificate by CONFIG SET of its path. Redis itself
tells whether something changed: its own notation ("1gb" is 1073741824) is compared before and after.

It speaks to the server over its Unix socket, so that neither TLS nor an address is in its way, and reads the password
from /etc/redis/admin.password, so that no command line and no log ever has it. The password that was last in force is
kept beside it: a new one is made known to the server with the old.

With --beside the users' new passwords are valid beside those that they have, and nobody is removed; both are written to
users.acl, for the case that Redis restarts meanwhile. Without it, only what the files say is valid.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import BinaryIO

SOCKET = "/run/redis/redis-server.sock"
DYNAMIC = Path("/etc/redis/dynamic.conf")
USERS = Path("/etc/redis/users.acl")
PASSWORD = Path("/etc/redis/admin.password")
LAST_PASSWORD = Path("/etc/redis/.admin.password")
PATIENCE = 60.0


class RefusedError(Exception):
    """What Redis said instead of doing it."""


class Redis:
    """One connection, and as much of the protocol as its answers need."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(SOCKET)
        self._answers: BinaryIO = self._socket.makefile("rb")

    def ask(self, *words: str) -> object:
        """Send a command and return the answer."""
        encoded = [word.encode() for word in words]
        parts = [b"*%d\r\n" % len(encoded), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)]
        self._socket.sendall(b"".join(parts))
        return self._answer()

    def strings(self, *words: str) -> list[str]:
        """Send a command whose answer is a list of strings."""
        answer = self.ask(*words)
        return [str(item) for item in answer] if isinstance(answer, list) else []

    def _answer(self) -> object:
        line = self._answers.readline().decode().rstrip("\r\n")
        if not line:
            raise ConnectionResetError("Redis closed the connection")
        kind, rest = line[0], line[1:]
        if kind == "-":
            raise RefusedError(rest)
        if kind == "$":
            return self._answers.read(int(rest) + 2)[:-2].decode(errors="replace") if rest != "-1" else None
        if kind == "*":
            return [self._answer() for dummy in range(int(rest))]
        return rest


def connect() -> Redis:
    """Return a connection that may do everything; wait for a server that just started to have read its files."""
    deadline = time.monotonic() + PATIENCE
    passwords = [path.read_text().rstrip("\n") for path in (PASSWORD, LAST_PASSWORD) if path.exists()]
    while True:
        try:
            return log_in(passwords)
        except (OSError, RefusedError) as error:
            if str(error).startswith("WRONGPASS"):
                sys.exit(
                    "Redis accepts neither the password in /etc/redis/admin.password nor the one before it: somebody "
                    "has changed its users by hand. It reads them from users.acl with systemctl restart redis-server"
                )
            if time.monotonic() > deadline:
                sys.exit(f"Redis does not answer at {SOCKET}: {error}. See journalctl -u redis-server")
        time.sleep(0.2)


def log_in(passwords: list[str]) -> Redis:
    """Return a connection that was let in with one of the passwords, and that answers."""
    redis = Redis()
    for number, password in enumerate(passwords, 1):
        try:
            redis.ask("AUTH", "default", password)
            break
        except RefusedError as error:
            if not str(error).startswith("WRONGPASS") or number == len(passwords):
                raise
    redis.ask("PING")
    return redis


def lines(path: Path) -> list[str]:
    """Return the lines that say something."""
    stripped = (line.strip() for line in path.read_text().splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def unquote(value: str) -> str:
    """Return what redis.conf means by a value in double quotes."""
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value[:1] == value[-1:] == '"' and len(value) > 1 else value


def apply_settings(redis: Redis) -> list[str]:
    """Set what dynamic.conf says; return the names of what had another value."""
    changed = []
    for line in lines(DYNAMIC):
        name, _space, value = line.partition(" ")
        before = redis.ask("CONFIG", "GET", name)
        if not before:
            sys.exit(f"Redis knows no setting {name!r}: correct redis_settings")
        try:
            redis.ask("CONFIG", "SET", name, unquote(value.strip()))
        except RefusedError as error:
            sys.exit(
                f"Redis said no to a new value of {name}: {error}. If only a restart changes it, say dynamic: false"
            )
        if redis.ask("CONFIG", "GET", name) != before:
            changed.append(name)
    return changed


def users(redis: Redis) -> dict[str, str]:
    """Return the server's users, each as Redis writes it."""
    return {line.split(" ", 2)[1]: line for line in redis.strings("ACL", "LIST")}


def hashes(rules: list[str]) -> set[str]:
    """Return the passwords among a user's rules."""
    return {rule for rule in rules if rule.startswith("#")}


def apply_users(redis: Redis, *, beside: bool) -> list[str]:
    """Make the users those of users.acl; return the names of those that were different."""
    wanted = {line.split()[1]: line.split()[2:] for line in lines(USERS)}
    before = users(redis)
    # One command a user: it has its old rights or its new ones, and its connections stay.
    start = ["resetkeys", "resetchannels", "clearselectors", "-@all"] if beside else ["reset"]
    for name, rules in wanted.items():
        redis.ask("ACL", "SETUSER", name, *start, *rules)
    for name in before.keys() - wanted.keys() if not beside else ():
        redis.ask("ACL", "DELUSER", name)
    after = users(redis)
    if any(hashes(after[name].split()) != hashes(wanted.get(name, [])) for name in after):
        redis.ask("ACL", "SAVE")  # the file has the new passwords only
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def apply_certificate(redis: Redis, *, again: bool) -> list[str]:
    """Let a server with TLS read its certificate anew if it shows another one, or if told to."""
    settings = redis.strings("CONFIG", "GET", "tls-*")
    tls = dict(zip(settings[::2], settings[1::2], strict=True))
    port = int(tls.get("tls-port", "0"))
    if not port:
        return []
    written = re.search(
        "-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", read(tls["tls-cert-file"]), re.DOTALL
    )
    shown = ssl.get_server_certificate(("127.0.0.1", port)).strip()
    if not again and written and ssl.PEM_cert_to_DER_cert(written[0]) == ssl.PEM_cert_to_DER_cert(shown):
        return []
    words: list[str] = []
    for name in ("tls-cert-file", "tls-key-file", "tls-ca-cert-file"):
        words += [name, tls[name]]
    try:
        redis.ask("CONFIG", "SET", *words)
    except RefusedError as error:
        sys.exit(f"Redis does not take the new certificate: {error}. See /var/log/redis/redis-server.log")
    return ["certificate"]


def read(path: str) -> str:
    """Return a file's text."""
    return Path(path).read_text()


def main() -> None:
    """Apply, and print ``{"changed": [names]}``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--reload-certificate", action="store_true")
    options = parser.parse_args()
    redis = connect()
    changed = apply_settings(redis)
    changed += [f"user {name}" for name in apply_users(redis, beside=options.beside)]
    changed += apply_certificate(redis, again=options.reload_certificate)
    os.umask(0o077)
    fresh = LAST_PASSWORD.with_suffix(".new")
    fresh.write_text(PASSWORD.read_text())
    fresh.replace(LAST_PASSWORD)
    print(json.dumps({"changed": changed}))


main()
