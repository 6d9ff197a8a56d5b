"""What passes by itself and what does not."""

from __future__ import annotations

import pytest
from redis import exceptions as redis_errors

from orbiter.distributed.connection import patience as module
from orbiter.distributed.connection.patience import Patience, passes, patiently


@pytest.mark.parametrize(
    "error",
    [
        redis_errors.ConnectionError("reset"),
        redis_errors.TimeoutError("slow"),
        redis_errors.BusyLoadingError("LOADING"),
        redis_errors.MaxConnectionsError("all in use"),
        redis_errors.ClusterDownError("CLUSTERDOWN The cluster is down"),
        redis_errors.MasterDownError("MASTERDOWN Link with MASTER is down"),
        redis_errors.ClusterError("TTL exhausted."),
        redis_errors.TryAgainError("TRYAGAIN"),
        redis_errors.MovedError("1 127.0.0.1:7000"),
        redis_errors.AskError("1 127.0.0.1:7000"),
        redis_errors.SlotNotCoveredError("slot 1"),
        redis_errors.ReadOnlyError("You can't write against a read only replica."),
        redis_errors.ResponseError("Command # 1 (HGETALL x) of pipeline caused error: BUSY Redis is busy running"),
        redis_errors.ResponseError("BUSY Valkey is busy running a script."),
        ConnectionResetError("reset"),
        TimeoutError(),
    ],
    ids=lambda error: f"{type(error).__module__.partition('.')[0]}.{type(error).__name__}",
)
def test_an_error_that_waiting_mends_passes(error: Exception) -> None:
    assert passes(error)


@pytest.mark.parametrize(
    "error",
    [
        redis_errors.AuthenticationError("WRONGPASS"),
        redis_errors.AuthorizationError("no"),
        redis_errors.NoPermissionError("NOPERM"),
        redis_errors.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        redis_errors.ResponseError("ERR unknown command"),
        redis_errors.DataError("not a number"),
    ],
    ids=str,
)
def test_an_error_that_no_waiting_mends_does_not_pass(error: Exception) -> None:
    assert not passes(error)


async def test_patience_ends_a_while_after_the_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.02)
    patience = Patience(within=0.05)
    error = redis_errors.ClusterDownError("CLUSTERDOWN")
    for _ in range(10):
        await patience.wait(error)
        patience.answered()
    with pytest.raises(redis_errors.ClusterDownError):
        await _wait_often(patience, error)


async def test_an_error_of_the_system_is_raised_as_one_of_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.01)
    patience = Patience(within=0)
    with pytest.raises(redis_errors.ConnectionError):
        await _wait_often(patience, TimeoutError())


async def _wait_often(patience: Patience, error: Exception) -> None:
    for _ in range(100):
        await patience.wait(error)


async def test_a_refusal_is_raised_at_once() -> None:
    asked = []

    async def ask() -> None:
        asked.append(1)
        raise redis_errors.NoPermissionError("NOPERM")

    with pytest.raises(redis_errors.NoPermissionError):
        await patiently(ask)
    assert len(asked) == 1
