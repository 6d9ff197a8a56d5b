# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of the operator around a deploy, and what hands those of its end from a task to the end of the run."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile

from ansible_collections.orbiter.fleet.plugins.module_utils._command import begin, inert
from ansible_collections.orbiter.fleet.plugins.module_utils._deployer import main_pid

# Names a process and its open file, which the tasks of that process inherit.
NOTES = "ORBITER_HOOKS_NOTES"
AFTER = ("after_deploy", "after_failure")
LINES = 20  # of what a hook writes


class Notes:
    """A file without a name, in which tasks note what the end of the run is to do."""

    def __init__(self):
        self._file = None
        # Ansible may load a callback by two names.
        if noted_in() is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open until the run ends
            os.environ[NOTES] = f"{os.getpid()}:{self._file.fileno()}"

    def read(self):
        """Return what was noted, all of it in one dictionary; nothing if another one of this run reads it."""
        if self._file is None:
            return {}
        self._file.seek(0)
        found = {}
        for row in self._file.read().decode().splitlines():
            found.update(json.loads(row))
        return found


def noted_in():
    """Return the file that the end of this run reads, or None where nothing does."""
    pid, _colon, descriptor = os.environ.get(NOTES, "").partition(":")
    return int(descriptor) if pid == str(main_pid()) else None


def note(record):
    """Note something for the end of the run."""
    descriptor = noted_in()
    os.lseek(descriptor, 0, os.SEEK_END)
    os.write(descriptor, (json.dumps(record) + "\n").encode())


def commands(name, given):
    """Return hooks as they are run: texts, for the shell, and lists of words.

    Raises:
        ValueError: They are none.
    """
    rule = "it must be a list of commands, each a text, which a shell reads, or a list of words"
    if not isinstance(given, (list, tuple)):
        raise ValueError(f"{name} is {given!r}; {rule}")
    found = []
    for number, one in enumerate(given, 1):
        if isinstance(one, (list, tuple)) and one and all(isinstance(word, (str, int, float)) for word in one):
            found.append([str(word) for word in one])
        elif isinstance(one, str) and one.strip():
            found.append(str(one))
        else:
            # Not its value: it may hold what is secret.
            raise ValueError(f"{name}[{number - 1}] is no command; {rule}")
    return found


def called(hook, number, command):
    """Return what a hook is called: by its program only, as words of it may be secret."""
    try:
        words = shlex.split(command) if isinstance(command, str) else command
    except ValueError:
        words = []
    program = os.path.basename(words[0]) if words else "sh"
    return inert(f"{hook} hook {number} ({program})")


def run(command, environment, seconds):
    """Run a hook; return what went wrong, if anything, and the end of what it wrote, as printable lines."""
    words = ["/bin/sh", "-c", command] if isinstance(command, str) else command
    try:
        process = begin(words, environment, own_session=True)
    except (OSError, ValueError) as error:
        return f"cannot be run: {getattr(error, 'strerror', None) or error}", []
    wrong = ""
    try:
        said = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[0]
        wrong = f"did not end within {seconds} s (orbiter_hooks_timeout) and was stopped"
    if not wrong and process.returncode:
        wrong = f"ended with exit code {process.returncode}"
    return wrong, [inert(line) for line in said.splitlines()[-LINES:]]
