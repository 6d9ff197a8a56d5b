"""Prices: what the library knows has a cost, and what it does not know says so."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from orbiter.dashboard import pages
from orbiter.dashboard.prices import bill, price
from orbiter.dashboard.view import dollars
from orbiter.distributed.client.overview import DayOfUsage

DAY = 20_788 * 86_400


def used(model: str, agent: str = "a", *, day: int = DAY, tokens: int = 1_000_000) -> DayOfUsage:
    return DayOfUsage(day, model, agent, 2, tokens, tokens)


@pytest.mark.parametrize("model", ["openai:nothing-of-theirs", "function:function:stream", "no provider", ""])
def test_a_model_that_the_library_does_not_know_has_no_price(model: str) -> None:
    assert price(used(model)) is None


def test_a_known_model_costs_what_its_tokens_do() -> None:
    one, three = price(used("openai:gpt-4o")), price(used("openai:gpt-4o", tokens=3_000_000))
    assert one
    assert three == 3 * one


def test_many_short_requests_do_not_cost_what_a_long_one_does() -> None:
    """The library knows a model whose tokens cost more beyond some length of a request."""
    long, short = (
        price(DayOfUsage(DAY, "anthropic:claude-sonnet-4-5", "a", requests, 1_000_000, 0)) for requests in (1, 100)
    )
    assert long
    assert short
    assert long > short
    # A third of a token is none.
    odd = price(DayOfUsage(DAY, "anthropic:claude-sonnet-4-5", "a", 3, 100, 0))
    assert odd == pytest.approx(short / 10_000)


def test_a_day_without_tokens_costs_nothing() -> None:
    assert price(DayOfUsage(DAY, "openai:gpt-4o", "a", 3, 0, 0)) == 0


def test_a_bill_adds_up_by_model_agent_and_day() -> None:
    rows = [used("openai:gpt-4o"), used("openai:gpt-4o", "b", day=DAY - 86_400), used("openai:none-such", "b")]
    found = bill(rows)
    each = price(used("openai:gpt-4o"))
    assert each
    assert (found.total.requests, found.total.input, found.total.cost, found.total.unknown) == (
        6,
        3_000_000,
        2 * each,
        2_000_000,
    )
    assert [(line.name, line.cost, line.unknown) for line in found.models] == [
        ("openai:gpt-4o", 2 * each, 0),
        ("openai:none-such", 0, 2_000_000),
    ]
    assert [line.prices is None for line in found.models] == [False, True]
    assert {line.name: line.requests for line in found.agents} == {"a": 2, "b": 4}
    assert [(line.day, line.requests) for line in found.days] == [(DAY, 4), (DAY - 86_400, 2)]


@pytest.mark.parametrize(
    ("amount", "text"), [("0", "$0.00"), ("0.000123", "$0.00012"), ("0.5", "$0.500"), ("1234.5", "$1,234.50")]
)
def test_small_amounts_are_told_from_nothing(amount: str, text: str) -> None:
    assert dollars(Decimal(amount)) == text


async def test_other_pages_go_on_while_a_bill_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads its prices at the first question, which takes some tenths of a second."""
    loop, others_go_on = asyncio.get_running_loop(), threading.Event()

    def made(_: object) -> bool:
        loop.call_soon_threadsafe(others_go_on.set)
        return others_go_on.wait(10)

    async def rows(_: str, *, days: int) -> list[int]:
        return [days]

    monkeypatch.setattr(pages, "bill", made)
    overview: Any = SimpleNamespace(queue="q", namespace="orbiter", usage=rows)
    assert (await pages.usage(overview, {}))["bill"] is True
