"""Steps of an agent that are not repeated: what an earlier run of the task has finished is replayed."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from pydantic_ai import exceptions
from pydantic_ai import messages as ai
from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset

from orbiter.distributed.runtimes import RunContext

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection

    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.tools import RunContext as ToolContext

    from orbiter.distributed.runtimes import Journal

logger = logging.getLogger(__name__)

# The tool call within which an agent runs: that of a lead that delegates.
_WITHIN: ContextVar[str] = ContextVar("orbiter_within", default="")
_RETURNED: TypeAdapter[Any] = TypeAdapter(ai.ToolReturn | ai.ToolReturnContent)


def scope_of(journal: Journal, agent_name: str) -> str:
    """Return under which name the steps of an agent that starts now are journaled."""
    return journal.scope(f"{_WITHIN.get()}{agent_name}")


class JournaledModel(WrapperModel):
    """Journals every finished response; replays those which an earlier run was given.

    Args:
        model: Answers.
        journal: Keeps the responses.
        scope: Whose requests.

    Attributes:
        replayed: Whether the last response was replayed.
    """

    def __init__(self, model: Model, journal: Journal, scope: str) -> None:
        super().__init__(model)
        self._journal = journal
        self._scope = scope
        self._number = 0
        self.replayed = False

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ai.ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: ToolContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Stream a response; one that is replayed comes as if it were made now."""
        self._number += 1
        key = f"{self._scope} model {self._number}"
        known = self._journal.replay(key)
        self.replayed = known is not None
        if known is not None:
            (response,) = ai.ModelMessagesTypeAdapter.validate_python([known])
            assert isinstance(response, ai.ModelResponse)  # noqa: S101 - what append() below was given
            yield CompletedStreamedResponse(
                response, model_request_parameters=model_request_parameters, replay_events=True
            )
            return
        async with self.wrapped.request_stream(
            messages, model_settings, model_request_parameters, run_context
        ) as stream:
            yield stream
        (response_json,) = ai.ModelMessagesTypeAdapter.dump_python([stream.get()], mode="json")
        await self._journal.append(key, response_json)


@dataclass
class JournaledTools(WrapperToolset[RunContext]):
    """Journals what every finished call of a tool returned, also that it failed.

    Attributes:
        wrapped: Calls the tools.
        journal: Keeps the values.
        scope: Whose calls.
        running_agents: Tools that run an agent: its steps are journaled, and what it does beside them is to be done.
    """

    wrapped: AbstractToolset[RunContext]
    journal: Journal
    scope: str
    running_agents: Collection[str] = field(default_factory=set)

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: ToolContext[RunContext], tool: ToolsetTool[RunContext]
    ) -> Any:
        """Call a tool, unless it was called before."""
        key = f"{self.scope} tool {ctx.run_step} {name} {ctx.tool_call_id}"
        if name in self.running_agents:
            token = _WITHIN.set(f"{key} > ")
            try:
                return await super().call_tool(name, tool_args, ctx, tool)
            finally:
                _WITHIN.reset(token)
        known = self.journal.replay(key)
        if known is not None:
            return _replayed(known)
        try:
            value = await super().call_tool(name, tool_args, ctx, tool)
        except exceptions.ToolFailed as error:
            await self.journal.append(key, {"failed": error.message})
            raise
        except exceptions.ModelRetry as error:
            await self.journal.append(key, {"retry": error.message})
            raise
        try:
            gave = _RETURNED.dump_python(value, mode="json")
        except (ValueError, RecursionError) as error:
            logger.warning("result of tool %s not journaled, as it is not JSON: %s", name, error)
        else:
            await self.journal.append(key, {"gave": gave})
        return value


def _replayed(known: dict[str, Any]) -> Any:
    if "failed" in known:
        raise exceptions.ToolFailed(known["failed"])
    if "retry" in known:
        raise exceptions.ModelRetry(known["retry"])
    return _RETURNED.validate_python(known["gave"])
