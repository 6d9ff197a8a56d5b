"""One agent of pydantic-ai, run to its end: its steps become our events, its answer a :class:`Reply`."""

from __future__ import annotations

import inspect
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pydantic_core
from pydantic import ConfigDict, TypeAdapter
from pydantic_ai import Agent, ModelSettings, Tool, exceptions
from pydantic_ai import messages as ai
from pydantic_ai.toolsets import AbstractToolset, FunctionToolset, ToolsetTool, WrapperToolset
from pydantic_ai.usage import UsageBase, UsageLimits

from orbiter.distributed.errors import ConfigurationError, OrbiterError, kind_of, text_of
from orbiter.distributed.models import (
    ReasoningEvent,
    StatusEvent,
    StepEvent,
    TextEvent,
    ToolCallEvent,
    ToolResultEvent,
    Usage,
    UsageEvent,
)
from orbiter.distributed.plain_json import json_text, jsonable, whole_string
from orbiter.distributed.runtimes import RunContext
from orbiter.distributed.runtimes.agent_config import DEFAULT_STEPS
from orbiter.distributed.runtimes.journaled import JournaledModel, JournaledTools, scope_of
from orbiter.distributed.runtimes.model_access import orbiter_error
from orbiter.distributed.runtimes.threads import DAEMON_THREADS
from orbiter.distributed.runtimes.user_code import UserCode, frames_of_user_code
from orbiter.distributed.telemetry.tracing import agent_instrumentation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic_ai.models import Model
    from pydantic_ai.run import AgentRun
    from pydantic_ai.tools import RunContext as ToolContext

    from orbiter.distributed.runtimes.agent_config import AgentConfig
    from orbiter.distributed.runtimes.imports import ImportGuard

logger = logging.getLogger(__name__)

# As pydantic-ai writes what a tool gave.
_SENT: TypeAdapter[Any] = TypeAdapter(Any, config=ConfigDict(ser_json_bytes="base64"))

