"""A server that speaks OpenAI's chat completions: scripted replies, streamed over real HTTP, every request kept."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer.

    Attributes:
        status: HTTP status.
        headers: Headers beside the usual ones.
        parts: What the body consists of, one chunk on the wire each; a number is a pause in seconds.
        cut: Whether the connection is reset where the body should end.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    parts: Sequence[str | float] = ()
    cut: bool = False


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it came."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    at: float


def event(data: object) -> str:
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n"


def chunk(delta: Mapping[str, Any] | None = None, finish: str | None = None, **more: Any) -> str:
    choices = [] if delta is None else [{"index": 0, "delta": dict(delta), "finish_reason": finish}]
    return event(
        {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-test", "choices": choices} | more
    )


def end(finish: str = "stop", tokens: tuple[int, int] = (7, 5)) -> list[str]:
    prompt, completion = tokens
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return [chunk({}, finish), chunk(usage=usage), event("[DONE]")]


def text(*deltas: str) -> Reply:
    """An answer of so many text deltas."""
    return Reply(parts=[*(chunk({"content": delta}) for delta in deltas), *end()])


def tool_calls(*calls: tuple[str, Sequence[str]]) -> Reply:
    """An answer that asks for tools at once: each a name, and its arguments in pieces."""
    parts = []
    for index, (name, pieces) in enumerate(calls):
        function = {"name": name, "arguments": ""}
        head = {"index": index, "id": f"call_{index}", "type": "function", "function": function}
        parts.append(chunk({"tool_calls": [head]}))
        parts += [chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}) for piece in pieces]
    return Reply(parts=[*parts, *end("tool_calls")])


def error(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    """A refusal in OpenAI's words."""
    body = {"error": {"message": message, "type": "error", "code": code, "param": None}}
    return Reply(
        status=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        parts=[json.dumps(body)],
    )


class OpenAIServer:
    """Answers the n-th request with the n-th reply, and every further one with the last."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.requests: list[Request] = []
        self.hung_up = 0
        self.base_url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append(await _request(reader))
            await self._answer(self.replies[min(len(self.requests), len(self.replies)) - 1], reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hung_up += 1
        finally:
            writer.close()

    async def _answer(self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kind = "text/event-stream" if reply.status == 200 else "application/json"
        head = {"content-type": kind, "transfer-encoding": "chunked", "connection": "close"} | reply.headers
        lines = [f"HTTP/1.1 {reply.status} Scripted", *(f"{name}: {value}" for name, value in head.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        for part in reply.parts:
            if isinstance(part, str):
                data = part.encode()
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                await writer.drain()
            elif await _closed_within(reader, part):
                raise ConnectionResetError
        if reply.cut:
            writer.transport.abort()
            return
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:]) if name}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(path=head[0].split()[1], headers=headers, body=json.loads(body), at=time.time())


async def _closed_within(reader: asyncio.StreamReader, seconds: float) -> bool:
    """Wait so long for the client to hang up; a client that is still there sends nothing more."""
    try:
        return await asyncio.wait_for(reader.read(1), seconds) == b""
    except TimeoutError:
        return False


@asynccontextmanager
async def openai_server(*replies: Reply) -> AsyncIterator[OpenAIServer]:
    """Serve on a free port of the loopback interface."""
    scripted = OpenAIServer()
    scripted.replies = list(replies)
    server = await asyncio.start_server(scripted.handle, "127.0.0.1", 0)
    scripted.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield scripted
