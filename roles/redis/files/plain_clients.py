"""Tell at which ports this host's Redis listens, and who is connected without TLS.

Usage: plain_clients.py
Prints {"port": N, "tls_port": N, "connected": ["10.0.0.9 as client (3 connections)"]}; a port that is closed is 0. It
speaks to the server over its Unix socket, and reads the password from /etc/redis/admin.password.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

COMMAND = ("redis-cli", "-e", "-s", "/run/redis/redis-server.sock", "--user", "admin")
PASSWORD = Path("/etc/redis/admin.password")


def ask(*words: str) -> list[str]:
    """Send one command; return the lines of its answer, or fail with the words of Redis."""
    environment = os.environ | {"REDISCLI_AUTH": PASSWORD.read_text().rstrip("\n")}
    done = subprocess.run([*COMMAND, *words], env=environment, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode != 0:
        sys.exit(f"Redis does not answer at its socket: {(done.stdout + done.stderr).strip()}")
    return done.stdout.splitlines()


def connected(port: int) -> list[str]:
    """Return who is connected by a TCP port: address, user and name."""
    clients = [dict(word.partition("=")[::2] for word in line.split(" ")) for line in ask("CLIENT", "LIST")]
    callers = Counter(
        client["addr"].rpartition(":")[0] + f" as {client['user']}" + (f", {client['name']}" if client["name"] else "")
        for client in clients
        # Its own end of the connection; of a socket that is a path.
        if client.get("laddr", "").rpartition(":")[2] == str(port)
    )
    return [f"{caller} ({count} connection{'s' * (count > 1)})" for caller, count in sorted(callers.items())]


def main() -> None:
    """Look and tell."""
    if not PASSWORD.exists():
        sys.exit("No Redis of this fleet runs here yet: orbiter.fleet.site makes one, with TLS at once")
    said = ask("CONFIG", "GET", "port", "tls-port")
    ports = dict(zip(said[::2], map(int, said[1::2]), strict=True))
    plain = ports["port"]
    print(json.dumps({"port": plain, "tls_port": ports["tls-port"], "connected": connected(plain) if plain else []}))


main()