# What a tool raises on purpose: to pydantic-ai, or to us about the whole task.
_DELIBERATE = (
    exceptions.ModelRetry,
    exceptions.ToolFailed,
    exceptions.CallDeferred,
    exceptions.ApprovalRequired,
    exceptions.UserError,
    OrbiterError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one agent answered.

    Attributes:
        text: All its text deltas joined, as 0.1 gives it.
        output: Its last answer alone: what the next agent gets.
        data: The answer as JSON where the agent has an ``output_type``.
        usage: Tokens of all steps.
        stop_reason: Why it ended before it was done, or ``None``.
    """

    text: str
    output: str
    data: Any = None
    usage: Usage
    stop_reason: str | None = None


class AgentRunner:
    """Runs one configured agent; a swarm has several."""

    def __init__(self, config: AgentConfig, guard: ImportGuard, resolve: Callable[[str], Model]) -> None:
        """Import the agent's tools and output type.

        Raises:
            ConfigurationError: One of them is refused, missing, or not what it should be.
            TaskLimitError: It asks for too many steps.
        """
        self.config = config
        self._max_steps = guard.limits.steps_of(config.max_steps, DEFAULT_STEPS, "max_steps")
        self._resolve = resolve
        tools: dict[str, Tool[RunContext]] = {}
        for path in config.tools:
            tool = _tool(guard.load(path), path)
            # The first that comes twice ends it: there may be a hundred thousand, each of which takes its time.
            if tool.name in tools:
                raise ConfigurationError(f"agent_config.tools: {path!r} is not the only tool named {tool.name!r}")
            tools[tool.name] = tool
        self._tools = list(tools.values())
        self._output_type = _output_type(guard, config.output_type)
        self._agent: Agent[RunContext, Any] | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The model that the configuration names."""
        return (self.config.model,)

    def _built(self) -> Agent[RunContext, Any]:
        try:
            return Agent(
                name=self.config.name,
                instructions=self.config.instructions or None,
                output_type=self._output_type,
                deps_type=RunContext,
            )
        except Exception as error:
            raise ConfigurationError(
                f"agent_config.output_type: {self.config.output_type!r} cannot be asked of a model: {_line(error)}"
            ) from error

    async def run(
        self,
        context: RunContext,
        prompt: str,
        extra_tools: Sequence[Tool[RunContext]] = (),
        *,
        nothing_to_lose: bool = True,
    ) -> Reply:
        """Run the agent on ``prompt``; the task's earlier turns come before it.

        Tools may take pydantic-ai's run context: its ``deps`` is the task's :class:`RunContext`.

        Args:
            context: The task's.
            prompt: What this agent is asked.
            extra_tools: Tools beside the configured ones.
            nothing_to_lose: Whether no agent of the task has done anything yet.

        Raises:
            ConfigurationError: It can never succeed: unknown model, refused credentials, context too long.
            TransientError: The provider asked to wait.
        """
        history = message_history(context.messages)
        model = self._resolve(context.payload.model or self.config.model)
        tools = _ReportingTools(
            FunctionToolset([*self._tools, *extra_tools]), ends_task=self.config.tool_errors == "task"
        )
        toolset: AbstractToolset[RunContext] = tools
        if (journal := context.journal) is not None:
            scope = scope_of(journal, self.config.name)
            model = JournaledModel(model, journal, scope)
            toolset = JournaledTools(tools, journal, scope, {tool.name for tool in extra_tools})
        if self._agent is None:
            self._agent = self._built()
        agent = self._agent
        agent.instrument = agent_instrumentation()
        steps = _Steps(context, self.config, tools.durations, self._max_steps, model)
        steps.detail(
            StatusEvent(
                status="starting",
                agent_name=self.config.name,
                message=f"Agent '{self.config.name}' starting execution",
            )
        )
        # Without a prompt of its own a conversation goes on where its history ends.
        user_prompt = None if history and not prompt else prompt
        try:
            # The agent is shared by runs; model and tools are this one's. Entering the model closes the provider's
            # connections afterwards. The steps are counted here, not by request_limit (whose default is 50): that one
            # ends a run with an exception in the middle of a step.
            with Agent.using_thread_executor(DAEMON_THREADS):
                async with (
                    model,
                    agent.iter(
                        user_prompt,
                        model=model,
                        message_history=history,
                        deps=context,
                        model_settings=lambda step: self._model_settings(
                            model, again=step.run_step > 1 or not nothing_to_lose
                        ),
                        toolsets=[toolset],
                        usage_limits=UsageLimits(request_limit=None),
                        infer_name=False,
                    ) as run,
                ):
                    return await steps.follow(run)
        except Exception as error:
            ours = orbiter_error(error)
            if ours is None:
                raise
            raise ours from error

    def _model_settings(self, model: Model, *, again: bool) -> ModelSettings:
        settings = ModelSettings()
        # A provider's library waits inside the run, for up to two minutes where the provider asks for it. With work
        # already done that is right; before any, the task had better give its slot back and wait in the queue.
        if not again and "max_retries" not in getattr(model, "unsupported_settings", ()):
            settings["max_retries"] = 0
        if self.config.temperature is not None:
            settings["temperature"] = self.config.temperature
        if self.config.max_tokens is not None:
            settings["max_tokens"] = self.config.max_tokens
        return settings


@dataclass
class _Steps:
    """Follows a run node by node and tells about it: text and tool calls always, the rest when ``detailed``."""

    context: RunContext
    config: AgentConfig
    durations: dict[str, float]
    max_steps: int
    model: Model
    texts: list[str] = field(default_factory=list)
    answer: list[str] = field(default_factory=list)
    number: int = 0
    started_at: float = 0.0
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def follow(self, run: AgentRun[RunContext, Any]) -> Reply:
        stop_reason = None
        async for node in run:
            if Agent.is_model_request_node(node):
                if self.number >= self.max_steps:
                    stop_reason = "max_steps"
                    break
                self._step_started()
                async with node.stream(run.ctx) as stream:
                    async for event in stream:
                        self._model_event(event)
            elif Agent.is_call_tools_node(node):
                usage = _usage(node.model_response.usage)
                self._spend(node.model_response, usage)
                self.detail(
                    UsageEvent(
                        usage=usage,
                        agent_name=self.config.name,
                        step_number=self.number,
                        model=node.model_response.model_name or "",
                    )
                )
                async with node.stream(run.ctx) as events:
                    async for happening in events:
                        self._tool_event(happening)
                self._step_completed(usage)
        return self._reply(run, stop_reason)

    def detail(self, event: ReasoningEvent | StatusEvent | StepEvent | ToolResultEvent | UsageEvent) -> None:
        if self.context.payload.detailed:
            self.context.emit(event)

    def _spend(self, response: ai.ModelResponse, usage: Usage) -> None:
        # What is replayed was paid by the run that asked for it.
        if not (isinstance(self.model, JournaledModel) and self.model.replayed):
            provider, name = response.provider_name or self.model.system, response.model_name or self.model.model_name
            self.context.spend(f"{provider}:{name}", self.config.name, usage.input_tokens, usage.output_tokens)

    def _step_started(self) -> None:
        self.number += 1
        self.answer = []
        self.started_at = time.time()
        self.detail(
            StepEvent(
                step_number=self.number, agent_name=self.config.name, status="started", started_at=self.started_at
            )
        )

    def _step_completed(self, usage: Usage) -> None:
        self.detail(
            StepEvent(
                step_number=self.number,
                agent_name=self.config.name,
                status="completed",
                started_at=self.started_at,
                completed_at=time.time(),
                usage=usage,
            )
        )

    def _model_event(self, event: object) -> None:
        match event:
            case ai.PartStartEvent(part=ai.TextPart(content=text)):
                self._text(text)
            case ai.PartDeltaEvent(delta=ai.TextPartDelta(content_delta=text)):
                self._text(text)
            case ai.PartStartEvent(part=ai.ThinkingPart(content=thought)) if thought:
                self.detail(ReasoningEvent(text=thought, agent_name=self.config.name))
            case ai.PartDeltaEvent(delta=ai.ThinkingPartDelta(content_delta=str(thought))) if thought:
                self.detail(ReasoningEvent(text=thought, agent_name=self.config.name))

    def _text(self, text: str) -> None:
        if text:
            self.texts.append(text)
            self.answer.append(text)
            self.context.emit(TextEvent(text=text, agent_name=self.config.name))

    def _tool_event(self, event: object) -> None:
        match event:
            case ai.FunctionToolCallEvent(part=call):
                self.context.emit(
                    ToolCallEvent(tool_name=call.tool_name, tool_call_id=call.tool_call_id, agent_name=self.config.name)
                )
                self.arguments[call.tool_call_id] = call.args_as_dict()
            case ai.FunctionToolResultEvent(part=part):
                text = part.model_response_str(wrap_if_error=False)
                success = part.outcome == "success"
                self.detail(
                    ToolResultEvent(
                        tool_name=part.tool_name,
                        tool_call_id=part.tool_call_id,
                        arguments=self.arguments.pop(part.tool_call_id, {}),
                        result=text if success else "",
                        error=None if success else text,
                        success=success,
                        duration_ms=self.durations.pop(part.tool_call_id, 0.0) * 1000,
                        agent_name=self.config.name,
                    )
                )

    def _reply(self, run: AgentRun[RunContext, Any], stop_reason: str | None) -> Reply:
        text, output, data = "".join(self.texts), "".join(self.answer), None
        if run.result is not None and not isinstance(run.result.output, str):
            what = f"the {type(run.result.output).__name__} that the agent answered"
            data = json.loads(json_text(jsonable(run.result.output, what), what))
            output = pydantic_core.to_json(data).decode()
            text = text or output
        return Reply(text=text, output=output, data=data, usage=_usage(run.usage), stop_reason=stop_reason)


@dataclass
class _ReportingTools(WrapperToolset[RunContext]):
    """Times every call, and gives a tool's failure to the model, which may find another way, or to the task.

    A tool that wants the whole task to fail or to be run again raises one of :mod:`orbiter.distributed.errors`.
    """

    durations: dict[str, float] = field(default_factory=dict)
    ends_task: bool = False

    async def call_tool(
        self,
        name: str,
        tool_args: dict[str, Any],
        ctx: ToolContext[RunContext],
        tool: ToolsetTool[RunContext],
    ) -> Any:
        started = time.monotonic()
        try:
            with UserCode(name):
                return _sendable(await super().call_tool(name, tool_args, ctx, tool))
        except _DELIBERATE:
            raise
        except Exception as error:
            exc_info = (type(error), error, frames_of_user_code(error))
            logger.warning("tool %s failed", name, exc_info=exc_info, extra={"task_id": ctx.deps.payload.task_id})
            if self.ends_task:
                raise
            raise exceptions.ToolFailed(f"{kind_of(error)}: {text_of(error)}") from error
        finally:
            if ctx.tool_call_id:
                self.durations[ctx.tool_call_id] = time.monotonic() - started


def _sendable(value: Any) -> Any:
    """Return what a tool gave as it can be sent to a model.

    Raises:
        ValueError: It cannot: the tool has failed, and the run goes on.
    """
    if isinstance(value, str):
        return whole_string(value)
    what = "what the tool gave"
    if isinstance(value, bytes | bytearray | Iterator):
        # As in a result: text is text. An iterator has what it gives only once, and is read twice.
        try:
            value = list(value) if isinstance(value, Iterator) else value.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{what} is not JSON: bytes that are no UTF-8 text: {error}") from None
    try:
        _SENT.dump_json(value)
    except Exception:  # noqa: BLE001 - writing an object is its author's code
        try:
            # Half a surrogate pair somewhere in it, or not JSON.
            return json.loads(json_text(jsonable(value, what), what))
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
    return value


def message_history(messages: Sequence[dict[str, Any]]) -> list[ai.ModelMessage]:
    """Return earlier turns as pydantic-ai's messages.

    Raises:
        ConfigurationError: A turn has no known role or no text.
    """
    history: list[ai.ModelMessage] = []
    for number, turn in enumerate(messages):
        role, content = turn.get("role"), turn.get("content")
        if not isinstance(content, str):
            raise ConfigurationError(f"messages.{number}.content: Input should be a valid string")
        match role:
            case "user":
                history.append(ai.ModelRequest(parts=[ai.UserPromptPart(content)]))
            case "system":
                history.append(ai.ModelRequest(parts=[ai.SystemPromptPart(content)]))
            case "assistant":
                history.append(ai.ModelResponse(parts=[ai.TextPart(content)]))
            case _:
                raise ConfigurationError(f"messages.{number}.role: {role!r} is not user, assistant or system")
    return history


def _tool(found: object, path: str) -> Tool[RunContext]:
    if isinstance(found, Tool):
        return found
    if isinstance(found, type) or not callable(found):
        raise ConfigurationError(f"agent_config.tools: {path!r} is not a function but a {type(found).__name__}")
    if inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found):
        raise ConfigurationError(f"agent_config.tools: {path!r} yields; a tool returns what it found, such as a list")
    if not hasattr(found, "__name__"):
        kind = type(found).__name__
        raise ConfigurationError(f"agent_config.tools: {path!r} is not a function but an object of the class {kind}")
    try:
        return Tool(found)
    except Exception as error:
        raise ConfigurationError(
            f"agent_config.tools: {path!r} cannot be offered to a model: {_line(error)}"
        ) from error


def _line(error: Exception) -> str:
    """Return an error's first line: pydantic's go on with advice and addresses."""
    return f"{kind_of(error)}: {text_of(error).partition(chr(10))[0]}"


def _output_type(guard: ImportGuard, path: str | None) -> Any:
    if path is None:
        return str
    found = guard.load(path)
    if not isinstance(found, type):
        raise ConfigurationError(f"agent_config.output_type: {path!r} is not a class")
    return found


def _usage(usage: UsageBase) -> Usage:
    return Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, total_tokens=usage.total_tokens)
