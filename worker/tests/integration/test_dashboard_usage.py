"""Usage: what the page says is what the models' answers cost, whatever became of the runs that asked for them."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import genai_prices
import pytest
from redis.asyncio import Redis

from orbiter.dashboard.prices import bill
from orbiter.distributed import Client, TaskPayload, TaskResult, TaskStatus
from orbiter.distributed.client.overview import Overview
from tests.fleet import Fleet, working
from tests.integration.dashboards import dashboard
from tests.integration.openai_server import OpenAIServer, error, openai_server, text
from tests.support import wait_until, whole_lines

KNOWN, UNKNOWN = "openai:gpt-4o", "openai:gpt-test"
ANSWER = (7, 5)
# How the runs of a task end, one after the other, and of how many among a thousand.
ENDS = {
    ("completes",): 620,
    ("fails", "completes"): 120,
    ("fails", "fails"): 40,
    ("dies", "completes"): 10,
    ("waits",): 10,
}
AGENTS = 200


@pytest.fixture
async def provider(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenAIServer]:
    """A provider that refuses three requests among those that it answers."""
    async with openai_server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-test")
        answers, refusal = [text("Hello")] * 5, error(500, "try again")
        server.replies = [*answers, refusal, *answers, refusal, *answers, refusal, *answers]
        yield server


def paying(number: int, share: float, ledger: Path) -> list[TaskPayload]:
    """Return tasks that pay, mixed."""
    tasks = []
    for ends, of_thousand in ENDS.items():
        for _ in range(max(1, round(of_thousand * share))):
            metadata = {
                "ends": ends,
                "ledger": str(ledger),
                "model": random.choice((KNOWN, UNKNOWN)),
                "agent": random.choice(("support", "billing")),
                "tokens": (random.randint(0, 5000), random.randint(0, 500)),
            }
            config = {"runtime": "callable", "target": "tests.integration.paid_jobs:pays", "name": "pays"}
            tasks.append(TaskPayload(agent_config=config, metadata=metadata))
    random.shuffle(tasks)
    assert len(tasks) <= number
    return tasks


def rows_of(ledger: Path) -> list[list[Any]]:
    return [json.loads(line) for line in whole_lines(ledger)]


def card(page: str, title: str) -> int:
    """Return the number on a card of the page."""
    return int(re.findall(rf"<dt>{title}</dt>\s*<dd>([\d\u202f]+)", page)[0].replace("\u202f", ""))


def used(task: TaskResult) -> Counter[str]:
    usage = (task.result or {}).get("usage", {})
    return Counter({"in": usage.get("input_tokens", 0), "out": usage.get("output_tokens", 0)})


async def run_them(fleet: Fleet, tasks: list[TaskPayload], ledger: Path) -> list[TaskResult]:
    """Run tasks in executor processes; those that wait are cancelled once all of them have paid."""
    waiting = {task.task_id for task in tasks if task.metadata["ends"] == ("waits",)}
    async with working(fleet, worker_id="w1", isolation="process", concurrency=20, max_retries=1):
        await fleet.broker.submit_many(tasks)
        await wait_until(lambda: waiting <= {row[0] for row in rows_of(ledger)}, 300)
        for task_id in waiting:
            await fleet.broker.cancel(task_id)
        return await fleet.all_end([task.task_id for task in tasks], 300)


async def ask_the_provider(fleet: Fleet, number: int) -> list[TaskResult]:
    config = {"name": "asks", "model": UNKNOWN}
    tasks = [TaskPayload(agent_config=config, input="Hi") for _ in range(number)]
    async with working(fleet, worker_id="w2", concurrency=10, max_retries=3):
        return await fleet.all_end(await fleet.broker.submit_many(tasks), 300)


@pytest.mark.parametrize("number", [100, pytest.param(1000, marks=pytest.mark.nightly)])
async def test_usage_is_what_was_paid_for_completed_failed_and_lost_runs(
    fleet: Fleet, redis_client: Redis, provider: OpenAIServer, tmp_path: Path, number: int
) -> None:
    random.seed(number)
    ledger, today = tmp_path / "ledger", int(time.time() // 86_400)
    asked = await ask_the_provider(fleet, round(AGENTS * number / 1000))
    ended = await run_them(fleet, paying(number, number / 1000, ledger), ledger)
    assert {task.status for task in ended} == {TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED}
    assert any(task.losses for task in ended)
    assert any(task.retries for task in [*ended, *asked])

    # The sum over the results, and what was paid by runs that left none.
    results = sum((used(task) for task in [*ended, *asked]), Counter[str]())
    completed = {(task.task_id, task.attempt) for task in ended if task.status == TaskStatus.COMPLETED}
    rows = rows_of(ledger)
    lost = [row for row in rows if (row[0], row[1]) not in completed]
    assert len(rows) - len(lost) == len(completed)
    assert len(lost) >= len(ended) - len(completed)
    answered = len(provider.requests) - 3
    assert answered == len(asked)
    paid = Counter({"in": sum(row[4] for row in rows), "out": sum(row[5] for row in rows)})
    paid += Counter({"in": answered * ANSWER[0], "out": answered * ANSWER[1]})
    assert results + Counter({"in": sum(row[4] for row in lost), "out": sum(row[5] for row in lost)}) == paid

    async with dashboard(fleet.url) as browser, Client(fleet.url) as client:
        page = await browser.text("/usage?days=7")
        found = bill(await Overview(client).usage(days=7))
    assert (card(page, "Tokens in"), card(page, "Tokens out")) == (paid["in"], paid["out"])
    assert card(page, "Requests") == len(rows) + answered
    for place, lines in ((2, found.models), (3, found.agents)):
        sums: Counter[str] = Counter()
        for row in rows:
            sums[row[place]] += row[4]
        sums[UNKNOWN if place == 2 else "asks"] += answered * ANSWER[0]
        assert {line.name: line.input for line in lines} == sums
    # Of midnight there are two days.
    assert {line.day // 86_400 for line in found.days} <= {today, today + 1}

    # What has a price has it with its day and where it is from; the other has none, and none is made up.
    days = {datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-%d") for day in (today, today + 1)}
    prices = re.findall(r"\$2\.50 in, \$10\.00 out for a million on ([\d-]+), by genai-prices ([\w.]+) from ", page)
    assert [(day in days, version) for day, version in prices] == [(True, genai_prices.__version__)]
    assert f"price unknown to genai-prices {genai_prices.__version__}" in page
    cost = {line.name: (line.cost, line.unknown) for line in found.models}
    tokens = [sum(row[at] for row in rows if row[2] == KNOWN) for at in (4, 5)]
    assert float(cost[KNOWN][0]) == pytest.approx(tokens[0] * 2.5e-6 + tokens[1] * 10e-6)
    assert cost[KNOWN][1] == 0
    assert cost[UNKNOWN] == (0, sum(line.input + line.output for line in found.models if line.name == UNKNOWN))
