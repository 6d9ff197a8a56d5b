# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One command with a worker's settings: in a unit, confined as the worker is, or in a container of its own."""

from __future__ import annotations

import re
import subprocess
import time
import uuid
from pathlib import Path
from urllib.parse import unquote

from ansible_collections.orbiter.fleet.plugins.module_utils import _compose, _systemd
from ansible_collections.orbiter.fleet.plugins.module_utils._systemd import GateError

# Not as the user of workers: tasks run as that one, and could read the settings from the command's process.
USER = "orbiter-command"
# What the unit says of a service that runs for long, of its own user's folder, and who does what in its place here.
LEFT_OUT = {
    *("Type", "User", "ExecStart", "ExecStartPre", "Restart", "RestartSec", "WatchdogSec", "Delegate", "OOMPolicy"),
    *("KillMode", "KillSignal", "TimeoutStopSec", "StateDirectory", "WorkingDirectory"),
}
# The release's programs come first; where the unit has credentials, tasks find them by this name.
SCRIPT = """\
PATH=/opt/orbiter/current/bin:$PATH
export PATH
if [ -n "${CREDENTIALS_DIRECTORY:-}" ]; then
    TASK_CREDENTIALS_DIRECTORY=$CREDENTIALS_DIRECTORY
    export TASK_CREDENTIALS_DIRECTORY
fi
exec "$@"
"""
KILLED_AFTER = 5  # seconds that the command has to end when its time is over
PATIENCE = 20  # seconds more for systemd or Docker, to say how it ended
SECRET = re.compile(r"PASSW|SECRET|TOKEN|KEY|CREDENTIAL|_URL$")
# Shorter ones would hide words that only look like them.
SHORTEST = 6


def in_unit(command, timeout):
    """Run a command in a unit of its own; return its exit code and what it said."""
    if not _systemd.TEMPLATE.exists() or not _systemd.release():
        raise GateError("Nothing is deployed here. Run the playbook orbiter.fleet.site for this host first.")
    unit = f"orbiter-exec-{uuid.uuid4().hex[:12]}.service"
    words = [
        *("systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec", f"--unit={unit}"),
        *(f"--property={one}" for one in properties(_systemd.output("systemctl", "cat", "orbiter-worker@1.service"))),
        *(f"--property={one}" for one in (f"User={USER}", "WorkingDirectory=/", f"RuntimeMaxSec={timeout}")),
        f"--property=TimeoutStopSec={KILLED_AFTER}",
        *("--", "/bin/sh", "-c"),
        # systemd replaces variables in a command line.
        *(word.replace("$", "$$") for word in (SCRIPT, "orbiter-exec", *command)),
    ]
    return run(words, timeout, lambda: subprocess.run(["systemctl", "kill", "--signal=KILL", unit], check=False))


def properties(text):
    """Return what a unit says of its service that holds for a command, too.

    Args:
        text: The unit's file and its drop-ins, as `systemctl cat` shows them.
    """
    found, section = [], ""
    for row in text.replace("\\\n", " ").splitlines():
        said = row.strip()
        if said.startswith("["):
            section = said
        name, equals, value = said.partition("=")
        if section != "[Service]" or not equals or said.startswith(("#", ";")) or name in LEFT_OUT:
            continue
        # Of an instance; the script sets what commands need of these.
        if not re.search("%[A-Za-z]", value):
            found.append(f"{name}={value}")
    return found


def in_container(command, timeout):
    """Run a command in a container of its own of the stack's image; return its exit code and what it said."""
    stack = _compose.Stack("/etc/orbiter")
    if not stack.file.exists():
        raise GateError("Nothing is deployed here. Run the playbook orbiter.fleet.site for this host first.")
    name = f"orbiter-exec-{uuid.uuid4().hex[:12]}"
    words = [
        *("docker", "compose", "--project-name", _compose.PROJECT, "--file", str(stack.file)),
        *("run", "--rm", "--no-deps", "--quiet-pull", "--no-TTY", "--name", name, "worker", *command),
    ]
    remove = ["docker", "rm", "--force", name]
    return run(words, timeout, lambda: subprocess.run(remove, capture_output=True, check=False), patience=0)


def run(words, timeout, stop, patience=PATIENCE):
    """Run a command line that ends as the command does; return its exit code and what it said.

    Args:
        words: The command line.
        timeout: Seconds that the command may take.
        stop: Ends the command where what was started does not.
        patience: Seconds more for what was started.

    Raises:
        GateError: It did not end in time.
    """
    began = time.monotonic()
    with _systemd.begin(words, COMPOSE_PROGRESS="quiet") as process:
        try:
            said, _errors = process.communicate(timeout=timeout + (KILLED_AFTER + patience if patience else 0))
        except subprocess.TimeoutExpired:
            process.kill()
            stop()
            raise late(timeout) from None
    if process.returncode and time.monotonic() - began >= timeout:
        raise late(timeout)
    return process.returncode, said


def late(timeout):
    """Return the error of a command that took too long."""
    return GateError(
        f"The command did not end within {timeout} s and was stopped. Give it more time with -e exec_timeout=SECONDS."
    )


# -- secrets ---------------------------------------------------------------------------------------------------------


def secrets(settings=_systemd.SETTINGS, credentials=Path("/etc/orbiter/credentials")):
    """Return what of a host's settings and credentials is not to be shown."""
    try:
        text = settings.read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = set()
    for name, value in values(text).items():
        if SECRET.search(name):
            password = re.match(r"[a-z+]+://[^:/?#]*:([^@]+)@", value)
            found |= {password[1], unquote(password[1])} if password else {value}
            found |= {unquote(one) for one in re.findall(r"password=([^&]+)", value)}
            found |= set(re.findall(r"password=([^&]+)", value))
    for path in credentials.glob("*/*"):
        found |= set(path.read_text(encoding="utf-8", errors="replace").splitlines())
    return {one.strip() for one in found if len(one.strip()) >= SHORTEST}


def values(text):
    """Return the settings of a file as the role writes it."""
    rows = re.findall(r'^(\w+)="((?:[^"\\]|\\.)*)"$', text, re.MULTILINE)
    return {name: re.sub(r"\\(.)", r"\1", value) for name, value in rows}
