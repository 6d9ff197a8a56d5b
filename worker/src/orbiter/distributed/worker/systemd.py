"""Tells systemd how the service is doing, where systemd asked for it (``Type=notify``); see sd_notify(3)."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

_SYSTEMD = "name=systemd"


def notify(*states: str) -> None:
    """Send states such as ``READY=1`` to the service manager; does nothing where there is none."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect(address)
        channel.sendall("\n".join(states).encode())


def watchdog_interval() -> float | None:
    """Return the seconds within which systemd's watchdog wants to hear from this process, or ``None``."""
    microseconds, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if not microseconds.isdigit() or pid not in (None, str(os.getpid())):
        return None
    return int(microseconds) / 1e6


@cache
def unit() -> str:
    """Return the systemd service that this process is part of, or nothing; its cgroup's name tells."""
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return ""
    # Number, controllers, path: version 2 has one line, version 1 a line of systemd's own.
    paths = [path for _, controllers, path in (line.split(":", 2) for line in groups) if controllers in {"", _SYSTEMD}]
    services = [part for path in paths for part in path.split("/") if part.endswith(".service")]
    return services[-1] if services else ""
