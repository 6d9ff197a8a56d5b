"""Takes the pages' pictures: the dashboard under load, a listing. Usage: python -m tests.screenshots FOLDER."""

from __future__ import annotations

import asyncio
import io
import random
import re
import sys
import tempfile
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

from rich.console import Console

from orbiter.cli.listing import Choice
from orbiter.cli.worker import workers_view
from orbiter.distributed import Client, get_worker_fleet_status
from tests.integration.dashboards import dashboard
from tests.integration.test_dashboard_browser import chromium
from tests.servers import plain_server
from tests.support import wait_until, worker_process

AGENTS = {"support": "answer", "triage": "classify", "billing": "invoice", "archive": "gone"}
SIZES = {"light": (1280, 800), "dark": (1280, 800), "phone": (390, 844)}


def agent(name: str) -> dict[str, str]:
    target = f"tests.integration.shop_jobs:{AGENTS[name]}"
    return {"runtime": "callable", "target": target, "name": name}


async def load(client: Client) -> tuple[str, str]:
    """Submit what a shop does on a busy morning; return a task that says something for long, and one that fails."""
    await _orders(client, 200)
    await client.submit_many(agent("support"), ["Remind the customer"] * 3, not_before=timedelta(minutes=20))
    question = "Where is order 1042? It should have been here on Monday."
    details = {"customer": 4711, "channel": "mail", "pause": 0.5}
    failed = [await client.submit(agent("archive"), "Archive the mails of May", metadata=details) for _ in range(4)]
    await wait_until(lambda: _ended(client, failed[-1].task_id))
    talking = await client.submit(agent("support"), question, metadata=details)
    await wait_until(lambda: _running(client, talking.task_id))
    return talking.task_id, failed[-1].task_id


async def _ended_by(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _orders(client: Client, number: int, *, every: float = 0) -> None:
    for _ in range(number):
        await asyncio.sleep(every)
        name = random.choice(("support", "triage", "billing"))
        order = random.randint(1000, 9999)
        await client.submit(agent(name), f"Where is order {order}?", metadata={"customer": order, "channel": "mail"})


async def _ended(client: Client, task_id: str) -> bool:
    task = await client.status(task_id)
    return task is not None and task.status.terminal


async def _running(client: Client, task_id: str) -> bool:
    task = await client.status(task_id)
    return task is not None and task.started_at is not None


async def listing(url: str) -> str:
    """Return what ``orbiter worker list`` prints in a terminal of 100 columns, as SVG."""
    shown = Choice(("id", "status", "tasks", "failed", "concurrency", "heartbeat"))
    terminal = Console(record=True, file=io.StringIO(), width=100, force_terminal=True)
    terminal.print(workers_view(await get_worker_fleet_status(url), shown))
    picture = terminal.export_svg(title="orbiter worker list")
    # Whoever looks at it is told to nobody: the font is the system's.
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


async def take(folder: Path) -> None:
    """Bring a fleet up, and take pictures of its pages in each size and colour."""
    folder.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(plain_server(scratch, "appendonly yes"))
        url = f"redis://127.0.0.1:{server.port}/0"
        for number in (1, 2, 3):
            options = ("--concurrency", "8", "--max-retries", "0", "--allow-import", "tests.integration.shop_jobs")
            stack.enter_context(worker_process(url, f"shop-{number}", scratch / f"w{number}.log", *options))
        client = await stack.enter_async_context(Client(url))
        talking, failed = await load(client)
        keeping = asyncio.create_task(_orders(client, 100_000, every=0.08))
        stack.push_async_callback(_ended_by, keeping)
        (folder / "worker-list.svg").write_text(await listing(url))
        browser = await stack.enter_async_context(dashboard(url, allow_actions=True))
        for look, (width, height) in SIZES.items():
            colours = "dark" if look == "dark" else "light"
            size = {"width": width, "height": height}
            async with chromium(scratch / look, browser.address, color_scheme=colours, viewport=size) as page:
                for name, path in _paths(talking, failed).items():
                    if look != "light" and name not in {"fleet", "tasks", "task", "errors"}:
                        continue
                    await page.goto(path)
                    await page.locator("#live-state").wait_for()
                    await page.wait_for_timeout(1200)
                    await page.screenshot(path=folder / f"{name}-{look}.png")


def _paths(talking: str, failed: str) -> dict[str, str]:
    names = ("fleet", "queue", "tasks", "errors", "dead", "alerts")
    return {"task": f"/task?id={talking}", "failed": f"/task?id={failed}"} | {name: f"/{name}" for name in names}


if __name__ == "__main__":
    asyncio.run(take(Path(sys.argv[1])))
