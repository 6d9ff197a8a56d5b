"""What the tests of the runtimes let tasks import."""

from __future__ import annotations

import asyncio
import functools
import os
import pathlib
import sys
import threading
import time

import pydantic_ai
from pydantic import BaseModel

from orbiter.distributed.errors import TransientError
from orbiter.distributed.models import StatusEvent, TextEvent, ToolCallEvent
from orbiter.distributed.runtimes import RunContext

NUMBER = 7
SEEN: dict[str, object] = {}
_hidden = len
borrowed = os.system
partial = functools.partial(len, "x")


class Greeter:
    """A class whose instance is a target."""

    async def __call__(self, context: RunContext) -> str:
        return f"hello {context.input}"

    @staticmethod
    def shout(context: RunContext) -> str:
        return context.input.upper()


greeter = Greeter()


async def words(context: RunContext):
    for word in context.input.split():
        yield word
    yield ToolCallEvent(tool_name="t", tool_call_id="1")


async def ends_the_stream(context: RunContext):
    yield TextEvent(text="before")
    yield StatusEvent(status="completed")
    context.emit(StatusEvent(status="error"))
    yield TextEvent(text=" after")


async def yields_a_number(context: RunContext):
    try:
        yield 3
    finally:
        SEEN["cleaned up"] = True


async def with_cleanup(context: RunContext):
    try:
        yield "started"
        await asyncio.sleep(60)
    finally:
        SEEN["cleaned up"] = True


async def answer(context: RunContext) -> str:
    return f"{context.input} {context.options['greeting']} {context.attempt}"


def in_which_thread(context: RunContext) -> dict[str, object]:
    context.emit("from a thread")
    return {"output": "done", "main": threading.current_thread() is threading.main_thread(), "n": 1}


def numbers(context: RunContext) -> dict[str, int]:
    return {"a": 1}


def nothing(context: RunContext) -> None:
    context.emit("one ")
    context.emit(TextEvent(text="two"))


def generator(context: RunContext):
    yield "a"
    yield "b"
    return "returned"


def not_json(context: RunContext) -> object:
    return {"thread": threading.Lock()}


def leaves(context: RunContext) -> None:
    sys.exit(3)


async def leaves_the_loop(context: RunContext) -> None:
    sys.exit(3)


def stops_iterating(context: RunContext) -> None:
    raise StopIteration


def until_cancelled(context: RunContext) -> None:
    SEEN["started"] = True
    deadline = time.monotonic() + 120
    while not context.cancelled and time.monotonic() < deadline:
        time.sleep(0.005)
    context.emit("too late")
    SEEN["cancelled"] = context.cancelled


def no_arguments() -> None: ...


# Tools of agents


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    SEEN["tool in main thread"] = threading.current_thread() is threading.main_thread()
    return a + b


async def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


async def breaks(city: str) -> str:
    """Never work."""
    raise LookupError(f"no such city: {city}")


async def overloaded() -> str:
    """Ask for another run."""
    raise TransientError("come back later", retry_after=9)


async def who(ctx: pydantic_ai.RunContext[RunContext]) -> str:
    """Tell the task's metadata."""
    return str(ctx.deps.metadata["who"])


def sleeps() -> str:
    """Sleep longer than any test waits."""
    SEEN["sleeping"] = True
    time.sleep(120)
    return "slept"


def yields(city: str):
    """Yield, as no tool may."""
    yield city


async def yields_later(city: str):
    """Yield, as no tool may."""
    yield city


def annotated_wrongly(city: Nope) -> str:  # noqa: F821 - on purpose
    """Take what there is not."""
    return city


def takes_a_lock(lock: asyncio.Lock) -> str:
    """Take what no model can give."""
    return str(lock)


def gives_an_iterator(city: str) -> object:
    """Give what can be read once."""
    return (letter for letter in (city, city))


def gives_bytes(city: str) -> bytes:
    """Give text as bytes."""
    return city.encode()


def gives_odd_bytes() -> bytes:
    """Give what is no text."""
    return b"\xff"


class Called:
    def __call__(self, city: str) -> str:
        return city


A_NUMBER = 3
A_PATH = pathlib.Path("/tmp")
CALLABLE = Called()
its_own = len
ready_made = pydantic_ai.Tool(add, name="plus")
foreign_tool = pydantic_ai.Tool(os.getcwd, name="cwd")


class Answer(BaseModel):
    city: str
    degrees: int
