"""Tell what on this host would keep Redis from being installed: who has its port, and how full its disk is.

Usage: look.py PORT[,PORT] [SENTINEL_PORT]
Prints {"taken_by": "N is taken by NAME (process N)" or "", "free_mb": N, "disk": PATH, "members": [ADDRESS], "users":
[NAME] or null}: `members` are those of the group of Redis hosts that it is in now, `users` those that the role made.
Redis itself, as systemd started it, takes nothing from nobody.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

LISTENING = "0A"
UNITS = ("redis-server.service", "redis-sentinel.service")


def sockets(port: int) -> set[str]:
    """Return the inodes of the sockets that listen at the port, at any address."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        rows = Path(table).read_text().splitlines()[1:] if Path(table).exists() else []
        for row in rows:
            words = row.split()
            if words[3] == LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{words[9]}]")
    return found


def owner(wanted: set[str]) -> str:
    """Return the process that has one of the sockets open."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(link.readlink()) in wanted for link in (process / "fd").iterdir()):
                return process.name
        except OSError:
            continue  # it has ended
    return ""


def taken_by(port: int, unit: str) -> str:
    """Return who else than the unit listens at the port, or nothing."""
    wanted = sockets(port)
    if not wanted:
        return ""
    process = owner(wanted)
    show = ["systemctl", "show", "--property=MainPID", "--value", unit]
    ours = subprocess.run(show, capture_output=True, text=True, check=False).stdout.strip()
    if process and process == ours:
        return ""
    name = f"{(Path('/proc') / process / 'comm').read_text().strip()} (process {process})" if process else ""
    return f"{port} is taken by {name or 'another process'}"


def main() -> None:
    """Look and tell."""
    disk = next(path for path in (Path("/var/lib/redis"), Path("/var/lib"), Path("/")) if path.exists())
    state = os.statvfs(disk)
    free = state.f_bavail * state.f_frsize // 2**20
    group = Path("/etc/redis/fleet.json")
    members = json.loads(group.read_text())["members"] if group.exists() else []
    wanted = [(int(port), unit) for ports, unit in zip(sys.argv[1:], UNITS, strict=False) for port in ports.split(",")]
    taken = " and ".join(filter(None, (taken_by(port, unit) for port, unit in wanted)))
    file = Path("/etc/redis/users.acl")
    users = [line.split()[1] for line in file.read_text().splitlines() if line] if file.exists() else None
    print(json.dumps({"taken_by": taken, "free_mb": free, "disk": str(disk), "members": members, "users": users}))


main()
