# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks the fleet's own command, `orbiter --json`: the host's Python need not know of Redis."""

from __future__ import annotations

import json
import os
import subprocess

# Where the role `worker` puts it; a PATH of sudo or cron may leave this out. The release's own would run application
# code as whoever runs the module, who is root.
PLACES = ["/usr/local/bin"]

# What every module takes; described in doc_fragments/redis.py.
CONNECTION = {
    "redis_url": {"type": "str", "no_log": True},
    "namespace": {"type": "str"},
    "queue": {"type": "str"},
    "executable": {"type": "path"},
}


def inert(text):
    """Return a text of a task or worker as a person may be shown it: one line, with what is not printable escaped.

    Ansible prints messages and differences as they are.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text))


def begin(words, variables, own_session=False):
    """Start a program that writes all that it says into one text, and return its process.

    Args:
        words: The program and its arguments.
        variables: What its environment has beside this one's.
        own_session: Whether what it starts can be stopped with it, as one group of processes.

    Raises:
        OSError: It cannot be started.
        ValueError: A word holds a NUL, which none can.
    """
    return subprocess.Popen(
        words,
        env=dict(os.environ, **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=own_session,
    )


class CommandError(Exception):
    """The command could not do what it was asked; the message is its own."""

    def __init__(self, message):
        super().__init__(inert(message))


class TooLongError(Exception):
    """The command did not end within its time."""


class Command:
    """The command of one host, with the namespace and the queue that a module was told.

    Args:
        executable: The command.
        redis_url: Where Redis is; without it, where the host's settings say.
        queue: The queue; without it, the host's own.
        namespace: First word of all keys; without it, the host's own.
        through: A program, with its arguments, that runs the command elsewhere, such as in a container.
    """

    def __init__(self, executable, redis_url=None, queue=None, namespace=None, through=()):
        self.executable = executable
        self.queue = queue
        self._through = through
        # An option, as on worker hosts the command reads the host's own settings over its environment.
        self._namespace_words = [] if namespace is None else ["--namespace", namespace]
        # By environment only: everybody on the host can read a process's command line.
        self._environment = dict(os.environ, NO_COLOR="1", **({"ORBITER_REDIS_URL": redis_url} if redis_url else {}))

    def queue_words(self):
        """Return the option that names the queue; without it, the host's own setting counts."""
        return ["--queue", self.queue] if self.queue else []

    def ask(self, *words, given="", within=None):
        """Return what the command answers in JSON.

        It may say so and end with 1, or with 3 where a task has that id: what was not done is in the answer.

        Args:
            words: What to ask: a command of two words, and its options.
            given: Text for its standard input.
            within: Seconds that it may take.

        Raises:
            CommandError: It did not answer.
            TooLongError: It did not within its time; it has been stopped.
        """
        try:
            done = subprocess.run(
                [*self._through, self.executable, *words[:2], *self._namespace_words, *words[2:]],
                input=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment,
                timeout=within,
                text=True,
                errors="replace",
                check=False,
            )
        except (OSError, ValueError) as error:
            # ValueError: a word of the command line holds a NUL, which none can.
            reason = error.strerror if isinstance(error, OSError) else error
            raise CommandError(f"Cannot run {self.executable}: {reason}") from None
        except subprocess.TimeoutExpired:
            raise TooLongError(f"{' '.join(words[:2])} did not end within {within} s") from None
        try:
            if done.returncode in (0, 1, 3):
                return json.loads(done.stdout)
        except ValueError:
            pass
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise CommandError(
            said[-1] if said else f"{self.executable} {' '.join(words[:2])} ended with {done.returncode}"
        )


def command_of(module):
    """Return the command as a module's options name it; end the module where there is none."""
    executable = module.params["executable"] or module.get_bin_path("orbiter", opt_dirs=PLACES)
    if executable is None:
        module.fail_json(
            msg=f"This host has no command orbiter (looked on PATH and in {' and '.join(PLACES)}). "
            "Run the module on a worker host, or name the command by 'executable'."
        )
    return Command(executable, module.params["redis_url"], module.params["queue"], module.params["namespace"])
