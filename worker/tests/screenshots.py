"""Takes the pages' pictures: the dashboard under load, a listing. Usage: python -m tests.screenshots FOLDER."""

from __future__ import annotations

import asyncio
import io
import math
import random
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from playwright.async_api import Page, expect
from rich.console import Console

from orbiter.cli.listing import Choice
from orbiter.cli.worker import workers_view
from orbiter.distributed import Client, get_worker_fleet_status
from orbiter.distributed.broker.rates import WAIT_BOUNDS
from orbiter.distributed.broker.records import Command
from orbiter.distributed.client.operations import Operations
from orbiter.distributed.client.overview import Overview
from orbiter.distributed.connection.connected import redis_time
from orbiter.distributed.limits import MINUTES
from tests import keys
from tests.integration.dashboards import dashboard
from tests.integration.test_dashboard_browser import chromium
from tests.servers import plain_server
from tests.support import wait_until, worker_process

AGENTS = {"support": "answer", "triage": "classify", "billing": "invoice", "archive": "gone"}
WORKERS = ("shop01-1", "shop01-2", "shop02-1", "shop02-2", "shop03-1", "shop03-2")
QUIET, DEAD = "shop02-2", "shop03-2"
LIGHT_ONLY = {"failed", "alerts"}
# A window is as high as its page, between these.
LOOKS = {"light": (1280, 480, 1300), "dark": (1280, 480, 1300), "phone": (390, 844, 844)}
# All workers are on one host: their names say which one they would be on.
HOSTS = "import os, socket\nsocket.gethostname = lambda: os.environ['SHOP_HOST']\n"


def agent(name: str) -> dict[str, str]:
    target = f"tests.integration.shop_jobs:{AGENTS[name]}"
    return {"runtime": "callable", "target": target, "name": name}


@asynccontextmanager
async def shop() -> AsyncIterator[tuple[str, Client, str]]:
    """Run a fleet under load; give its Redis, a client, and a task that has failed.

    Of its workers one is quiet and one has died.
    """
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (scratch / "sitecustomize.py").write_text(HOSTS)
        server = stack.enter_context(plain_server(scratch, "appendonly yes"))
        url = f"redis://127.0.0.1:{server.port}/0"
        client = await stack.enter_async_context(Client(url))
        await hour(client)
        options = ("--concurrency", "4", "--max-retries", "1", "--retry-backoff", "8", "--heartbeat-ttl", "10")
        options = (*options, "--allow-import", "tests.integration.shop_jobs")
        processes = {}
        for name in WORKERS:
            env = {"SHOP_HOST": name.partition("-")[0], "PYTHONPATH": str(scratch)}
            log = scratch / f"{name}.log"
            processes[name] = stack.enter_context(worker_process(url, name, log, *options, **env))
        failed = await load(client)
        processes[DEAD].kill()
        overview = Overview(client)
        await Operations(client, overview, who="anna", where="here").steer(QUIET, Command.QUIET)
        keeping = asyncio.create_task(_orders(client, 100_000, every=0.2))
        stack.push_async_callback(_ended_by, keeping)
        await wait_until(lambda: _dead(overview))
        yield url, client, failed


