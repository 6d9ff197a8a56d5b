"""The ``callable`` runtime: any importable function as a task, so that any framework fits."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError

from orbiter.distributed.errors import ConfigurationError
from orbiter.distributed.models import Event, TextEvent, emitted_event, is_final, validation_message
from orbiter.distributed.plain_json import json_text, jsonable
from orbiter.distributed.runtimes.threads import in_thread
from orbiter.distributed.runtimes.user_code import UserCode

if TYPE_CHECKING:
    from orbiter.distributed.runtimes import RunContext
    from orbiter.distributed.runtimes.imports import ImportGuard


class CallableConfig(BaseModel):
    """``{"runtime": "callable", "target": "pkg.module:function", "options": {…}, "name": …}``."""

    target: str = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)
    name: str = ""


class CallableRuntime:
    """Calls the target with one argument, the :class:`RunContext`.

    The target is an async generator of events or strings, a coroutine function, or a plain function (or generator),
    which runs in a thread. A string it yields or emits is published as text.

    The result is ``{"output": …}`` of a returned string; a returned dict with ``output`` as it is; ``None`` means the
    text emitted; anything else is given as JSON text in ``output`` and as it is in ``data``.

    A thread cannot be stopped: when a run is cancelled, ``context.cancelled`` turns true and the wait is abandoned at
    once, so a plain function that runs long should look at it. What it emits after that is dropped.
    """

    def __init__(self, config: dict[str, Any], guard: ImportGuard) -> None:
        try:
            settings = CallableConfig.model_validate(config)
        except ValidationError as error:
            raise ConfigurationError(f"agent_config: {validation_message(error)}") from None
        target = guard.load(settings.target)
        if not callable(target):
            raise ConfigurationError(f"agent_config.target: {settings.target!r} is not callable")
        self._target: Callable[[RunContext], Any] = target
        self._path = settings.target
        self._user_code = UserCode(settings.target)
        self._name = settings.name or settings.target
        self._in_loop = _is(inspect.isasyncgenfunction, target) or _is(inspect.iscoroutinefunction, target)
        self._check_signature()

    def _check_signature(self) -> None:
        try:
            signature = inspect.signature(self._target)
        except (TypeError, ValueError):
            return  # some builtins have none: the call itself will tell
        try:
            signature.bind(None)
        except TypeError as error:
            raise ConfigurationError(
                f"agent_config.target: {self._path!r} must take one argument, the context: {error}"
            ) from None

    async def run(self, context: RunContext) -> dict[str, Any]:
        """Call the target to its end and return the task's result."""
        emitted = _Emitted(context, self._name)
        try:
            with self._user_code:
                returned = await self._call(context, emitted)
        except asyncio.CancelledError:
            context.token.cancel()
            raise
        finally:
            emitted.close()
        return self._result(returned, emitted.text)

    async def _call(self, context: RunContext, emitted: _Emitted) -> object:
        target = self._target
        if self._in_loop:
            returned = target(context)
        else:
            returned = await in_thread(lambda: _drained(target(context), emitted))
        # What most targets return is known by its type: to ask an abstract class takes ten times as long.
        if isinstance(returned, CoroutineType | Awaitable):
            returned = await returned
        if not isinstance(returned, str | dict) and isinstance(returned, AsyncIterable):
            await _forward(returned, emitted)
            return None
        return returned

    def _result(self, returned: object, text: str) -> dict[str, Any]:
        if returned is None:
            return {"output": text}
        if isinstance(returned, str):
            return {"output": returned}
        what = f"{self._path} returned what"
        data = jsonable(returned, what)
        if isinstance(data, dict) and "output" in data:
            return data
        return {"output": json_text(data, what), "data": data}


class _Emitted:
    """Emits what a target emits, and keeps the text for the result. Called from the target's thread, if any."""

    def __init__(self, context: RunContext, name: str) -> None:
        self._emit = context.emit
        self.pace = context.pace
        context.emit = self.emit
        self._name = name
        self._texts: list[str] = []
        self._closed = False

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def emit(self, item: Event | str) -> None:
        if self._closed:
            return
        event = emitted_event(item, agent_name=self._name)
        # The worker ends the stream; a final status in the middle would end it for subscribers too early.
        if is_final(event):
            return
        if isinstance(event, TextEvent):
            self._texts.append(event.text)
        self._emit(event)

    def close(self) -> None:
        self._closed = True


def _is(test: Callable[[object], bool], target: object) -> bool:
    """Apply a test to a function, or to the ``__call__`` of an object that has one."""
    return test(target) or test(getattr(target, "__call__", None))  # noqa: B004 - the method itself is asked for


async def _forward(items: AsyncIterable[Any], emitted: _Emitted) -> None:
    iterator = aiter(items)
    try:
        async for item in iterator:
            emitted.emit(item)
            if emitted.pace:
                # A generator that never waits must still be stopped, and let others have their turn.
                await emitted.pace()
    finally:
        # A generator's own cleanup runs here and now, also when the run is cancelled, not at some garbage collection.
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()


def _drained(returned: Any, emitted: _Emitted) -> Any:
    """Run a plain generator to its end, here in its thread; return its return value, or what was not a generator."""
    if not inspect.isgenerator(returned):
        return returned
    while True:
        try:
            item: Any = next(returned)
        except StopIteration as end:
            return end.value
        emitted.emit(item)
