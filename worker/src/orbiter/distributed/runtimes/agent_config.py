"""The JSON of an agent and of a swarm, checked: the shapes of orbiter-distributed 0.1."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, field_validator

from orbiter.distributed.errors import ConfigurationError

_Config = TypeVar("_Config", bound=BaseModel)

# A message can hold a thousand mistakes, a thousand levels down; a person reads the first.
SHOWN_PROBLEMS = 10
SHOWN_LEVELS = 12
# Round trips of an agent, and handoffs of a swarm.
DEFAULT_STEPS = 10


class AgentConfig(BaseModel):
    """One agent.

    Attributes:
        name: Name shown in events and listings.
        model: ``provider:model``; without a colon the provider is OpenAI; ``test`` needs no network.
        instructions: The system prompt.
        max_steps: Model round trips at most.
        temperature: Sampling temperature; nothing is sent when it is absent, as 1.0 is every provider's own default
            and some models refuse the parameter.
        max_tokens: Limit of one answer.
        tools: Dotted paths of functions.
        handoffs: Agents that may take over.
        output_type: Dotted path of a pydantic class that the answer must fit.
        tool_errors: Who is told what a tool raises: the ``model``, which goes on, or the ``task``, which is run again
            or fails.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(min_length=1)
    model: str = Field(default="openai:gpt-4o", min_length=1)
    instructions: str = ""
    max_steps: int = Field(default=DEFAULT_STEPS, ge=1)
    temperature: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    max_tokens: int | None = Field(default=None, ge=1)
    # The first finding is enough: there may be hundreds of thousands.
    tools: Annotated[list[str], FailFast()] = Field(default_factory=list)
    handoffs: list[AgentConfig] = Field(default_factory=list)
    output_type: str | None = None
    tool_errors: Literal["model", "task"] = "model"


class SwarmConfig(BaseModel):
    """Several agents working on one task.

    Attributes:
        agents: The agents; names must differ.
        flow: Order of a workflow, ``a >> (b | c) >> d``; without it, list order.
        mode: ``workflow``, ``handoff`` or ``team``.
        max_handoffs: Transfers at most, in mode ``handoff``.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    agents: list[AgentConfig] = Field(min_length=1)
    flow: str | None = None
    mode: Literal["workflow", "handoff", "team"] = "workflow"
    max_handoffs: int = Field(default=DEFAULT_STEPS, ge=0)

    @field_validator("agents")
    @classmethod
    def _names_differ(cls, agents: list[AgentConfig]) -> list[AgentConfig]:
        counts = Counter(agent.name for agent in agents)
        twice = sorted(name for name, count in counts.items() if count > 1)
        if twice:
            raise ValueError(f"agents must have different names; twice: {', '.join(twice)}")
        return agents

    def stages(self) -> list[list[str]]:
        """Return the workflow as stages of agent names; the agents of one stage run concurrently.

        Raises:
            ConfigurationError: ``flow`` cannot be read or names an agent that is not there.
        """
        if not self.flow:
            return [[agent.name] for agent in self.agents]
        known = {agent.name for agent in self.agents}
        stages = []
        for text in self.flow.split(">>"):
            group = re.fullmatch(r"\((.*)\)", text.strip())
            names = [name.strip() for name in group[1].split("|")] if group else [text.strip()]
            for name in names:
                if name not in known:
                    raise ConfigurationError(
                        f"agent_config.flow: {name!r} is not one of the agents {', '.join(sorted(known))};"
                        " a flow is written like a >> (b | c) >> d"
                    )
            stages.append(names)
        return stages


def parse_config(kind: type[_Config], config: dict[str, Any]) -> _Config:
    """Read one of the above.

    Raises:
        ConfigurationError: A field is missing or breaks its rule; the message names field and rule.
    """
    try:
        return kind.model_validate(config)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
    rows = [f"{_path(row['loc'])}: {row['msg']}" for row in found[:SHOWN_PROBLEMS]]
    if len(found) > SHOWN_PROBLEMS:
        rows.append(f"and {len(found) - SHOWN_PROBLEMS} more")
    raise ConfigurationError("; ".join(rows))


def _path(location: tuple[int | str, ...]) -> str:
    """Return where in the configuration; of agents nested without end only the beginning."""
    parts = [str(part)[:100] for part in ("agent_config", *location)]
    return ".".join(parts if len(parts) <= SHOWN_LEVELS else [*parts[:SHOWN_LEVELS], "…"])
