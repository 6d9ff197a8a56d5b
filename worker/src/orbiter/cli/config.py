"""``orbiter config``: which settings are in force, and where each comes from."""

from __future__ import annotations

import os
from typing import Any

import click

from orbiter.cli.application import LazyGroup
from orbiter.cli.failures import UsageFailure
from orbiter.cli.options import json_option
from orbiter.cli.render import print_json, print_view, table
from orbiter.cli.settings_file import checked, defaults, empty_list, find, read
from orbiter.distributed.connection.redis_url import mask
from orbiter.distributed.limits import variable
from orbiter.distributed.names import queue_in


@click.group(cls=LazyGroup)
def config() -> None:
    """See which settings are in force, and where they come from."""


@config.command("show")
@json_option
def show(as_json: bool) -> None:
    """List every setting with its value and its source: the environment, orbiter.toml or the default.

    A flag of a command wins over all of them. Of URLs, only host and port are shown.
    """
    path = find()
    found = _in_force({} if path is None else read(path), str(path))
    if as_json:
        settings = {name: {"value": value, "source": source} for name, (value, source) in found.items()}
        print_json({"file": None if path is None else str(path), "settings": settings})
        return
    rows = [(name, _text(value), source) for name, (value, source) in found.items()]
    print_view(table("Settings", ("Setting", "Value", "Source"), rows))


def _in_force(from_file: dict[str, Any], path: str) -> dict[str, tuple[Any, str]]:
    found = {}
    for name, default in defaults().items():
        value, source = default, "default"
        text = os.environ.get(variable(name))
        if text or (isinstance(default, tuple) and empty_list(variable(name))):
            try:
                value, source = checked(name, text, strict=False), f"environment ({variable(name)})"
            except ValueError as error:
                raise UsageFailure(f"Error: {variable(name)}: {str(error).removesuffix('.')}.") from None
        elif name in from_file:
            value, source = from_file[name], f"file ({path})"
        elif name == "worker_id":
            source = "default (generated)"
        found[name] = (mask(value) if isinstance(value, str) and "://" in value else value, source)
    # As the commands have it: with the namespace before it.
    queue, source = found["queue"]
    found["queue"] = queue_in(found["namespace"][0], queue), source
    return found


def _text(value: Any) -> str:
    if value is None or value in ("", ()):
        return "-"
    return ",".join(value) if isinstance(value, tuple) else str(value)
