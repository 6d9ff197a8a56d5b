"""Callables that note each of their runs in a file of their process: what has run, whatever Redis says of it.

``RUN_NOTES`` is the directory, ``RUN_NOTES_BY`` the worker's name. A line is JSON: the moment (monotonic, which is one
clock on one host), task, attempt, worker, and what happened: ``begins``, then ``ends``, ``raises`` or ``stopped``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from orbiter.distributed.models import ToolResultEvent


@cache
def _file(pid: int) -> int:
    path = Path(os.environ["RUN_NOTES"], f"{os.environ['RUN_NOTES_BY']}-{pid}.jsonl")
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def _note(context: Any, what: str) -> None:
    line = {"at": time.monotonic(), "task": context.payload.task_id, "attempt": context.attempt, "what": what}
    os.write(_file(os.getpid()), json.dumps(line | {"worker": os.environ["RUN_NOTES_BY"]}).encode() + b"\n")


@contextlib.contextmanager
def noted(context: Any) -> Iterator[None]:
    _note(context, "begins")
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):
        _note(context, "stopped")
        raise
    except BaseException:
        _note(context, "raises")
        raise
    _note(context, "ends")


def result_of(context: Any, text: str) -> dict[str, Any]:
    return {"output": text, "attempt": context.attempt, "worker": os.environ["RUN_NOTES_BY"]}


async def rest(context: Any) -> dict[str, Any]:
    """Sleep, answer."""
    with noted(context):
        if seconds := context.metadata.get("seconds"):
            await asyncio.sleep(seconds)
        return result_of(context, "rested")


async def fail(context: Any) -> dict[str, Any]:
    """Fail in the first so many attempts, then answer."""
    with noted(context):
        await asyncio.sleep(context.metadata.get("seconds", 0))
        if context.attempt <= context.metadata["times"]:
            raise RuntimeError(f"attempt {context.attempt} failed")
        return result_of(context, "worked")


async def talk(context: Any) -> dict[str, Any]:
    """Emit so many words, between them what a tool said, and take some seconds for that."""
    words = []
    with noted(context):
        number = context.metadata["words"]
        for n in range(number):
            words.append(f"{context.attempt}.{n} ")
            context.emit(words[-1])
            if n % 5 == 4:
                context.emit(ToolResultEvent(tool_name="t", tool_call_id=str(n), result="x"))
                await asyncio.sleep(context.metadata["seconds"] * 5 / number)
        return result_of(context, "".join(words))


async def stream(context: Any) -> AsyncIterator[str]:
    """Yield so many words, each later than the one before; their text is the result."""
    with noted(context):
        for n in range(context.metadata["words"]):
            yield f"{context.attempt}.{n} "
            await asyncio.sleep(context.metadata["seconds"] / context.metadata["words"])


def block(context: Any) -> dict[str, Any]:
    """Sleep in a thread, which nobody can stop."""
    with noted(context):
        time.sleep(context.metadata["seconds"])
        return result_of(context, "blocked")
