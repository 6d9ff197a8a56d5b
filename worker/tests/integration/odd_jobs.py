"""Callables that misbehave, by ``tests.integration.odd_jobs:NAME``: they raise what ends programs, fork, run loops."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, model_serializer
from pydantic_ai import RunContext as AgentContext

from orbiter.distributed.errors import TransientError
from orbiter.distributed.models import StatusEvent, TextEvent, ToolResultEvent
from orbiter.distributed.runtimes import RunContext


class OwnError(BaseException):
    """Not an Exception."""


class MuteExit(SystemExit):
    """One that cannot tell what it is, and ends the program over that."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


KINDS: dict[str, Callable[[], BaseException]] = {
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit(3),
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "StopIteration": StopIteration,
    "OwnError": OwnError,
    "BaseExceptionGroup": lambda: BaseExceptionGroup("g", [KeyboardInterrupt()]),
    "MuteExit": MuteExit,
}


def _raise(kind: str) -> str:
    raise KINDS[kind]()


def in_thread(context: Any) -> str:
    """Raise in a plain function."""
    return _raise(context.input)


async def in_coroutine(context: Any) -> str:
    """Raise in a coroutine."""
    await asyncio.sleep(0)
    return _raise(context.input)


async def in_stream(context: Any) -> AsyncIterator[str]:
    """Raise in an async generator."""
    yield "x"
    _raise(context.input)


def in_generator(context: Any) -> Iterator[str]:
    """Raise in a plain generator."""
    yield "x"
    _raise(context.input)


async def in_awaited_task(context: Any) -> str:
    """Raise in an asyncio task, and wait for it."""
    return await asyncio.create_task(in_coroutine(context))


async def in_group(context: Any) -> str:
    """Raise in one of two tasks of a group."""
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60))
        group.create_task(in_coroutine(context))
    return ""


class _Result(BaseModel):
    kind: str

    @model_serializer
    def _written(self) -> str:
        return _raise(self.kind)


async def in_result(context: Any) -> Any:
    """Return what raises when it is written as JSON."""
    return _Result(kind=context.input)


async def in_forgotten_task(context: Any) -> str:
    """Raise in an asyncio task that nobody asks about; answer."""
    task = asyncio.create_task(in_coroutine(context))
    await asyncio.wait({task})
    return "answered"


async def in_callback(context: Any) -> str:
    """Raise in a callback of the event loop; answer."""
    called = asyncio.Event()

    def callback() -> None:
        called.set()
        _raise(context.input)

    asyncio.get_running_loop().call_soon(callback)
    await called.wait()
    await asyncio.sleep(0.01)
    return "answered"


def tool_in_thread(kind: str) -> str:
    """Raise.

    Args:
        kind: What.
    """
    return _raise("SystemExit")


async def tool_in_coroutine(kind: str) -> str:
    """Raise.

    Args:
        kind: What.
    """
    return _raise("KeyboardInterrupt")


def __getattr__(name: str) -> Any:
    if name in KINDS:
        _raise(name)
    raise AttributeError(name)


# -- forks -------------------------------------------------------------------------------------------------------------


def _square(number: int) -> int:
    return number * number


def pool(context: Any) -> str:
    """Compute in forked processes."""
    with multiprocessing.get_context("fork").Pool(2) as workers:
        return str(workers.map(_square, [1, 2, 3]))


async def pool_in_coroutine(context: Any) -> str:
    """Compute in processes forked from the event loop's thread."""
    return pool(context)


def _ready_then_sleep(ready: Any) -> None:
    ready.set()
    time.sleep(30)


def ended_child(context: Any) -> str:
    """End a forked process that sleeps; answer with its exit code."""
    forking = multiprocessing.get_context("fork")
    ready = forking.Event()
    child = forking.Process(target=_ready_then_sleep, args=(ready,))
    child.start()
    ready.wait(10)
    child.terminate()
    child.join(10)
    code = child.exitcode
    child.kill()
    return str(code)


def ends_before_exec(context: Any) -> str:
    """Start a program whose process is told to end before it is the program; answer with its exit code."""
    child = subprocess.Popen(["sleep", "30"], preexec_fn=lambda: os.kill(os.getpid(), signal.SIGTERM))  # noqa: PLW1509
    try:
        return str(child.wait(5))
    finally:
        child.kill()


def child_state(context: Any) -> dict[str, Any]:
    """Answer with what a forked child finds of the worker's signals."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
        names = {signal.SIG_DFL: "default", signal.default_int_handler: "interrupt"}
        found = {
            "handlers": [names.get(signal.getsignal(number), "other") for number in signals],
            "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, set())),
            "wakeup_fd": signal.set_wakeup_fd(-1),
        }
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return {"output": "", **json.load(pipe)}


def _status(child: int) -> str:
    return str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def child_comes_back(context: Any) -> str:
    """Fork, and have the child leave this function in some way; answer with its exit code."""
    child = os.fork()
    if child == 0:
        if context.input == "returns":
            return "the child's"
        _raise(context.input)
    return _status(child)


async def child_comes_back_to_the_loop(context: Any) -> str:
    """Fork in the event loop's thread, and have the child leave this coroutine in some way, or wait in it."""
    await asyncio.sleep(0)
    child = os.fork()
    if child == 0:
        if context.input == "waits":
            await asyncio.sleep(0)
            Path(context.metadata["mark"]).touch()
        if context.input in {"waits", "returns"}:
            return "the child's"
        _raise(context.input)
    return _status(child)


