"""Reads ``--agent``: a file with an ``agent_config``, checked here so that a slip costs no task."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from orbiter.distributed.errors import ConfigurationError
from orbiter.distributed.reading import REMEDY, not_for_this_user
from orbiter.distributed.runtimes.submitted import check_agent


class AgentFileError(ValueError):
    """The file is no agent; the message names the file, the field and the rule."""


def read_agent(path: str) -> dict[str, Any]:
    """Return the ``agent_config`` in a file, or on standard input for ``-``.

    Raises:
        AgentFileError: The file cannot be read, is not JSON, or breaks a rule of its kind of agent.
    """
    name = "standard input" if path == "-" else path
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
    except PermissionError:
        remedy = f"give it on standard input (--agent - < {shlex.quote(path)}), or {REMEDY}"
        raise AgentFileError(f"{not_for_this_user(name)}; {remedy}") from None
    except OSError as error:
        raise AgentFileError(f"{name}: {error.strerror}") from None
    except ValueError as error:
        raise AgentFileError(f"{name}: not UTF-8 text: {error}") from None
    try:
        config = json.loads(text, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        raise AgentFileError(f"{name}: not JSON: line {error.lineno} column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise AgentFileError(f"{name}: not JSON: {error}") from None
    if not isinstance(config, dict):
        raise AgentFileError(f'{name}: must be a JSON object, such as {{"name": "helper", "model": "test"}}')
    try:
        check_agent(config)
    except ConfigurationError as error:
        raise AgentFileError(f"{name}: {error}") from None
    return config


def no_constant(name: str) -> None:
    """Refuse NaN and infinities, which Python reads although JSON has none."""
    raise ValueError(f"{name} is not a JSON number")