async def hour(client: Client) -> None:
    """Write what workers and playbooks would have written during the hour before."""
    now, ring, redis = await redis_time(client.redis), {}, client.redis
    places = len(WAIT_BOUNDS) + 1
    for minute in range(int(now // 60) - 59, int(now // 60) + 1):
        wave = 0.5 + 0.4 * math.sin(minute / 9) + random.uniform(-0.08, 0.08)
        ended = round(150 * wave)
        late = round(ended * wave / 9)
        waits = [0] * places
        waits[1], waits[2], waits[4], waits[5] = ended - 3 * late, late, late, late
        counts = (minute, round(30 * wave**2), ended + random.randint(-6, 6), ended, round(ended * 0.06), *waits)
        ring[str(minute % MINUTES)] = " ".join(map(str, counts))
    await redis.hset(keys.tagged(client.queue, "minutes"), mapping=ring)
    runs = ((48, "rolling_update", "anna", "0.1.0-5a1d3c52", "ended"), (17, "scale", "jonas", "", "ended"))
    for ago, playbook, user, release, outcome in runs:
        run = {"token": playbook, "user": user, "controller": "deploy01", "playbook": playbook, "release": release}
        for at, said in ((ago * 60, "began"), (ago * 60 - 95, outcome)):
            entry: Any = run | {"outcome": said}
            await redis.xadd("orbiter:deploys", entry, id=f"{int((now - at) * 1000)}-0")


async def load(client: Client) -> str:
    """Submit what a shop does on a busy morning; return a task that has failed."""
    await _orders(client, 60)
    await client.submit_many(agent("support"), ["Remind the customer"] * 3, not_before=timedelta(minutes=20))
    details = {"customer": 4711, "channel": "mail"}
    failed = [await client.submit(agent("archive"), "Archive the mails of May", metadata=details) for _ in range(4)]
    await wait_until(lambda: _ended(client, failed[-1].task_id))
    return failed[-1].task_id


async def talk(client: Client) -> str:
    """Return a task that says something for half a minute."""
    details = {"customer": 4711, "channel": "mail", "pause": 0.6}
    question = "Where is order 1042? It should have been here on Monday."
    task = await client.submit(agent("support"), question, metadata=details)
    await wait_until(lambda: _running(client, task.task_id))
    return task.task_id


async def listing(url: str) -> str:
    """Return what ``orbiter worker list`` prints in a terminal of 100 columns, as SVG."""
    shown = Choice(("id", "status", "tasks", "failed", "concurrency", "heartbeat"))
    terminal = Console(record=True, file=io.StringIO(), width=100, force_terminal=True)
    terminal.print(workers_view(await get_worker_fleet_status(url), shown))
    picture = terminal.export_svg(title="orbiter worker list")
    # Whoever looks at it is told to nobody: the font is the system's.
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


async def take(folder: Path) -> None:
    """Take pictures of the pages of such a fleet in each size and colour."""
    folder.mkdir(parents=True, exist_ok=True)
    async with shop() as (url, client, failed), dashboard(url, allow_actions=True) as browser:
        (folder / "worker-list.svg").write_text(await listing(url))
        for look, (width, least, most) in LOOKS.items():
            colours = "dark" if look == "dark" else "light"
            talking = await talk(client)
            size = {"width": width, "height": least}
            with tempfile.TemporaryDirectory() as scratch:
                async with chromium(Path(scratch), browser.address, color_scheme=colours, viewport=size) as page:
                    for name, path in _paths(talking, failed).items():
                        if look == "light" or name not in LIGHT_ONLY:
                            # A page of 50 tasks goes on below its window.
                            highest = 844 if name == "tasks" else most
                            file = folder / f"{name}-{look}.png"
                            await _picture(page, path, file, (width, least, highest))


async def _picture(page: Page, path: str, file: Path, size: tuple[int, int, int]) -> None:
    width, least, most = size
    await page.set_viewport_size({"width": width, "height": least})
    await page.goto(path)
    await page.locator("#live-state").wait_for()
    if file.name.startswith("task-"):
        await expect(page.locator("#answer")).to_have_text(re.compile(".{80}"))
    await page.wait_for_timeout(1200)
    high: int = await page.evaluate("document.documentElement.scrollHeight")
    await page.set_viewport_size({"width": width, "height": min(max(high, least), most)})
    await page.screenshot(path=file)


def _paths(talking: str, failed: str) -> dict[str, str]:
    names = ("fleet", "queue", "tasks", "errors", "usage", "alerts")
    return {"task": f"/task?id={talking}", "failed": f"/task?id={failed}"} | {name: f"/{name}" for name in names}


async def _ended_by(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _orders(client: Client, number: int, *, every: float = 0) -> None:
    for _ in range(number):
        await asyncio.sleep(random.uniform(0, 2 * every))
        name = random.choice(("support", "triage", "billing"))
        order = random.randint(1000, 9999)
        await client.submit(agent(name), f"Where is order {order}?", metadata={"customer": order, "channel": "mail"})


async def _dead(overview: Overview) -> bool:
    # What the quiet one says comes with its next heartbeat.
    states = {worker.worker_id: (worker.alive, worker.state) for worker in await overview.workers()}
    return not states[DEAD][0] and states[QUIET] == (True, "quiet")


async def _ended(client: Client, task_id: str) -> bool:
    task = await client.status(task_id)
    return task is not None and task.status.terminal


async def _running(client: Client, task_id: str) -> bool:
    task = await client.status(task_id)
    return task is not None and task.started_at is not None


if __name__ == "__main__":
    asyncio.run(take(Path(sys.argv[1])))
