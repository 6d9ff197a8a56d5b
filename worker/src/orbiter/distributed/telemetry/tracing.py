"""Spans, where OpenTelemetry's SDK is active: one for a submission, one for each run, linked across the queue.

The link is the W3C trace context in the payload's ``metadata.trace_context``, beside the ``baggage`` that 0.1 puts
there.
Where no tracer provider has been set up, none of this costs more than a look whether there is one.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from opentelemetry.trace import Tracer
    from pydantic_ai.models.instrumented import InstrumentationSettings

    from orbiter.distributed.models import TaskPayload

R = TypeVar("R")

SUBMIT_SPAN = "orbiter.distributed.submit"
EXECUTE_SPAN = "orbiter.distributed.execute"
CARRIER = "trace_context"
# Whether OpenTelemetry is left to find its provider by itself.
_UNNAMED = "OTEL_PYTHON_TRACER_PROVIDER" not in os.environ
# OpenTelemetry's variable for all that instruments models: whether prompts, answers and tool arguments are recorded.
CAPTURE_CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


def active() -> bool:
    """Tell whether somebody has set up a tracer provider in this process."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or (_UNNAMED and getattr(trace, "_TRACER_PROVIDER", trace) is None):
        return False  # Asking for the provider costs as much as claiming a task while there is none.
    # Absent where another thread is importing it: modules that tasks use are imported while the first ones run.
    provider = getattr(trace, "get_tracer_provider", None)
    return provider is not None and not isinstance(provider(), trace.ProxyTracerProvider)


@cache
def _version() -> str:
    return version("orbiter-distributed")


def _tracer() -> Tracer:
    from opentelemetry.trace import get_tracer  # noqa: PLC0415 - only where tracing is active

    return get_tracer("orbiter.distributed", _version())


@contextmanager
def submitting(task: TaskPayload, queue: str) -> Iterator[TaskPayload]:
    """Give the task as it is to be submitted meanwhile: with the span's context in its metadata."""
    if not active():
        yield task
        return
    from opentelemetry import propagate  # noqa: PLC0415
    from opentelemetry.trace import SpanKind  # noqa: PLC0415

    attributes = _attributes(task, queue, "send")
    with _tracer().start_as_current_span(SUBMIT_SPAN, kind=SpanKind.PRODUCER, attributes=attributes):
        carrier = _carrier(task)
        propagate.inject(carrier)
        yield task.model_copy(update={"metadata": {**task.metadata, CARRIER: carrier}})


async def traced(
    run: Callable[[], Coroutine[Any, Any, R]],
    task: TaskPayload,
    *,
    attempt: int,
    queue: str,
    group: str,
    worker_id: str,
) -> R:
    """Run a task within a span below the submission's; where tracing is :func:`active`.

    Args:
        run: Makes the run.
        task: What runs.
        attempt: Which run of it this is, from 1.
        queue: The queue that it came from.
        group: The queue's consumer group.
        worker_id: The worker that runs it.
    """
    from opentelemetry import context, propagate  # noqa: PLC0415
    from opentelemetry.trace import SpanKind  # noqa: PLC0415

    attributes = _attributes(task, queue, "process") | {
        "messaging.consumer.group.name": group,
        "orbiter.distributed.worker_id": worker_id,
        "orbiter.distributed.attempt": attempt,
    }
    # Every run is an asyncio task with a context of its own: what is attached here ends with it. It begins empty, so
    # that nothing of the worker's, or of another task's, is in it.
    attached = context.attach(propagate.extract(_carrier(task), context.Context()))
    try:
        span = _tracer().start_as_current_span(EXECUTE_SPAN, kind=SpanKind.CONSUMER, attributes=attributes)
        with span as current:
            try:
                return await run()
            except asyncio.CancelledError:
                current.set_attribute("orbiter.distributed.stopped", value=True)
                raise
            except Exception as error:
                current.set_attribute("error.type", type(error).__name__)
                raise
    finally:
        context.detach(attached)


def _attributes(task: TaskPayload, queue: str, operation: str) -> dict[str, str | int]:
    return {
        "messaging.system": "redis",
        "messaging.operation.type": operation,
        "messaging.operation.name": operation,
        "messaging.destination.name": queue,
        "messaging.message.id": task.task_id,
        "gen_ai.agent.name": task.agent_name,
        "orbiter.distributed.task_id": task.task_id,
    }


def _carrier(task: TaskPayload) -> dict[str, str]:
    """Return the headers that a client sent along; what is none is passed over."""
    found = task.metadata.get(CARRIER)
    return {str(name): text for name, text in found.items() if isinstance(text, str)} if isinstance(found, dict) else {}


def agent_instrumentation() -> InstrumentationSettings | bool:
    """Return how pydantic-ai is to record models and tools: not at all unless tracing is active."""
    return _instrumentation() if active() else False


@cache
def _instrumentation() -> InstrumentationSettings:
    from pydantic_ai.models.instrumented import InstrumentationSettings  # noqa: PLC0415

    # What people ask and are told is nobody else's business, unless the operator says otherwise.
    enabled = os.environ.get(CAPTURE_CONTENT, "").strip().lower() in {"true", "1", "span_only", "span_and_event"}
    return InstrumentationSettings(include_content=enabled, include_binary_content=enabled)
