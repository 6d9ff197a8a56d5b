"""What the tests of the runtimes share."""

from __future__ import annotations

import time
from typing import Any

from pydantic_ai import messages as ai
from pydantic_ai.models.function import FunctionModel

from orbiter.distributed.models import Event, TaskPayload, TextEvent
from orbiter.distributed.runtimes import RunContext
from orbiter.distributed.runtimes.agent import AgentRuntime
from orbiter.distributed.runtimes.imports import ImportGuard
from orbiter.distributed.runtimes.model_guard import ModelGuard

HERE = "tests.unit.runtimes.targets"
GUARD = ImportGuard(["tests"], models=ModelGuard(["*"]))


class Run:
    """A context, and what was emitted into it."""

    def __init__(self, config: dict[str, Any] | None = None, **payload: Any) -> None:
        self.events: list[Event] = []
        self.spent: list[tuple[str, str, int, int]] = []
        self.context = RunContext(
            payload=TaskPayload(agent_config=config or {}, **payload),
            attempt=2,
            emit=self._emit,
            guard=GUARD,
            deadline=time.time() + 60,
            spend=lambda *row: self.spent.append(row),
        )

    def _emit(self, event: Event | str) -> None:
        self.events.append(TextEvent(text=event) if isinstance(event, str) else event)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextEvent))

    def kinds(self) -> list[str]:
        """Types in order, a run of text deltas once; step and status with their status."""
        kinds: list[str] = []
        for event in self.events:
            kind = event.type
            if event.type in ("step", "status"):
                kind = f"{event.type} {event.status}"
            if kind != "text" or kinds[-1:] != ["text"]:
                kinds.append(kind)
        return kinds


def agent(name="a", **config):
    return {"name": name, "model": "test", **config}


async def execute(config, text="hi", model=None, **payload):
    """Run an agent; ``model`` is what its model's name stands for."""
    run = Run(config, input=text, **payload)
    resolve = None if model is None else lambda _: model
    return await AgentRuntime(config, GUARD, resolve=resolve).run(run.context), run


def failing(error):
    async def stream(messages, info):
        raise error
        yield ""

    return FunctionModel(stream_function=stream)


def replying(reply):
    """Return a model whose one delta is ``reply(prompt, instructions)``; the prompt is the newest of the user."""

    async def stream(messages, info):
        prompts = [part.content for m in messages for part in m.parts if isinstance(part, ai.UserPromptPart)]
        yield reply(prompts[-1], info.instructions or "")

    return FunctionModel(stream_function=stream)
