"""Agents of a shop, for pictures of a fleet under load: they take time, say something, call tools, and some fail."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

from orbiter.distributed.models import ToolCallEvent, ToolResultEvent

ANSWER = (
    "Your order left our warehouse on Monday morning. It is in the sorting centre of the carrier in Leipzig, and the"
    " next van takes it to you tomorrow between nine and noon. You can follow it with the number that we have sent you;"
    " if nobody is at home, the driver leaves it with a neighbour."
)


class RateLimitedError(RuntimeError):
    """The model's provider is asked too often."""


class InvoiceError(ValueError):
    """An invoice is not what it should be."""


async def answer(context: Any) -> AsyncIterator[str]:
    """Look an order up and tell where it is."""
    context.spend("openai:gpt-4o", "support", random.randint(400, 900), random.randint(60, 120))
    context.emit(ToolCallEvent(tool_name="find_order", tool_call_id="1", agent_name="support"))
    await asyncio.sleep(random.uniform(0.05, 0.4))
    known = {"tool_name": "find_order", "tool_call_id": "1", "agent_name": "support", "arguments": {"order": 1042}}
    context.emit(ToolResultEvent(**known, result='{"state": "shipped", "carrier": "DHL"}', duration_ms=212))
    pause = context.metadata.get("pause", 0.05)
    for word in ANSWER.split():
        await asyncio.sleep(pause)
        yield f"{word} "


async def classify(context: Any) -> str:
    """Say what a message is about."""
    context.spend("openai:gpt-4o-mini", "triage", random.randint(200, 400), random.randint(1, 5))
    await asyncio.sleep(random.uniform(0.1, 1))
    if random.random() < 0.15:
        raise RateLimitedError("429 Too Many Requests: 60 requests a minute for this key, try again in 12 s")
    return "refund"


async def invoice(context: Any) -> dict[str, Any]:
    """Check an invoice."""
    context.spend("own:invoices-7b", "billing", random.randint(800, 2000), random.randint(20, 60))
    await asyncio.sleep(random.uniform(0.1, 2))
    if random.random() < 0.3:
        raise InvoiceError("invoice 2026-1182: the total of 118.20 EUR is not that of its 4 lines (112.80 EUR)")
    return {"total": 118.2, "lines": 4}
