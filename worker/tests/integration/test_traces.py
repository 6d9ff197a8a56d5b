"""One trace from the client through the queue to the tool; and none of one task's context in the next."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fleet import QUEUE, Fleet, job_payload
from tests.otlp_receiver import Receiver, attributes, receiving
from tests.support import WORKER_DIRECTORY, environment, wait_until, worker_process

SUBMIT, EXECUTE = "orbiter.distributed.submit", "orbiter.distributed.execute"


@contextmanager
def _traced_worker(fleet: Fleet, log: Path, **env: str) -> Iterator[Receiver]:
    """Run a worker of one slot that sends its spans, and nothing else, to a receiver."""
    with receiving() as receiver:
        env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_METRICS_EXPORTER": "none"}
        env |= {"OTEL_BSP_SCHEDULE_DELAY": "50"}
        with worker_process(fleet.url, "w1", log, "--retry-backoff", "0", **env):
            yield receiver


async def _ask(fleet: Fleet, receiver: Receiver) -> str:
    """Let a client, a process of its own, have its agent run; return its trace's id."""
    asked = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.integration.traced_client", fleet.url],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_SERVICE_NAME="client"),
        cwd=WORKER_DIRECTORY,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    return asked.stdout.strip()


async def test_one_trace_leads_from_the_client_through_the_queue_to_the_tool(
    fleet: Fleet, tmp_path: Path, executor: dict[str, str]
) -> None:
    with _traced_worker(fleet, tmp_path / "log", **executor) as receiver:
        trace_id = await _ask(fleet, receiver)
        await wait_until(lambda: receiver.span(EXECUTE) is not None)
    # Two processes: the client's spans and the worker's.
    assert {row["service.name"] for row in receiver.resources} >= {"orbiter-worker", "client"}
    by_id = {span.span_id: span for span in receiver.spans}
    assert {span.trace_id.hex() for span in receiver.spans} == {trace_id}
    tool = receiver.span("execute_tool add")
    assert tool is not None, sorted(span.name for span in receiver.spans)
    ancestors, span = [], tool
    while span.parent_span_id:
        span = by_id[span.parent_span_id]
        ancestors.append(span.name)
    assert ancestors[-3:] == [EXECUTE, SUBMIT, "request"]
    assert [span for span in receiver.spans if span.name.startswith("chat ")], "no span of a model request"

    (task_id,) = [await _only_task(fleet)]
    submit, execute = attributes(receiver.span(SUBMIT)), attributes(receiver.span(EXECUTE))
    assert (submit["messaging.system"], submit["messaging.destination.name"]) == ("redis", QUEUE)
    assert (submit["messaging.operation.type"], execute["messaging.operation.type"]) == ("send", "process")
    assert submit["messaging.message.id"] == execute["messaging.message.id"] == task_id
    assert (execute["orbiter.distributed.worker_id"], execute["orbiter.distributed.attempt"]) == ("w1", 1)
    assert (receiver.span(SUBMIT).kind, receiver.span(EXECUTE).kind) == (4, 5)
    assert "secret" not in str(receiver.spans), "what people ask is not recorded unless the operator says so"


async def _only_task(fleet: Fleet) -> str:
    (task,) = await fleet.store.list_tasks()
    return task.task_id


async def test_prompts_are_recorded_where_the_operator_says_so(fleet: Fleet, tmp_path: Path) -> None:
    content = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}
    with _traced_worker(fleet, tmp_path / "log", **content) as receiver:
        await _ask(fleet, receiver)
        await wait_until(lambda: receiver.span(EXECUTE) is not None)
    assert "a secret question" in str(receiver.spans)


def _runs(receiver: Receiver, task_ids: Collection[str]) -> list[Any]:
    """Return the spans of these tasks: what other tests have left in Temporal may run here as well."""
    return [span for span in receiver.spans if attributes(span).get("orbiter.distributed.task_id") in task_ids]


async def _baggage(fleet: Fleet, carrier: Any, task_ids: list[str]) -> dict[str, str]:
    metadata = {} if carrier is None else {"trace_context": carrier}
    task_ids.append(await fleet.submit("baggage", metadata=metadata))
    task = await fleet.ends(task_ids[-1])
    assert task.result is not None, task.error
    return dict(task.result["baggage"])


async def test_context_never_leaks_into_the_next_task(fleet: Fleet, tmp_path: Path, executor: dict[str, str]) -> None:
    ids: list[str] = []
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with _traced_worker(fleet, tmp_path / "log", **executor) as receiver:
        assert await _baggage(fleet, {"traceparent": parent, "baggage": "user=ann"}, ids) == {"user": "ann"}
        assert await _baggage(fleet, None, ids) == {}
        # As 0.1 sends it: no traceparent, values quoted.
        assert await _baggage(fleet, {"baggage": "tenant=a+b%2Fc"}, ids) == {"tenant": "a b/c"}
        # What is no carrier is passed over.
        for nonsense in ("text", ["x"], {"traceparent": 7}, {"traceparent": "nonsense"}):
            assert await _baggage(fleet, nonsense, ids) == {}
        await wait_until(lambda: len(_runs(receiver, ids)) == 7)
    first, *others = spans = _runs(receiver, ids)
    assert first.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert first.parent_span_id.hex() == "b7ad6b7169203331"
    assert [span.parent_span_id for span in others] == [b""] * 6
    assert len({span.trace_id for span in spans}) == 7


async def test_each_attempt_is_a_span_that_names_its_error(
    fleet: Fleet, tmp_path: Path, executor: dict[str, str]
) -> None:
    with _traced_worker(fleet, tmp_path / "log", **executor) as receiver:
        ids = [await fleet.submit("fail", metadata={"times": 1})]
        await fleet.ends(ids[0])
        begun = tmp_path / "begun"
        ids.append(await fleet.submit("sleep", metadata={"seconds": 600, "log": str(begun)}))
        await wait_until(begun.exists)
        await fleet.broker.cancel(ids[1])
        await wait_until(lambda: len(_runs(receiver, ids)) == 3)
    failed, worked, cancelled = spans = _runs(receiver, ids)
    assert [attributes(span)["orbiter.distributed.attempt"] for span in spans] == [1, 2, 1]
    assert (failed.status.code, attributes(failed)["error.type"]) == (2, "RuntimeError")
    assert failed.events[0].name == "exception"
    assert (worked.status.code, "error.type" in attributes(worked)) == (0, False)
    assert attributes(cancelled)["orbiter.distributed.stopped"] is True


async def test_without_tracing_the_payload_stays_as_it_is(fleet: Fleet) -> None:
    await fleet.broker.submit(job_payload("echo"))
    ((_, fields),) = await fleet.client.xrange(QUEUE)
    assert "trace_context" not in fields["payload"]
