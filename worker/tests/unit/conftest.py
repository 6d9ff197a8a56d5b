"""What holds for every unit test: all of them share one process."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from orbiter.distributed.signals import HANDLED


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A test that leaves handlers behind would end a later one, and the process with it, without a word."""
    before = [signal.getsignal(number) for number in HANDLED]
    yield
    assert [signal.getsignal(number) for number in HANDLED] == before
