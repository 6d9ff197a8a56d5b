"""Reads ``--agent``: an ``agent_config`` in a file or a module, checked here so that a slip costs no task."""

from __future__ import annotations

import json
import pkgutil
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from orbiter.distributed.client.payloads import agent_config
from orbiter.distributed.errors import ConfigurationError, did_you_mean, text_of
from orbiter.distributed.reading import REMEDY, not_for_this_user
from orbiter.distributed.runtimes.submitted import check_agent

# A module and a name in it, as workers' tools are written. A file of that name goes first.
_IN_A_MODULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", re.ASCII)
# What was probably meant to be one: hello, hello.AGENT, hello:, hello.py, ./hello.py:AGENT.
_LIKE_A_MODULE = re.compile(r"(?:\./)?(?P<module>[A-Za-z_]\w*)(?:\.py)?(?:[.:](?P<name>[A-Za-z_]\w*)?)?", re.ASCII)
_EXAMPLE = 'must be a JSON object, such as {"name": "helper", "model": "test"}'


class AgentFileError(ValueError):
    """There is no agent; the message names the file or the module, the field and the rule."""


def read_agent(source: str) -> dict[str, Any]:
    """Return the ``agent_config`` in a file, on standard input for ``-``, or in a module for ``module:NAME``.

    A module is looked for in the working directory first.

    Raises:
        AgentFileError: The file cannot be read, is not JSON, or breaks a rule of its kind of agent. The module cannot
            be imported, or has no such agent.
    """
    in_a_module = _IN_A_MODULE.fullmatch(source) and not Path(source).exists()
    config = _from_module(source) if in_a_module else _from_file(source)
    try:
        check_agent(config)
    except ConfigurationError as error:
        raise AgentFileError(f"{'standard input' if source == '-' else source}: {error}") from None
    return config


def _from_module(source: str) -> dict[str, Any]:
    here, before = str(Path.cwd()), list(sys.path)
    sys.path.insert(0, here)
    try:
        found = pkgutil.resolve_name(source)
    except AttributeError as error:
        near = did_you_mean(str(error.name), dir(error.obj))
        raise AgentFileError(f"{source}: {near}{error}; name an agent that it has") from None
    except ModuleNotFoundError as error:
        if (meant := _meant(source)) and ".py:" in source:
            raise AgentFileError(f"{source}: leave out the .py: {meant}") from None
        raise AgentFileError(f"{source}: {error}, neither in {here} nor installed beside this command") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the module's own code raises
        raise AgentFileError(f"{source}: importing it failed with {type(error).__name__}: {text_of(error)}") from None
    finally:
        sys.path[:] = before
    try:
        # What a task carries is JSON, and so is what a file has.
        return dict(json.loads(json.dumps(agent_config(found), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise AgentFileError(f"{source}: {error}") from None


def _from_file(path: str) -> dict[str, Any]:
    name = "standard input" if path == "-" else path
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
    except PermissionError:
        remedy = f"give it on standard input (--agent - < {shlex.quote(path)}), or {REMEDY}"
        raise AgentFileError(f"{not_for_this_user(name)}; {remedy}") from None
    except OSError as error:
        meant = _meant(path) if isinstance(error, FileNotFoundError) else ""
        remedy = f"; an agent in a module is named {meant}" if meant else ""
        raise AgentFileError(f"{name}: {error.strerror}{remedy}") from None
    except ValueError as error:
        raise AgentFileError(f"{name}: not UTF-8 text: {error}") from None
    if not text.strip():
        raise AgentFileError(f"{name}: is empty; {_EXAMPLE}")
    try:
        config = json.loads(text, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        if path.endswith(".py") and (meant := _meant(path)):
            raise AgentFileError(f"{name}: is Python, not JSON; name the agent in it: {meant}") from None
        raise AgentFileError(f"{name}: not JSON: line {error.lineno} column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise AgentFileError(f"{name}: not JSON: {error}") from None
    if not isinstance(config, dict):
        raise AgentFileError(f"{name}: {_EXAMPLE}")
    return config


def _meant(source: str) -> str:
    """Return how an agent in a module is named, where that was probably meant; else nothing."""
    found = _LIKE_A_MODULE.fullmatch(source)
    if not found or found["name"] in ("json", "toml", "yaml", "yml", "txt"):
        return ""
    return f"{found['module']}:{found['name'] or 'NAME'}"


def no_constant(name: str) -> None:
    """Refuse NaN and infinities, which Python reads although JSON has none."""
    raise ValueError(f"{name} is not a JSON number")
