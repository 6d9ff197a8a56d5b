"""The queue's scripts, ``lua/{core,cluster,temporal}/*.lua``, and the parts that they share, ``lua/lib/*.lua``.

A part is one file that defines one local name, its own. Whoever uses it names it in a line ``--!include NAME …``, and
gets it, with what it includes itself, put before its own text. The times to live that settings decide are included in
the same way. ``python -m orbiter.distributed.broker.scripts --assemble FOLDER`` writes every script as servers get it,
for luacheck.

Clients run those of :data:`CLIENTS` only, operators those of :data:`OPERATORS`, too. Where their user may run scripts
by name alone, and load none, workers load these.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from orbiter.distributed.limits import (
    BROKEN_TTL,
    EVENT_TTL,
    FLEET_TTL,
    MINUTES,
    MINUTES_TTL,
    STREAM_EVENTS,
    TASK_TTL,
    USAGE_TTL,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from importlib.resources.abc import Traversable

    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript


FOLDERS = ("core", "cluster", "temporal")
LIBRARY = "lib"
# What users of Redis who only submit, follow and cancel tasks may run: roles/redis/files/client_scripts.json has these.
CLIENTS = (
    *("cluster/cancel", "cluster/enqueue", "cluster/submit", "cluster/unpark"),
    *("core/cancel", "core/end_events", "core/note_entry", "core/submit"),
)
# What an operator runs besides, who steers workers and runs tasks again, and may load no scripts either.
OPERATORS = ("cluster/requeue_dead_letter", "cluster/resubmit", "core/command", "core/resubmit")
# Seconds: of records of ended tasks, of records of tasks that may still run, of events, of the fleet's listing, and of
# keys that were moved aside; how many events a stream keeps; how many minutes, and seconds, a queue's counts are kept;
# and how many seconds its usage.
SETTINGS = (
    *("ENDED_TTL", "TASK_TTL", "EVENT_TTL", "FLEET_TTL", "BROKEN_TTL", "EVENT_CAP"),
    *("MINUTES", "MINUTES_TTL", "USAGE_TTL"),
)
_INCLUDE = re.compile(r"^--!include (.+)$", re.MULTILINE)


class IncludeError(Exception):
    """A script includes what does not exist, or a part includes itself; the message names both."""


def _folder() -> Traversable:
    return files("orbiter.distributed.broker") / "lua"


def names() -> list[str]:
    """Return the names of all scripts: ``core/submit`` and so on."""
    return sorted(
        f"{folder}/{file.name.removesuffix('.lua')}" for folder in FOLDERS for file in (_folder() / folder).iterdir()
    )


def assemble(name: str, settings: Mapping[str, int], *, folder: Traversable | None = None) -> str:
    """Return a script with what it includes, directly or not, each part once and behind what it uses itself.

    The server makes each function anew at each call: those that a script does not use would cost it as much as a small
    script does itself.

    Args:
        name: The script, ``FOLDER/NAME``.
        settings: Values of :data:`SETTINGS`, seconds.
        folder: Where the scripts are, instead of beside this module.

    Raises:
        IncludeError: It includes what does not exist, or a part includes itself.
    """
    root = _folder() if folder is None else folder
    shebang, body = (root / f"{name}.lua").read_text(encoding="utf-8").split("\n", 1)
    parts: dict[str, str] = {}

    def include(text: str, *path: str) -> None:
        for part in includes(text):
            if part in path:
                raise IncludeError(f"lua: {' includes '.join((*path, part))}: no part may include itself")
            if part in parts:
                continue
            file = root / LIBRARY / f"{part}.lua"
            if part in settings:
                # As text: a number costs the server a conversion at each use.
                source = f"local {part} = '{settings[part]:d}'"
            elif file.is_file():
                source = file.read_text(encoding="utf-8")
                include(source, *path, part)
            else:
                raise IncludeError(f"lua: {path[-1]} includes {part}: no file of {LIBRARY}/ and no setting")
            parts[part] = source

    include(body, name)
    return "\n".join((shebang, *parts.values(), body))


def includes(text: str) -> list[str]:
    """Return the names that a script or a part includes itself."""
    return [part for line in _INCLUDE.findall(text) for part in line.split()]


@cache
def _source(name: str, task_ttl: int = TASK_TTL, event_ttl: int = EVENT_TTL, stream_events: int = STREAM_EVENTS) -> str:
    settings = {
        "ENDED_TTL": task_ttl,
        "TASK_TTL": TASK_TTL,
        "EVENT_TTL": event_ttl,
        "FLEET_TTL": FLEET_TTL,
        "BROKEN_TTL": BROKEN_TTL,
        "EVENT_CAP": stream_events,
        "MINUTES": MINUTES,
        "MINUTES_TTL": MINUTES_TTL,
        "USAGE_TTL": USAGE_TTL,
    }
    return assemble(name, settings)


def script(
    client: Redis,
    name: str,
    *,
    task_ttl: int = TASK_TTL,
    event_ttl: int = EVENT_TTL,
    stream_events: int = STREAM_EVENTS,
) -> AsyncScript:
    """Return a script, callable on this client.

    Args:
        client: Where it will run.
        name: Which one, ``FOLDER/NAME``.
        task_ttl: Seconds for which the record of a task is kept that it ends.
        event_ttl: Seconds for which events are kept that it adds.
        stream_events: How many events a stream keeps.
    """
    return client.register_script(_source(name, task_ttl, event_ttl, stream_events))


@cache
def client_scripts() -> Mapping[str, str]:
    """Return the scripts that clients run, by the hash by which they do."""
    return _by_hash(CLIENTS)


@cache
def shared_scripts() -> Mapping[str, str]:
    """Return the scripts that others than workers run, by the hash by which they do."""
    return _by_hash((*CLIENTS, *OPERATORS))


def _by_hash(scripts: Iterable[str]) -> Mapping[str, str]:
    sources = [_source(name) for name in scripts]
    return {hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest(): source for source in sources}


def write_all(folder: Path) -> None:
    """Write every script as servers get it: ``FOLDER/core/submit.lua`` and so on."""
    for name in names():
        path = folder / f"{name}.lua"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_source(name), encoding="utf-8")


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description="The queue's scripts.")
    parser.add_argument("--assemble", metavar="FOLDER", type=Path, required=True, help="write every script there")
    write_all(parser.parse_args().assemble)
