"""A client with tracing of its own: ``python -m tests.integration.traced_client URL``; prints the trace's id."""

from __future__ import annotations

import asyncio
import sys

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from orbiter.distributed import distributed

AGENT = {"name": "adder", "model": "test", "instructions": "Add.", "tools": ["tests.integration.jobs.add"]}


async def main(url: str) -> None:
    with trace.get_tracer("client").start_as_current_span("request") as span:
        async with await distributed(AGENT, "a secret question", redis_url=url) as handle:
            await handle.result()
    print(f"{span.get_span_context().trace_id:032x}")


if __name__ == "__main__":
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    asyncio.run(main(sys.argv[1]))
    provider.shutdown()
