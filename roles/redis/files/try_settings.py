"""Start a Redis with a new file of settings, aside from the one that runs, and say whether it comes up.

Usage: try_settings.py FLAVOR NAME FILE
FLAVOR is redis or valkey. NAME is FLAVOR.conf, dynamic.conf or users.acl; FILE is what would replace it in /etc/FLAVOR.
Redis has no checker for its files: the only judge is a server that starts. It runs as the user FLAVOR, in a directory
of its own that is removed again, on a spare port of the same addresses, and never becomes a replica. Ends in Redis'
words if it does not start.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FLAVOR = sys.argv[1]
INSTALLED = Path("/etc", FLAVOR)
MAIN = f"{FLAVOR}.conf"
NAMES = (MAIN, "dynamic.conf", "users.acl")
PATIENCE = 60.0


def gather(name: str, file: str, directory: Path) -> str:
    """Put the files, with the new one among them, into the directory; return the text of its main one."""
    texts = {other: (INSTALLED / other).read_text() for other in NAMES if (INSTALLED / other).exists()}
    texts[name] = Path(file).read_text()
    main = texts.get(MAIN, "")
    if f"include {INSTALLED}/dynamic.conf" not in main:
        # The package's own, which goes as soon as ours has been found good.
        main = f"include {INSTALLED}/dynamic.conf\naclfile {INSTALLED}/users.acl\n"
    for other in ("dynamic.conf", "users.acl"):
        if other in texts:
            main = main.replace(str(INSTALLED / other), str(directory / other))
        else:
            main = re.sub(rf"^.*{re.escape(str(INSTALLED / other))}\n", "", main, flags=re.MULTILINE)
    texts[MAIN] = main
    for other, text in texts.items():
        (directory / other).write_text(text)
        shutil.chown(directory / other, FLAVOR, FLAVOR)
    return main


def spare_port() -> str:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(probe.getsockname()[1])


def command(directory: Path, main: str) -> list[str]:
    """Return the words that start the server: the files, and what must not be as in them."""
    with_tls = re.search(r"^tls-port\s+[1-9]", main, re.MULTILINE) is not None
    aside = {
        "port": "0" if with_tls else spare_port(),
        "tls-port": spare_port() if with_tls else "0",
        "unixsocket": f"{directory}/redis.sock",
        "dir": str(directory),
        "pidfile": f"{directory}/pid",
        "daemonize": "no",
        "supervised": "no",
    }
    words = [f"{FLAVOR}-server", str(directory / MAIN)]
    for name, value in aside.items():
        words += [f"--{name}", value]
    # Two words, and an empty one, are values of their own.
    return [*words, "--replicaof", "no", "one", "--logfile", ""]


def answers(path: Path) -> bool:
    """Whether somebody answers at the socket, if only that a password is wanted."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(2)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            answer = connection.recv(100)
        except OSError:
            return False
    return answer.startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))


def complaint(log: str) -> str:
    """Return what of the log says why, without the banner and the greetings."""
    lines = [line for line in log.splitlines() if line.strip() and " * " not in line and "oO0OoO0OoO0Oo" not in line]
    return "\n".join(lines[-12:])


def attempt(directory: Path, main: str) -> None:
    """Start it, wait until it answers, end it; end the program if it does not answer."""
    log = directory / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command(directory, main),
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            user=FLAVOR,
            group=FLAVOR,
            extra_groups=[],
            umask=0o077,
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not answers(directory / "redis.sock"):
            if server.poll() is not None:
                sys.exit(f"Redis does not start with these settings. It says:\n{complaint(log.read_text())}")
            if time.monotonic() > deadline:
                sys.exit(f"Redis does not answer within {PATIENCE:.0f} s. It says:\n{complaint(log.read_text())}")
            time.sleep(0.02)
    finally:
        server.kill()
        server.wait()


def main() -> None:
    """Try the file."""
    name, file = sys.argv[2:]
    os.umask(0o077)
    with tempfile.TemporaryDirectory(prefix="orbiter-redis-") as path:
        shutil.chown(path, FLAVOR, FLAVOR)
        attempt(Path(path), gather(name, file, Path(path)))


main()
