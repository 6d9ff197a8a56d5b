"""Several agents on one task: a workflow of stages, agents that hand over, or a lead that delegates."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from pydantic_ai import Tool

from orbiter.distributed.errors import ConfigurationError, TransientError
from orbiter.distributed.models import StatusEvent, Usage
from orbiter.distributed.runtimes.agent_config import DEFAULT_STEPS, AgentConfig, SwarmConfig
from orbiter.distributed.runtimes.agent_steps import AgentRunner, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic_ai.models import Model

    from orbiter.distributed.runtimes import RunContext
    from orbiter.distributed.runtimes.imports import ImportGuard


class Swarm:
    """Runs a :class:`SwarmConfig`. None of its agents ever ends the task's stream; the worker does."""

    def __init__(self, config: SwarmConfig, guard: ImportGuard, resolve: Callable[[str], Model]) -> None:
        self._config = config
        self._max_handoffs = guard.limits.steps_of(config.max_handoffs, DEFAULT_STEPS, "max_handoffs")
        self._runners = {agent.name: AgentRunner(agent, guard, resolve) for agent in config.agents}
        self._stages = config.stages()

    @property
    def models(self) -> tuple[str, ...]:
        """The models that the configuration names, each once."""
        return tuple(dict.fromkeys(agent.model for agent in self._config.agents))

    @classmethod
    def of_handoffs(cls, config: AgentConfig, guard: ImportGuard, resolve: Callable[[str], Model]) -> Swarm:
        """Make a swarm of one agent and all those which it, or one of them, may hand over to."""
        agents: dict[str, AgentConfig] = {}
        waiting = [config]
        while waiting:
            agent = waiting.pop(0)
            if agent.name not in agents:
                agents[agent.name] = agent
                waiting.extend(agent.handoffs)
        return cls(SwarmConfig(agents=list(agents.values()), mode="handoff"), guard, resolve)

    async def run(self, context: RunContext) -> tuple[list[Reply], str | None]:
        """Return the answers in the order in which they came, and why it ended early, if it did."""
        match self._config.mode:
            case "workflow":
                return await self._workflow(context)
            case "handoff":
                return await self._handoff(context)
            case "team":
                return await self._team(context)

    async def _workflow(self, context: RunContext) -> tuple[list[Reply], str | None]:
        """Give each stage the output of the one before; the agents of a stage all get the same input."""
        replies: list[Reply] = []
        prompt = context.input
        for stage in self._stages:
            for name in stage:
                _status(context, "running", name, f"Workflow executing agent '{name}'")
            answers = await self._stage(context, stage, prompt, first=not replies)
            replies.extend(answers)
            prompt = "\n\n".join(answer.output for answer in answers)
        return replies, None

    async def _stage(self, context: RunContext, stage: Sequence[str], prompt: str, *, first: bool) -> list[Reply]:
        runs = [self._runners[name].run(context, prompt, nothing_to_lose=first) for name in stage]
        if len(runs) == 1:
            return [await runs[0]]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(run) for run in runs]
        except BaseExceptionGroup as errors:
            _raise_decisive(errors)
        return [task.result() for task in tasks]

    async def _handoff(self, context: RunContext) -> tuple[list[Reply], str | None]:
        """Start with the first agent; an answer that is the name of one of its handoffs passes the input on to that."""
        replies: list[Reply] = []
        current = self._config.agents[0]
        handoffs = 0
        while True:
            _status(context, "running", current.name, f"Handoff executing agent '{current.name}'")
            runner = self._runners[current.name]
            reply = await runner.run(context, context.input, nothing_to_lose=not replies)
            replies.append(reply)
            target = reply.output.strip()
            if target not in {agent.name for agent in current.handoffs} or target not in self._runners:
                return replies, None
            if handoffs >= self._max_handoffs:
                return replies, "max_handoffs"
            handoffs += 1
            _status(context, "running", target, f"Handoff from '{current.name}' to '{target}'")
            current = self._runners[target].config

    async def _team(self, context: RunContext) -> tuple[list[Reply], str | None]:
        """Give the first agent a tool ``delegate_to_{name}`` for each of the others."""
        replies: list[Reply] = []
        lead, *others = self._config.agents
        tools = [self._delegation(context, other.name, replies) for other in others]
        _status(context, "running", lead.name, f"Team lead '{lead.name}' starting execution")
        replies.append(await self._runners[lead.name].run(context, context.input, tools))
        return replies, None

    def _delegation(self, context: RunContext, name: str, replies: list[Reply]) -> Tool[RunContext]:
        async def delegate(task: str) -> str:
            reply = await self._runners[name].run(context, task, nothing_to_lose=False)
            replies.append(reply)
            return reply.output

        # A model's tool names are letters, digits, _ and -.
        tool_name = re.sub(r"[^A-Za-z0-9_-]", "_", f"delegate_to_{name}")
        return Tool(delegate, name=tool_name, description=f"Give a task to {name} and return the answer.")


def swarm_result(replies: Sequence[Reply], stop_reason: str | None) -> dict[str, Any]:
    """Return a task's result: ``output`` is all agents' text joined, as in 0.1, ``final_output`` the last answer."""
    last = replies[-1]
    result: dict[str, Any] = {"output": "".join(reply.text for reply in replies), "final_output": last.output}
    if last.data is not None:
        result["data"] = last.data
    usages = [reply.usage for reply in replies]
    result["usage"] = Usage(
        input_tokens=sum(usage.input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        total_tokens=sum(usage.total_tokens for usage in usages),
    ).model_dump()
    reasons = [stop_reason, *(reply.stop_reason for reply in replies)]
    reason = next((reason for reason in reasons if reason), None)
    if reason:
        result["stop_reason"] = reason
    return result


def _status(context: RunContext, status: Literal["running"], name: str, message: str) -> None:
    if context.payload.detailed:
        context.emit(StatusEvent(status=status, agent_name=name, message=message))


def _raise_decisive(errors: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise the one error of a stage that decides most: never again, then not before, then any."""
    for kind in (ConfigurationError, TransientError, BaseException):
        found = errors.subgroup(kind)
        while found is not None:
            first = found.exceptions[0]
            if not isinstance(first, BaseExceptionGroup):
                raise first from errors
            found = first
    raise errors
