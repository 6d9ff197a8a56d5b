"""Counting: usage is added up by model and agent, and no invented name fills a memory."""

from __future__ import annotations

import json

from orbiter.distributed.execution.counting import Counting
from orbiter.distributed.telemetry.instruments import OTHER, SERIES_LIMIT


def test_usage_is_added_up_by_model_and_agent() -> None:
    counting = Counting()
    for model, agent in (("p:m", "a"), ("p:m", "b"), ("p:m", "a")):
        counting.spend(model, agent, 3, 4)
    counts = counting.take()
    assert counts.usage == (("p:m", "a", 2, 6, 8), ("p:m", "b", 1, 3, 4))
    assert json.loads(counts.used()) == [['["p:m","a"]', 2, 6, 8], ['["p:m","b"]', 1, 3, 4]]
    counting.delivered()
    assert counting.take().used() == ""


def test_usage_under_invented_names_is_one() -> None:
    counting = Counting()
    for number in range(SERIES_LIMIT + 5):
        counting.spend("p:m", f"agent {number}", 1, 1)
    usage = counting.take().usage
    assert len(usage) == SERIES_LIMIT + 1
    assert usage[-1] == (OTHER, OTHER, 5, 5, 5)


def test_usage_that_cannot_be_is_bounded() -> None:
    counting = Counting()
    counting.spend("p:m", "a", -5, 10**30)
    [(_, _, requests, tokens_in, tokens_out)] = counting.take().usage
    assert (requests, tokens_in) == (1, 0)
    assert tokens_out <= 10**9
