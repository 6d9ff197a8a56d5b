"""The ``agent`` runtime: agents and swarms as JSON, run by pydantic-ai."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from orbiter.distributed.runtimes.agent_config import AgentConfig, SwarmConfig, parse_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic_ai.models import Model

    from orbiter.distributed.runtimes import RunContext
    from orbiter.distributed.runtimes.agent_steps import AgentRunner, Reply
    from orbiter.distributed.runtimes.imports import ImportGuard
    from orbiter.distributed.runtimes.swarm import Swarm


class AgentRuntime:
    """Runs an agent, or with the key ``agents`` a swarm.

    The result is ``{"output": text, "usage": {…}}``, with ``data`` for an ``output_type``, and ``stop_reason`` when
    ``max_steps`` (or a swarm's ``max_handoffs``) ended it. The one final status event is the worker's to emit.
    """

    def __init__(
        self, config: dict[str, Any], guard: ImportGuard, *, resolve: Callable[[str], Model] | None = None
    ) -> None:
        """Check the configuration and import the tools; ``resolve`` makes models in another way than by name."""
        # Counted first: to read fifty thousand agents takes minutes.
        guard.limits.check_agents(config)
        parsed: AgentConfig | SwarmConfig = (
            parse_config(SwarmConfig, config) if "agents" in config else parse_config(AgentConfig, config)
        )
        self._models = guard.models if resolve is None else None
        # pydantic-ai takes its time to import: not before a task needs it, and its configuration can be read.
        from orbiter.distributed.runtimes.agent_steps import AgentRunner  # noqa: PLC0415
        from orbiter.distributed.runtimes.model_access import resolve_model  # noqa: PLC0415
        from orbiter.distributed.runtimes.swarm import Swarm  # noqa: PLC0415

        resolve = resolve or resolve_model
        self._runner: AgentRunner | Swarm
        if isinstance(parsed, SwarmConfig):
            self._runner = Swarm(parsed, guard, resolve)
        elif parsed.handoffs:
            self._runner = Swarm.of_handoffs(parsed, guard, resolve)
        else:
            self._runner = AgentRunner(parsed, guard, resolve)

    async def run(self, context: RunContext) -> dict[str, Any]:
        """Run to the end, emitting events, and return the task's result.

        Raises:
            ModelRefusedError: One of its models is not allowed; nothing has been done.
        """
        from orbiter.distributed.runtimes.swarm import Swarm, swarm_result  # noqa: PLC0415

        if self._models:
            for name in (context.payload.model,) if context.payload.model else self._runner.models:
                self._models.check(name)
        try:
            if isinstance(self._runner, Swarm):
                return swarm_result(*await self._runner.run(context))
            return _agent_result(await self._runner.run(context, context.input))
        except asyncio.CancelledError:
            # A tool in a thread cannot be stopped, but it can see that it should stop.
            context.token.cancel()
            raise


def _agent_result(reply: Reply) -> dict[str, Any]:
    result: dict[str, Any] = {"output": reply.text, "usage": reply.usage.model_dump()}
    if reply.data is not None:
        result["data"] = reply.data
    if reply.stop_reason:
        result["stop_reason"] = reply.stop_reason
    return result
