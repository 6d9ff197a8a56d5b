"""Wiring: the parts of a worker, each made once."""

from __future__ import annotations

import pytest

from orbiter.distributed.broker.cluster_broker import ClusterBroker
from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.connection.redis_url import RedisUrlError
from orbiter.distributed.execution.in_process import InProcessExecutor
from orbiter.distributed.settings import WorkerSettings
from orbiter.distributed.worker.wiring import PATIENCE, build_parts


@pytest.mark.parametrize(
    ("url", "kind"),
    [("redis://127.0.0.1:1", TaskBroker), ("redis+cluster://127.0.0.1:1", ClusterBroker)],
    ids=["standalone", "cluster"],
)
async def test_parts_are_made_for_the_kind_of_redis(url: str, kind: type) -> None:
    settings = WorkerSettings.of(queue="q", max_crashes=7, max_payload_bytes=5000, event_ttl=90, stream_events=500)
    parts = build_parts(url, settings)
    assert type(parts.broker) is kind
    assert (parts.broker.queue_name, parts.broker.max_crashes) == ("q", 7)
    assert (parts.broker.max_payload_bytes, parts.broker.event_ttl) == (5000, 90)
    assert parts.broker.client is parts.clients[0]
    # Each has a connection of its own, and none is made yet.
    assert len(set(map(id, parts.clients))) == 4


async def test_parts_run_tasks_in_process_by_default() -> None:
    parts = build_parts("redis://127.0.0.1:1", WorkerSettings.of())
    assert isinstance(parts.executor, InProcessExecutor)
    assert parts.status.tables == [parts.flow.runs]


async def test_parts_run_tasks_by_temporal_where_that_is_set() -> None:
    pytest.importorskip("temporalio")
    parts = build_parts("redis://127.0.0.1:1", WorkerSettings.of(executor="temporal"))
    assert not isinstance(parts.executor, InProcessExecutor)


@pytest.mark.parametrize(("ttl", "limit"), [(3, PATIENCE * 2), (60, 60)])
async def test_watchdog_waits_longer_than_any_call_may_take(ttl: int, limit: float) -> None:
    parts = build_parts("redis://127.0.0.1:1", WorkerSettings.of(heartbeat_ttl=ttl))
    assert parts.watchdog._limit == limit


def test_parts_are_not_made_for_a_url_that_cannot_be_used() -> None:
    with pytest.raises(RedisUrlError):
        build_parts("http://127.0.0.1", WorkerSettings.of())