# -- loops of their own ------------------------------------------------------------------------------------------------


def counts_in_own_loop(context: Any) -> dict[str, Any]:
    """Emit numbers from an event loop of this function's own."""

    async def count() -> None:
        for number in range(context.metadata["numbers"]):
            context.emit(f"{number} ")
            if number % 50 == 0:
                await asyncio.sleep(0)

    asyncio.run(count())
    return {"output": "counted"}


# -- values ------------------------------------------------------------------------------------------------------------

HALF = "a\ud83d"


def _nested(depth: int = 10_000) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for _ in range(depth):
        nested = {"d": nested}
    return nested


_CYCLE: list[Any] = []
_CYCLE.append(_CYCLE)
VALUES: dict[str, Callable[[], Any]] = {
    "bytes": lambda: b"\xff",
    "cycle": lambda: _CYCLE,
    "long number": lambda: 10**5000,
    "not a number": lambda: float("nan"),
    "infinity": lambda: {"output": float("inf")},
    "object": object,
    "function": lambda: len,
    "nested": _nested,
    # More than pydantic reads; less than it writes.
    "nested for writers": lambda: _nested(230),
    "nested a little": lambda: _nested(150),
    "nested object": lambda: {"output": "", "x": _nested(230)},
    "set of objects": lambda: {object()},
    "raises": lambda: _Result(kind="SystemExit"),
}
HALVES: dict[str, Callable[[], Any]] = {
    "text": lambda: HALF,
    "list": lambda: [HALF],
    "key": lambda: {HALF: [HALF]},
    "output": lambda: {"output": HALF, HALF: 1},
    "key beside an object": lambda: {HALF: datetime(2026, 1, 2, tzinfo=UTC)},
}


async def returns(context: Any) -> Any:
    """Return an odd value."""
    return (VALUES | HALVES)[context.input]()


def emits_values(context: Any) -> str:
    """Emit an event with an odd value in it, among others."""
    context.emit("before ")
    arguments = {"value": (VALUES | HALVES)[context.input]()}
    event = ToolResultEvent(tool_name="t", tool_call_id="1")
    context.emit(event.model_copy(update={"arguments": arguments}))
    context.emit("after")
    return "said"


class _NamedByItself(type):
    @property
    def __name__(cls) -> str:
        raise KeyboardInterrupt


ERRORS: dict[str, type[Exception]] = {
    "line in the name": type("E\n<0>kernel", (RuntimeError,), {}),
    "long name": type("E" * 900_000, (RuntimeError,), {}),
    "name that raises": _NamedByItself("Own", (RuntimeError,), {}),
}


async def places(context: Any) -> Any:
    """Put an odd value where the metadata says."""
    value, place = (VALUES | HALVES)[context.input](), context.metadata["place"]
    if place == "data":
        return {"output": "x", "data": value}
    if place == "event":
        event = ToolResultEvent(tool_name="t", tool_call_id="1")
        context.emit(event.model_copy(update={"arguments": {"value": value}}))
    if place == "text":
        context.emit(TextEvent(text="x").model_copy(update={"text": value}))
    if place == "emit":
        context.emit(value)
    if place == "error":
        raise RuntimeError(value, HALF, "x" * 900_000)
    return "said"


async def yields(context: Any) -> AsyncIterator[Any]:
    """Yield an odd value."""
    yield (VALUES | HALVES)[context.input]()


def raises_oddly(context: Any) -> str:
    """Fail with an error whose class is odd."""
    raise ERRORS[context.input](context.input)


async def emits_halves(context: Any) -> AsyncIterator[str]:
    """Stream a character in two halves, as code that counts in UTF-16 does; then only half of one."""
    yield "\ud83d"
    yield "\ude80"
    yield HALF


async def says_halves(context: Any) -> str:
    """Answer with what came with the task."""
    return context.input + context.messages[0]["content"] + context.metadata["m"]


def raises_half(context: Any) -> str:
    """Fail with a text that is no Unicode."""
    raise RuntimeError(HALF)


def asks_oddly(context: Any) -> str:
    """Ask for another run, after a time that is none."""
    if context.attempt == 1:
        raise TransientError("later", retry_after="soon")  # type: ignore[arg-type]
    return "again"


def tool_of_halves() -> Any:
    """Give what is no Unicode."""
    return HALVES["key"]()


def tool_of_no_value() -> Any:
    """Give what is no JSON."""
    return _CYCLE


async def tool_that_emits(ctx: AgentContext[RunContext]) -> str:
    """End the stream of events, and emit what is none."""
    ctx.deps.emit(StatusEvent(status="completed"))
    ctx.deps.emit(3)  # type: ignore[arg-type]
    return "said"
