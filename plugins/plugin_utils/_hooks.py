# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator's commands and webhooks around a deploy; what hands those of its end from a task to the run's end."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
from http.client import HTTPException
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from ansible.module_utils.urls import ConnectionError as NoConnection
from ansible.module_utils.urls import open_url
from ansible_collections.orbiter.fleet.plugins.module_utils._command import begin, inert
from ansible_collections.orbiter.fleet.plugins.module_utils._deployer import main_pid

# Names a process and its open file, which the tasks of that process inherit.
NOTES = "ORBITER_HOOKS_NOTES"
AFTER = ("after_deploy", "after_failure")
LINES = 20  # of what a hook writes
WEBHOOK = "{url: 'https://chat.example.net/hooks/1'}"


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
    """Return hooks as they are run: texts, for the shell, lists of words, and webhooks with their URL.

    Raises:
        ValueError: They are none.
    """
    rule = f"must be a list of hooks, each a text, which a shell reads, a list of words, or a webhook such as {WEBHOOK}"
    if not isinstance(given, (list, tuple)):
        # Not its value, here and below: it may hold what is secret.
        raise ValueError(f"{name} is no list; it {rule}")
    found = []
    for number, one in enumerate(given, 1):
        if isinstance(one, (list, tuple)) and one and all(isinstance(word, (str, int, float)) for word in one):
            found.append([str(word) for word in one])
        elif isinstance(one, str) and one.strip():
            found.append(str(one))
        elif isinstance(one, dict):
            found.append({"url": _url(f"{name}[{number - 1}]", one)})
        else:
            raise ValueError(f"{name}[{number - 1}] is no hook; {name} {rule}")
    return found


def _url(named, webhook):
    """Return the URL of a webhook.

    Raises:
        ValueError: It has none that can be used, or more than that.
    """
    if set(webhook) != {"url"}:
        keys = ", ".join(sorted(map(str, webhook))) or "nothing"
        raise ValueError(f"{named} has {keys}; a webhook has url alone, such as {WEBHOOK}")
    url = webhook["url"]
    try:
        parts = urlsplit(url) if isinstance(url, str) and url.isascii() and url.isprintable() else None
        if parts and " " not in url and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return str(url)
    except ValueError:  # a port that is no number
        pass
    raise ValueError(
        f"{named}.url is refused, and not shown, as it may be secret; it must begin with http:// or https:// and "
        f"a host, and have ASCII characters only, without spaces, such as {WEBHOOK}"
    )


def called(hook, number, command):
    """Return what a hook is called: by its program or its host only, as the rest of it may be secret."""
    if isinstance(command, dict):
        return inert(f"{hook} hook {number} (webhook of {urlsplit(command['url']).hostname})")
    try:
        words = shlex.split(command) if isinstance(command, str) else command
    except ValueError:
        words = []
    program = os.path.basename(words[0]) if words else "sh"
    return inert(f"{hook} hook {number} ({program})")


def run(command, environment, seconds):
    """Run a hook; return what went wrong, if anything, and the end of what it wrote, as printable lines."""
    if isinstance(command, dict):
        return _post(command["url"], environment, seconds), []
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


def message(environment):
    """Return what a webhook is sent: what hooks have in their environment, and a text of it, which chats show."""
    told = {name.removeprefix("ORBITER_").lower(): text for name, text in environment.items()}
    for name in ("hosts", "failed_hosts"):
        told[name] = told[name].split(",") if told[name] else []
    of = f" of {told['release']}" if told["release"] else ""
    on = f" on {', '.join(told['failed_hosts'])}" if told["failed_hosts"] else ""
    by = f", by {told['user']}" if told["user"] else ""
    return told | {"text": f"{told['playbook']}{of} {told['outcome']}{on}{by}"}


def _post(url, environment, seconds):
    """Post to a webhook; return what went wrong, if anything, without the URL."""
    ended = []
    # A time-out of open_url is one of each read: a receiver that answers byte by byte would hold up the deploy.
    thread = Thread(target=lambda: ended.append(_answer(url, message(environment), seconds)), daemon=True)
    thread.start()
    thread.join(seconds)
    return ended[0] if ended else _late(seconds)


def _late(seconds):
    return f"did not answer within {seconds} s (orbiter_hooks_timeout)"


def _answer(url, body, seconds):
    """Post to a webhook and wait for its answer; return what went wrong, if anything, without the URL."""
    headers = {"Content-Type": "application/json"}
    try:
        # Who answers with another place is told nothing there: the operator names the place.
        options = {"method": "POST", "timeout": seconds, "follow_redirects": "none"}
        open_url(url, data=json.dumps(body).encode(), headers=headers, **options).close()
    except HTTPError as error:
        return f"was answered with {error.code}"
    except (OSError, ValueError, HTTPException, NoConnection) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            return _late(seconds)
        return f"was not reached: {getattr(reason, 'strerror', None) or type(reason).__name__}"
    return ""
