"""Troubles: a step that fails for longer than a lease is a problem, and spoilt data are mended."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ResponseError

from orbiter.distributed.broker.records import Mended
from orbiter.distributed.broker.spoilt import is_spoilt, readable
from orbiter.distributed.telemetry import metrics
from orbiter.distributed.worker.troubles import MEND_EVERY, Mender, Troubles
from tests.unit.scripted import ScriptedHousekeeping

LEASE = 30.0
WRONG = ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
GONE = RedisConnectionError("gone")


class Troubled:
    """Troubles whose clock the test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.store = ScriptedHousekeeping()
        self.troubles = Troubles(LEASE, clock=lambda: self.seconds)
        self.troubles.mender = Mender(self.store, clock=lambda: self.seconds)

    async def fail(self, seconds: float, error: Exception = GONE, step: str = "claim") -> None:
        """Fail once a second for so long."""
        for _ in range(int(seconds) + 1):
            await self.troubles.failed(step, error)  # type: ignore[arg-type]
            self.seconds += 1


@pytest.mark.parametrize("step", ["claim", "renew", "settle"])
async def test_step_that_fails_for_a_lease_is_a_problem(step: str) -> None:
    troubled = Troubled()
    await troubled.fail(LEASE - 1, step=step)
    assert troubled.troubles.problem() == ""
    await troubled.fail(3, step=step)
    assert "gone" in troubled.troubles.problem()
    troubled.troubles.worked(step)  # type: ignore[arg-type]
    assert troubled.troubles.problem() == ""


async def test_step_that_is_not_tried_any_more_is_no_problem() -> None:
    troubled = Troubled()
    await troubled.fail(LEASE + 2)
    assert troubled.troubles.problem() != ""
    troubled.seconds += LEASE
    assert troubled.troubles.problem() == ""
    # A failure long after is a new one.
    await troubled.fail(1)
    assert troubled.troubles.problem() == ""


async def test_another_step_that_works_hides_no_problem() -> None:
    troubled = Troubled()
    await troubled.fail(LEASE + 2)
    troubled.troubles.worked("settle")
    assert troubled.troubles.problem() != ""


async def test_only_spoilt_data_are_mended_and_not_more_often_than_helps() -> None:
    troubled = Troubled()
    await troubled.fail(3)
    await troubled.fail(3, NoPermissionError("no"))
    assert troubled.store.calls == []
    for _ in range(3):
        await troubled.troubles.failed("settle", WRONG)
    assert troubled.store.calls == [("mend",), ("renew_stream",)]
    troubled.seconds += MEND_EVERY
    await troubled.troubles.failed("settle", WRONG)
    assert len(troubled.store.calls) == 4


async def test_what_was_mended_is_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    troubled = Troubled()
    troubled.store.will("mend", [Mended("queue", "aside\n"), Mended("list", "")])
    troubled.store.will("renew_stream", True)
    assert await troubled.troubles.mends()
    assert metrics.MENDED.values()[troubled.store.queue_name,] == 3
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    assert "\n" not in caplog.text.replace("\n", "", 3)


@pytest.mark.parametrize(("answer", "known"), [([], False), (ResponseError("no"), True), (GONE, True)])
async def test_whether_data_are_spoilt_is_not_known_where_redis_refuses(answer: object, known: bool) -> None:
    troubled = Troubled()
    troubled.store.will("mend", answer)
    assert await troubled.troubles.mends() is known


@pytest.mark.parametrize(
    ("error", "spoilt"),
    [
        (WRONG, True),
        (ResponseError("value is not an integer or out of range"), True),
        (ResponseError("The stream has exhausted the last possible ID, unable to add more items"), True),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), True),
        (NoPermissionError("this user has no permissions"), False),
        (ResponseError("The user executing the script can't run this command or subcommand"), False),
        (ResponseError("NOGROUP No such key"), False),
        (ResponseError("MISCONF Redis is configured to save"), False),
        (ResponseError("BUSY Redis is busy running a script"), False),
        (GONE, False),
        (KeyError("a fault"), False),
    ],
)
def test_spoilt_data_are_told_from_what_the_server_refuses(error: Exception, spoilt: bool) -> None:
    assert is_spoilt(error) is spoilt


def test_replies_are_readable_but_for_what_the_server_refuses() -> None:
    assert readable([["a"], WRONG, ["b"]], [None]) == [["a"], [None], ["b"]]
    with pytest.raises(NoPermissionError):
        readable([["a"], NoPermissionError("no")], [None])
