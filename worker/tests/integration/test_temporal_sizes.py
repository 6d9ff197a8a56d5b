"""What is larger than Temporal takes is one clear failure: it is not run again, and stops nothing else."""

from __future__ import annotations

import pytest

from orbiter.distributed.limits import LARGEST_CHECKPOINT, LARGEST_DURABLE, MAX_PAYLOAD_BYTES, SMALL_CHECKPOINT
from orbiter.distributed.models import TaskResult, TaskStatus
from tests.fleet import Fleet, working
from tests.temporal import TemporalServer

# Temporal refuses more than 2 MiB. More than 4 MiB gRPC does not take, which looks as if Temporal were away.
SIZES = pytest.mark.parametrize("size", [2_200_000, 5_000_000])
LARGE = {"max_payload_bytes": 8_000_000, "max_result_bytes": 8_000_000}
DURABLE = {"executor": "temporal", "heartbeat_ttl": 3, **LARGE}


@pytest.fixture(autouse=True)
def _clients_submit_large_tasks(monkeypatch: pytest.MonkeyPatch, fleet: Fleet) -> None:
    # Executor processes and brokers that a worker makes; and the one that is there already.
    monkeypatch.setenv("ORBITER_MAX_PAYLOAD_BYTES", str(LARGE["max_payload_bytes"]))
    fleet.broker.max_payload_bytes = LARGE["max_payload_bytes"]


async def ends(fleet: Fleet, job: str, text: str = "", *, isolation: str = "none", **fields: object) -> TaskResult:
    """Run a task, and a small one behind it, which must complete."""
    async with working(fleet, isolation=isolation, **DURABLE):
        task = await fleet.ends(await fleet.submit(job, text, **fields))
        after = await fleet.ends(await fleet.submit("echo", "x"))
    assert after.status == TaskStatus.COMPLETED
    return task


@SIZES
async def test_a_task_that_temporal_does_not_take_fails_at_once(
    fleet: Fleet, temporal: TemporalServer, size: int
) -> None:
    task = await ends(fleet, "noop", "x" * size)
    assert (task.status, task.attempt, task.error_type) == (TaskStatus.FAILED, 1, "ConfigurationError")
    assert "bytes for Temporal are more than the 2040000 that it takes at once" in (task.error or "")
    assert await fleet.client.xlen("{orbiter:tasks}:dead") == 1


@SIZES
async def test_a_result_that_temporal_does_not_take_fails_its_first_run(
    fleet: Fleet, temporal: TemporalServer, size: int
) -> None:
    task = await ends(fleet, "returns_much", metadata={"size": size})
    assert (task.status, task.attempt, task.error_type) == (TaskStatus.FAILED, 1, "ResultTooLargeError")
    assert f"more than the {LARGEST_DURABLE} that it takes at once" in (task.error or "")
    await fleet.check_invariants([task.task_id])


@SIZES
@pytest.mark.parametrize("isolation", ["none", "process"])
async def test_a_checkpoint_that_temporal_does_not_take_fails_its_first_run(
    fleet: Fleet, temporal: TemporalServer, size: int, isolation: str
) -> None:
    task = await ends(fleet, "saves_much", metadata={"size": size}, isolation=isolation)
    assert (task.status, task.attempt, task.error_type) == (TaskStatus.FAILED, 1, "ConfigurationError")
    assert (task.error or "").startswith("checkpoint: ")
    assert f"more than the {LARGEST_CHECKPOINT} that Temporal takes beside this task" in (task.error or "")
    await fleet.check_invariants([task.task_id])


async def test_what_is_just_small_enough_completes(fleet: Fleet, temporal: TemporalServer) -> None:
    """Task and checkpoint are sent together when a task runs again, and the checkpoint with the error before that."""
    # Without the task around it: some hundred bytes.
    for filler, size in ((0, LARGEST_CHECKPOINT - 2), (1_000_000, 1_080_000), (2_030_000, SMALL_CHECKPOINT - 2)):
        task = await ends(fleet, "saves_much", metadata={"size": size, "filler": "x" * filler})
        assert (task.status, task.attempt, task.result) == (TaskStatus.COMPLETED, 2, {"output": f"{size} saved before"})
        await fleet.check_invariants([task.task_id])
    task = await ends(fleet, "returns_much", metadata={"size": LARGEST_DURABLE - 100})
    assert (task.status, task.attempt) == (TaskStatus.COMPLETED, 1)
    await fleet.check_invariants([task.task_id])


async def test_a_task_of_the_default_limit_is_never_too_large(fleet: Fleet, temporal: TemporalServer) -> None:
    """What is an escape in JSON has twice the length in Temporal's."""
    fleet.broker.max_payload_bytes = MAX_PAYLOAD_BYTES
    task = await ends(fleet, "noop", '"' * (MAX_PAYLOAD_BYTES // 2 - 1000))
    assert (task.status, task.attempt) == (TaskStatus.COMPLETED, 1)
