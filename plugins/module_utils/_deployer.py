# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who deploys: one run of ansible-playbook on one machine. Others know whom to ask, and whether it still runs."""

from __future__ import annotations

import getpass
import hashlib
import multiprocessing
import os
import socket
import subprocess
import uuid


def main_pid():
    """Return the process id of ansible-playbook; what asks may be one of its workers."""
    parent = multiprocessing.parent_process()
    return os.getpid() if parent is None else parent.pid


def describe(pid, playbooks):
    """Return the record of a run: whom to ask, a token that stays the same all through it, and what tells its end."""
    machine, born = this_machine(), born_at(pid)
    token = hashlib.sha256(f"{machine} {pid} {born}".encode()).hexdigest()[:32]
    return {
        "token": token,
        "user": user(),
        "controller": socket.gethostname(),
        "machine": machine,
        "pid": pid,
        "born": born,
        "playbook": ", ".join(spoken(name) for name in playbooks) or "ansible",
    }


def spoken(playbook):
    """Return a playbook's name as people say it: of a file, without folder and extension."""
    name, extension = os.path.splitext(os.path.basename(playbook))
    return name if extension in (".yml", ".yaml") else name + extension


def has_ended(record):
    """Tell whether this machine knows that a run is over. Of runs elsewhere it knows nothing."""
    if record.get("machine") != this_machine():
        return False
    return born_at(record["pid"]) != record["born"]


def user():
    """Return the user's name, or its number where it has none."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def this_machine():
    """Return a name for this machine since its last boot: inside a container, for that container."""
    parts = [socket.gethostname()]
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            parts.append(file.read().strip())
        # Process ids mean something in their own namespace only.
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        parts.append(str(uuid.getnode()))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def born_at(pid):
    """Return when a process was started, in the system's own words; empty if there is none. Ids are used again."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            # The second field is the program's name in brackets, which may hold anything.
            fields = file.read().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        if os.path.exists("/proc/self/stat"):
            return ""
    asked = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], stdout=subprocess.PIPE, check=False)
    return asked.stdout.decode().strip()
