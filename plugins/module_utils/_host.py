# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is and has: read from /proc and from its own databases, and nothing is changed.

Runs on any Python that Ansible runs on: a host with one that is too old for the fleet is to hear so.
"""

from __future__ import annotations

import os
import platform
import pwd
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

LISTENING = "0A"
PROC = Path("/proc")
HOMES = ("/home/", "/root/", "/run/user/")
NOBODY = (65534, 65534)


def facts():
    """Return what tells this host from others and whether it fits: machine-id, Python, clock."""
    try:
        machine_id = Path("/etc/machine-id").read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        machine_id = ""
    return {"machine_id": machine_id, "python": platform.python_version(), "now": time.time()}


def interpreter(user):
    """Return the Python that environments here are made from, and why a user's service cannot run it, if it cannot.

    Args:
        user: Who is to run it; where there is no such user yet, anybody.
    """
    path = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    # ProtectHome= hides these from a service, whoever may read them.
    if path.startswith(HOMES):
        return {"path": path, "trouble": "it is in somebody's home, which a service does not see"}
    try:
        entry = pwd.getpwnam(user)
        who = (entry.pw_uid, entry.pw_gid)
    except KeyError:
        who = NOBODY

    def become():
        os.setgroups([])
        os.setgid(who[1])
        os.setuid(who[0])

    try:
        done = subprocess.run(
            [path, "-I", "-c", "pass"],
            cwd="/",
            preexec_fn=become if os.geteuid() == 0 else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return {"path": path, "trouble": getattr(error, "strerror", None) or str(error)}
    said = done.stdout.decode(errors="replace").strip().splitlines()
    return {"path": path, "trouble": (said or [f"it ends with {done.returncode}"])[-1] if done.returncode else ""}


# -- ports -------------------------------------------------------------------------------------------------------------


def listeners():
    """Return the TCP sockets that listen here: address, port and inode of each."""
    found = []
    for table in ("tcp", "tcp6"):
        path = PROC / "net" / table
        rows = path.read_text().splitlines()[1:] if path.exists() else []
        for words in map(str.split, rows):
            if words[3] == LISTENING:
                address, _colon, port = words[1].partition(":")
                found.append((_readable(address), int(port, 16), words[9]))
    return found


def _readable(address):
    """Return an address of /proc/net, which has each four bytes in this machine's order, as people write it."""
    words = [bytes.fromhex(address[start : start + 8]) for start in range(0, len(address), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def open_files(pid):
    """Return what a process has open, as /proc writes it; nothing of one that has ended."""
    found = set()
    try:
        links = list((PROC / str(pid) / "fd").iterdir())
    except OSError:
        return found
    for link in links:
        try:
            found.add(os.readlink(str(link)))
        except OSError:
            continue  # closed meanwhile
    return found


def process_name(pid):
    """Return a process's name; empty if it has ended."""
    try:
        return (PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return ""


def taken(port, unit=None, address=None):
    """Return who else than the unit listens at a port, at an address if one is given, as name and process id, or None.

    The id is 0 and the name empty of one that this host does not see, such as in another container.
    """
    places = (address, "0.0.0.0", "::") if address else ()
    found = [(where, inode) for where, at, inode in listeners() if at == port]
    sockets = {f"socket:[{inode}]" for where, inode in found if not places or where in places}
    if not sockets:
        return None
    for process in PROC.glob("[0-9]*"):
        if open_files(process.name) & sockets:
            if unit and has_port(unit, port, process.name):
                return None
            return {"port": port, "name": process_name(process.name), "pid": int(process.name)}
    return {"port": port, "name": "", "pid": 0}


def has_port(unit, port, pid):
    """Tell whether a unit has a port: its main process, or systemd for a socket unit."""
    if not unit.endswith(".socket"):
        return pid == main_pid(unit)
    shown = show(unit, "ActiveState", "Listen")
    return shown.get("ActiveState") == "active" and f":{port} " in shown.get("Listen", "")


# -- what systemd, dpkg and the like know ------------------------------------------------------------------------------


def ask(*words):
    """Return what a command of the host writes; nothing where there is no such command."""
    try:
        return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False).stdout
    except OSError:
        return ""


def show(unit, *properties):
    """Return properties of a unit of systemd, by name."""
    lines = ask("systemctl", "show", f"--property={','.join(properties)}", "--", unit).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def main_pid(unit):
    """Return the id of a unit's main process, in digits; empty if it does not run."""
    pid = show(unit, "MainPID").get("MainPID", "0")
    return "" if pid == "0" else pid


def packages(names):
    """Return the versions of those of these packages of Debian that are installed."""
    if not names:
        return {}
    listed = ask("dpkg-query", "--show", r"--showformat=${Package} ${db:Status-Status} ${Version}\n", *names)
    rows = [line.split(" ", 2) for line in listed.splitlines()]
    return {name: version for name, status, version in rows if status == "installed"}


def users(names):
    """Return home and shell of those of these users that there are."""
    known = [one for one in pwd.getpwall() if one.pw_name in names]
    return {one.pw_name: {"home": one.pw_dir, "shell": one.pw_shell} for one in known}


def disk(path):
    """Return how many bytes are free where a path is, or will be: in what exists of it."""
    there = next(str(place) for place in (Path(path), *Path(path).parents) if place.exists())
    return {"path": there, "free": shutil.disk_usage(there).free}
