"""Prices: what tokens cost by the library genai-prices, as its release that is installed has it; nothing is fetched."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import genai_prices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from genai_prices.types import PriceCalculation

    from orbiter.distributed.client.overview import DayOfUsage

SOURCE = f"genai-prices {genai_prices.__version__}"
_NOON = 43_200
_THOUSAND = 1_000


@dataclass(slots=True)
class Line:
    """One line of a table of usage.

    Attributes:
        name: A model, an agent, or nothing where it is a day.
        day: The day's beginning, epoch seconds; 0 where it is none.
        requests: Answers of models.
        input: Tokens that they were sent.
        output: Tokens that they answered.
        cost: US dollars, of what has a price.
        unknown: Tokens that have none.
        prices: Of a model: dollars for a million tokens in, and out; ``None`` where the library does not know it.
        url: Of a model: where the library has them from.
    """

    name: str = ""
    day: int = 0
    requests: int = 0
    input: int = 0
    output: int = 0
    cost: Decimal = field(default_factory=Decimal)
    unknown: int = 0
    prices: tuple[Decimal, Decimal] | None = None
    url: str = ""

    def add(self, row: DayOfUsage, cost: Decimal | None) -> None:
        """Add what was used, and what it cost, where that is known."""
        self.requests += row.requests
        self.input += row.input
        self.output += row.output
        if cost is None:
            self.unknown += row.input + row.output
        else:
            self.cost += cost


@dataclass(frozen=True, slots=True)
class Bill:
    """Usage in all, and by model, agent and day."""

    total: Line
    models: list[Line]
    agents: list[Line]
    days: list[Line]


def load() -> None:
    """Read the library's prices, which the first look-up does otherwise: some tenths of a second of computing."""
    _of_model("openai:gpt-4o")


def bill(rows: Iterable[DayOfUsage]) -> Bill:
    """Return what was used and what it cost, by the price of each day."""
    total, models, agents, days = Line(), _lines(), _lines(), _lines()
    for row in rows:
        cost = price(row)
        for line in (total, models[row.model], agents[row.agent], days[row.day]):
            line.add(row, cost)
    for model, line in models.items():
        line.name = str(model)
        line.prices, line.url = _of_model(line.name)
    for agent, line in agents.items():
        line.name = str(agent)
    for day, line in days.items():
        line.day = int(day)
    return Bill(total, _by_size(models.values()), _by_size(agents.values()), list(days.values()))


def price(row: DayOfUsage) -> Decimal | None:
    """Return what was paid, US dollars, by the prices of its day; ``None`` where the library does not know the model.

    Some models cost more beyond a length, so that each request is taken for as long as they are on average. No token
    counts as cached.
    """
    requests = max(1, row.requests)
    each_in, each_out = -(-row.input // requests), -(-row.output // requests)
    found = _calculated(row.model, each_in, each_out, row.day + _NOON)
    if found is None:
        return None
    rest = (found.total_price - found.input_price - found.output_price) * requests
    return rest + sum(
        (
            cost * tokens / each
            for cost, tokens, each in (
                (found.input_price, row.input, each_in),
                (found.output_price, row.output, each_out),
            )
            if each
        ),
        start=Decimal(),
    )


def _of_model(model: str) -> tuple[tuple[Decimal, Decimal] | None, str]:
    # Of a short request.
    found = _calculated(model, _THOUSAND, _THOUSAND, datetime.now(UTC).timestamp())
    if found is None:
        return None, ""
    return (found.input_price * _THOUSAND, found.output_price * _THOUSAND), (found.provider.pricing_urls or [""])[0]


def _calculated(model: str, tokens_in: int, tokens_out: int, at: float) -> PriceCalculation | None:
    provider, _, name = model.partition(":")
    usage = genai_prices.Usage(input_tokens=tokens_in, output_tokens=tokens_out)
    try:
        return genai_prices.calc_price(
            usage, name, provider_id=provider, genai_request_timestamp=datetime.fromtimestamp(at, UTC)
        )
    except (LookupError, ValueError):
        return None


def _lines() -> defaultdict[str | int, Line]:
    make: Callable[[], Line] = Line
    return defaultdict(make)


def _by_size(lines: Iterable[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: (line.cost, line.input + line.output), reverse=True)
