"""Callables that pay for answers of a model, and note each payment in a ledger beside the fleet's own counts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

# Runs of this process that pay right now. Who dies waits for them: what they paid is told before, or not paid.
_paying: set[str] = set()


async def pays(context: Any) -> dict[str, Any]:
    """Pay as ``metadata`` says, note it, and end as it says for this attempt: complete, fail, die, or wait for ever."""
    what = context.metadata
    tokens_in, tokens_out = what["tokens"]
    _paying.add(context.payload.task_id)
    context.spend(what["model"], what["agent"], tokens_in, tokens_out)
    try:
        # It leaves the process with the next turn of its loop.
        for _ in range(3):
            await asyncio.sleep(0)
    finally:
        row = [context.payload.task_id, context.attempt, what["model"], what["agent"], tokens_in, tokens_out]
        with Path(what["ledger"]).open("a") as ledger:
            ledger.write(json.dumps(row) + "\n")
        _paying.remove(context.payload.task_id)
    match what["ends"][min(context.attempt, len(what["ends"])) - 1]:
        case "fails":
            raise RuntimeError("paid, and failed")
        case "dies":
            while _paying:
                await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGKILL)
        case "waits":
            await asyncio.Event().wait()
    return {"output": "", "usage": {"input_tokens": tokens_in, "output_tokens": tokens_out}}
