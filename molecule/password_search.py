"""Look for passwords where they must not be: on hosts, in processes, and in what programs say."""

from __future__ import annotations

import base64
import json
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

GREP = "grep --fixed-strings --text --file=/dev/shm/words"


def words(*inventories: Mapping[str, Any]) -> set[str]:
    """Return every password of inventories, as it is and in each way that it may be written."""
    found = set()
    for variables in inventories:
        registry = variables.get("image_registry_password")
        users = variables["orbiter_redis_users"].values()
        passwords = {variables["orbiter_redis_password"], registry, *(user["password"] for user in users)}
        # What the role treats as secret, such as a model provider's key.
        for name in ("worker_extra_env", "worker_task_env"):
            passwords |= set(variables.get(name, {}).values())
        for password in passwords - {None}:
            found |= _spellings(password)
        if registry:
            # As Docker keeps a login.
            found.add(base64.b64encode(f"{variables['image_registry_username']}:{registry}".encode()).decode())
    return found


def _spellings(password: str) -> set[str]:
    """Return how a password may be written: as it is, in a URL, in JSON, in double quotes of a shell or of Compose."""
    shell, compose = (
        "".join(f"\\{letter}" if letter in special else letter for letter in password) for special in ('\\"$`', '\\"$')
    )
    escaped = {json.dumps(password)[1:-1], json.dumps(password, ensure_ascii=False)[1:-1]}
    return {password, quote(password, safe=""), quote(password), shell, compose, *escaped}


@contextmanager
def watched_processes(wanted: Iterable[str]) -> Iterator[list[str]]:
    """Collect the command lines with one of the words, of all processes of this machine: containers' too."""
    seen: list[str] = []
    end = threading.Event()

    def watch() -> None:
        while not end.wait(0.05):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue  # it has ended
                seen.extend(line for word in wanted if word in line)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        end.set()
        thread.join()


def files_with(host: Any, wanted: Iterable[str]) -> list[str]:
    """Return a host's files with one of the words."""
    _bring(host, wanted)
    folders = "/etc /var /usr/local /opt /root /home /run /tmp"
    return host.run(f"{GREP} --recursive --files-with-matches --devices=skip {folders}").stdout.split()  # type: ignore[no-any-return]


def lines_with(host: Any, wanted: Iterable[str], *commands: str) -> str:
    """Return what lines with one of the words commands say on a host; its journal, units and processes always do."""
    _bring(host, wanted)
    always = ("journalctl --no-pager", "systemctl show '*'", "cat /proc/[0-9]*/cmdline")
    said = "; ".join((*always, *commands))
    return host.run(f"({said}) 2>&1 | {GREP}").stdout  # type: ignore[no-any-return]


def _bring(host: Any, wanted: Iterable[str]) -> None:
    """Give a host the words in a file beyond what is searched, not in clear: no command line may be what is found."""
    encoded = base64.b64encode(("\n".join(sorted(wanted)) + "\n").encode()).decode()
    host.check_output(f"umask 077; echo {encoded} | base64 --decode >/dev/shm/words")
