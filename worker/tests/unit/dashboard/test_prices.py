"""Prices: what the library knows has a cost, and what it does not know says so."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal

import pytest

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


def test_once_they_are_loaded_the_first_price_takes_no_reading() -> None:
    found = fresh("from orbiter.dashboard import prices; before = read(); prices.load(); print(before, read())")
    assert found == "False True"


def fresh(code: str) -> str:
    """Return what a process of its own prints; in it ``read()`` tells whether the library's prices have been read."""
    head = "import sys; read = lambda: 'genai_prices.data' in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()
