"""Checks an ``agent_config`` before it is submitted, so that a slip costs no task.

Workers are more lenient, for clients of 0.1: they ignore keys that they do not know, and have a model of their own for
an agent that names none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orbiter.distributed.errors import ConfigurationError, did_you_mean
from orbiter.distributed.runtimes.agent_config import SHOWN_LEVELS, AgentConfig, SwarmConfig, parse_config
from orbiter.distributed.runtimes.function import CallableConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic import BaseModel

_SHOWN_KEY = 100
# Of the turns of a conversation.
ROLES = ("user", "assistant", "system")


def check_agent(config: Mapping[str, Any]) -> None:
    """Check an ``agent_config`` as far as any machine can: what it imports only its worker knows.

    One of another runtime than ``agent`` and ``callable`` is that runtime's to check.

    Raises:
        ConfigurationError: A key is unknown, or a field is missing or breaks its rule; the message names field and
            rule.
    """
    runtime = config.get("runtime", "agent")
    if not isinstance(runtime, str):
        raise ConfigurationError("agent_config.runtime: must be a string")
    if runtime == "callable":
        _check_keys(config, CallableConfig, "agent_config")
        parse_config(CallableConfig, dict(config))
    elif runtime == "agent":
        parts = list(_parts(config))
        for place, kind, part in parts:
            _check_keys(part, kind, place)
        if "agents" in config:
            parse_config(SwarmConfig, dict(config)).stages()
        else:
            parse_config(AgentConfig, dict(config))
        for place, kind, part in parts:
            if kind is AgentConfig and "model" not in part:
                raise ConfigurationError(
                    f"{place}.model: Field required, as nothing is sent to a model that nobody has named; write"
                    ' "openai:gpt-4o" (provider:model), or "test" for a model that needs neither key nor network'
                )


def check_turns(config: Mapping[str, Any], turns: Sequence[Mapping[str, Any]]) -> None:
    """Check the earlier turns of a conversation; what callables and other runtimes take is theirs to say.

    Raises:
        ConfigurationError: A turn has no text, or no role that an agent knows.
    """
    if config.get("runtime", "agent") != "agent":
        return
    for number, turn in enumerate(turns):
        if not isinstance(turn.get("content"), str):
            raise ConfigurationError(f"messages.{number}.content: must be a text")
        if turn.get("role") not in ROLES:
            raise ConfigurationError(f"messages.{number}.role: {turn.get('role')!r} is not {' or '.join(ROLES)}")


def _parts(config: Mapping[str, Any]) -> Iterator[tuple[str, type[BaseModel], Mapping[str, Any]]]:
    """Iterate over a swarm's or an agent's own part and those of the agents in it, with their places."""
    waiting = [("agent_config", SwarmConfig if "agents" in config else AgentConfig, config)]
    while waiting:
        place, kind, part = waiting.pop()
        yield place, kind, part
        field = "agents" if kind is SwarmConfig else "handoffs"
        inner = part.get(field)
        for number, agent in enumerate(inner if isinstance(inner, list) else ()):
            if isinstance(agent, dict):
                # Of agents nested without end, only the beginning is named.
                deeper = f"{place}.{field}.{number}" if place.count(".") < SHOWN_LEVELS else place
                waiting.append((deeper, AgentConfig, agent))


def _check_keys(config: Mapping[str, Any], kind: type[BaseModel], place: str) -> None:
    known = [*kind.model_fields, *(["runtime"] if place == "agent_config" else [])]
    for key in config:
        if key in known:
            continue
        meant = did_you_mean(str(key)[:_SHOWN_KEY], known)
        raise ConfigurationError(f"{place}.{str(key)[:_SHOWN_KEY]}: unknown key; {meant}Known are {', '.join(known)}")
