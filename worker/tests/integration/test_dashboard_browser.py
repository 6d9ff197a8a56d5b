"""Debian's Chromium looks at the dashboard of a fleet that works: what it shows, how it follows, who can read it."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, Page, async_playwright, expect

from orbiter.dashboard.passwords import hash_line
from orbiter.distributed import Client
from tests.fleet import Fleet, working
from tests.integration.dashboards import Browser, dashboard
from tests.integration.test_dev import Dev
from tests.support import PATIENCE, free_port, slowness

CHROMIUM = shutil.which("chromium")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
# axe-core 4.14.1 of npm, MPL-2.0: it finds what keeps people from reading a page.
AXE = Path(__file__).parents[1] / "axe" / "axe.min.js"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
PASSWORD = "correct horse"
PAGES = ("fleet", "queue", "tasks", "errors", "dead", "usage", "alerts", "actions")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: tools/prereqs.sh browser")


@asynccontextmanager
async def chromium(directory: Path, address: str, *, tolerant: bool = False, **options: object) -> AsyncIterator[Page]:
    """Give a window of a browser that has seen nothing; whatever goes wrong in it fails the test.

    Args:
        directory: The browser's own.
        address: The dashboard's.
        tolerant: Whether it may miss the dashboard for a while, or be told that it asks for what is not there.
        options: The window's.
    """
    async with async_playwright() as playwright:
        context: BrowserContext = await playwright.chromium.launch_persistent_context(
            str(directory), executable_path=CHROMIUM, headless=True, args=list(FLAGS), base_url=address, **options
        )
        context.set_default_timeout(PATIENCE * 1000)
        expect.set_options(timeout=PATIENCE * 1000)
        page, wrong = context.pages[0], []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: None if request.url.startswith(address) else wrong.append(request.url))
        try:
            yield page
        finally:
            await context.close()
        assert [text for text in wrong if not (tolerant and re.search("ERR_|status of 40[034]", text))] == []


@asynccontextmanager
async def shown(fleet: Fleet) -> AsyncIterator[tuple[Browser, list[str]]]:
    """Serve a dashboard of a fleet with a worker; give ids of a task that has completed, one that failed, and one that
    waits."""
    async with working(fleet, max_retries=0, worker_id="w1"), dashboard(fleet.url, allow_actions=True) as browser:
        ids = [(await fleet.ends(await fleet.submit(name, "some words"))).task_id for name in ("say", "fail")]
        yield browser, [*ids, await fleet.submit("echo", not_before=4e9)]


async def findings(page: Page) -> list[str]:
    """Return what is serious of what axe finds."""
    # As a file of another context than the page's: its policy allows no script but its own.
    found = await page.evaluate(AXE.read_text() + "; axe.run()")
    return [
        f"{page.url}: {rule['id']}: {node['html'][:120]}"
        for rule in found["violations"]
        if rule["impact"] in {"serious", "critical"}
        for node in rule["nodes"]
    ]


def test_axe_is_what_its_package_has() -> None:
    assert hashlib.sha256(AXE.read_bytes()).hexdigest() == AXE_SHA256


@pytest.mark.parametrize("width", [1280, 390])
async def test_everybody_can_read_every_page(fleet: Fleet, tmp_path: Path, width: int) -> None:
    size = {"width": width, "height": 844}
    async with shown(fleet) as (browser, ids), chromium(tmp_path, browser.address, viewport=size) as page:
        paths = [*PAGES, *(f"task?id={task_id}" for task_id in ids), "confirm?what=drain&id=w1", "tasks?agent=nobody"]
        paths.append(f"again?id={ids[1]}")
        found = []
        for path in paths:
            await page.goto(f"/{path}")
            found += await in_both_colours(page)
            wide = await page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, f"{path} is {wide} pixels wider than its window"
            if path in PAGES:
                await expect(page.locator("nav a[aria-current=page]").first).to_be_in_viewport(ratio=1)
        assert found == []


async def test_everybody_can_read_the_way_in_and_what_went_wrong(fleet: Fleet, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(hash_line("anna", PASSWORD))
    users.chmod(0o640)
    async with (
        dashboard(fleet.url, password_file=users) as browser,
        chromium(tmp_path / "profile", browser.address, tolerant=True) as page,
    ):
        await page.goto("/tasks")
        await page.get_by_label("Name").fill("anna")
        await page.get_by_label("Password").fill("another one")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("wrong")
        found = await in_both_colours(page)
        await page.get_by_label("Name").fill("anna")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Fleet")
        found += await in_both_colours(page)
        for path, said in (("/task?id=nobody", "Not found"), ("/tasks?status=nope", "cannot be asked")):
            await page.goto(path)
            await expect(page.get_by_role("heading", level=1)).to_contain_text(said)
            found += await in_both_colours(page)
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_label("Password")).to_be_visible()
    assert found == []


async def in_both_colours(page: Page) -> list[str]:
    """Return what axe finds of a page in light and in dark."""
    found = []
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        found += await findings(page)
    return found


async def test_two_windows_follow_what_happens(fleet: Fleet, tmp_path: Path) -> None:
    async with shown(fleet) as (browser, _), chromium(tmp_path, browser.address) as page:
        other = await page.context.new_page()
        for window in (page, other):
            await window.goto("/tasks")
            await expect(window.locator("#live-state")).to_have_text("Live")
        task_id = await fleet.submit("echo")
        for window in (page, other):
            await window.bring_to_front()
            await expect(window.locator(f'a[href="/task?id={task_id}"]')).to_be_visible(timeout=PATIENCE * 1000)


async def test_a_page_goes_on_after_a_restart_of_the_dashboard(fleet: Fleet, tmp_path: Path) -> None:
    port = free_port()
    async with AsyncExitStack() as stack:
        async with dashboard(fleet.url, port=port) as browser:
            page = await stack.enter_async_context(chromium(tmp_path, browser.address, tolerant=True))
            await page.goto("/tasks")
            await expect(page.locator("#live-state")).to_have_text("Live")
        await expect(page.locator("#live-state")).to_have_text("Reconnecting")
        task_id = await fleet.submit("echo")
        async with dashboard(fleet.url, port=port):
            await expect(page.locator(f'a[href="/task?id={task_id}"]')).to_be_visible()
            await expect(page.locator("#live-state")).to_have_text("Live")


async def test_text_is_seen_as_it_comes(fleet: Fleet, tmp_path: Path) -> None:
    async with shown(fleet) as (browser, _), chromium(tmp_path / "profile", browser.address) as page:
        task_id = await fleet.submit("talk", metadata={"until": str(tmp_path / "go")})
        await fleet.runs(task_id)
        await page.goto(f"/task?id={task_id}")
        await expect(page.locator("#answer")).to_have_text("before ")
        (tmp_path / "go").touch()
        await expect(page.locator("#answer")).to_have_text("before after")
        await expect(page.locator("#live .state").first).to_have_text("completed")
        await expect(page.locator("#events")).to_contain_text("completed")


TALK = """
import asyncio
from pathlib import Path

async def talk(context):
    yield "before "
    while not Path(context.metadata["until"]).exists():
        await asyncio.sleep(0.02)
    yield "after"
"""


async def test_orbiter_dev_shows_the_text_of_a_task_as_it_comes(tmp_path: Path) -> None:
    (tmp_path / "loud").mkdir()
    (tmp_path / "loud/__init__.py").touch()
    (tmp_path / "loud/jobs.py").write_text(TALK)
    dev = Dev(tmp_path, tmp_path / "dev.log", "--app", "loud")
    try:
        await dev.ready()
        (address,) = re.findall(r"http://127.0.0.1:[0-9]+", dev.log.splitlines()[0])
        agent = {"runtime": "callable", "target": "loud.jobs:talk", "name": "talk"}
        async with Client(dev.url) as client, chromium(tmp_path / "profile", address) as page:
            await page.goto("/tasks")
            task = await client.submit(agent, "Talk", metadata={"until": str(tmp_path / "go")})
            await page.locator(f'a[href="/task?id={task.task_id}"]').click()
            await expect(page.locator("#answer")).to_have_text("before ")
            (tmp_path / "go").touch()
            await expect(page.locator("#answer")).to_have_text("before after")
            await expect(page.locator("#live .state").first).to_have_text("completed")
    finally:
        dev.end()


@pytest.mark.alone
async def test_what_happens_is_seen_within_a_second_under_load(fleet: Fleet, tmp_path: Path) -> None:
    async def load() -> None:
        while True:
            await fleet.submit("echo")
            await asyncio.sleep(0.05)

    async with shown(fleet) as (browser, _), chromium(tmp_path, browser.address) as page:
        loading, took = asyncio.create_task(load()), []
        await page.goto("/tasks")
        await expect(page.locator("#live-state")).to_have_text("Live")
        for number in range(10):
            # At another moment of the page's second each time.
            await asyncio.sleep(number / 10)
            began = time.monotonic()
            task_id = await fleet.submit("echo", not_before=4e9)
            # Looked for in each frame: wait_for_selector looks after 0.3, 0.8 and 1.3 s.
            await page.wait_for_function("it => document.querySelector(it)", arg=f'a[href="/task?id={task_id}"]')
            took.append(time.monotonic() - began)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
    assert max(took) <= slowness(), took


async def test_times_are_those_of_the_viewer_and_exact_where_one_points(fleet: Fleet, tmp_path: Path) -> None:
    async with shown(fleet) as (browser, _), chromium(tmp_path, browser.address, timezone_id="Asia/Kolkata") as page:
        await page.goto("/tasks")
        submitted = page.locator("time").first
        await expect(submitted).to_have_text(re.compile(r"now|\d+ s ago"))
        # Half an hour off every zone of whole hours.
        there = datetime.fromisoformat(str(await submitted.get_attribute("datetime"))) + timedelta(hours=5.5)
        await expect(submitted).to_have_attribute("title", re.compile(f"{there:%-I:%M:%S}.*5:30"))
        await page.goto("/queue")
        await expect(page.locator(".card time")).to_have_text(re.compile(r"in \d+ d"))


async def test_a_task_is_cancelled_by_the_keyboard(fleet: Fleet, tmp_path: Path) -> None:
    async with shown(fleet) as (browser, ids), chromium(tmp_path, browser.address) as page:
        await page.goto(f"/task?id={ids[2]}")
        await page.get_by_role("link", name="Cancel").focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Cancel task?")
        await page.get_by_role("button", name="Cancel").focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_contain_text("1 asked to end")
        assert (await fleet.ends(ids[2])).status == "cancelled"


async def test_all_that_is_filtered_is_retried_and_then_cancelled(fleet: Fleet, tmp_path: Path) -> None:
    async with working(fleet, max_retries=0):
        failed = [(await fleet.ends(await fleet.submit("fail"))).task_id for _ in range(3)]
        other = (await fleet.ends(await fleet.submit("echo"))).task_id
    waiting = await fleet.submit("echo")
    async with dashboard(fleet.url, allow_actions=True) as browser, chromium(tmp_path, browser.address) as page:
        for status, verb, said, becomes in (
            ("failed", "Retry", "3 will run again", "pending"),
            ("pending", "Cancel", "3 asked to end", "cancelled"),
        ):
            await page.goto("/tasks")
            await page.get_by_label("Status").select_option(status)
            await page.get_by_label("Agent").fill("fail")
            await page.get_by_role("button", name="Filter").click()
            await page.get_by_role("link", name=f"{verb} these…").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text(f"{verb} 3 tasks?")
            assert sorted(await page.locator(".ids li").all_inner_texts()) == sorted(failed)
            await page.get_by_role("button", name=f"{verb} 3").click()
            await expect(page.get_by_role("status")).to_contain_text(said)
            found = await fleet.store.get_many([*failed, other, waiting])
            assert [task and task.status for task in found] == [becomes] * 3 + ["completed", "pending"]


async def test_a_worker_is_steered_in_one_window_and_another_one_shows_it(fleet: Fleet, tmp_path: Path) -> None:
    async with shown(fleet) as (browser, _), chromium(tmp_path, browser.address) as page:
        other = await page.context.new_page()
        await other.goto("/fleet")
        for verb, word in (("Quiet", "quiet"), ("Resume", "running"), ("Drain", "")):
            await page.bring_to_front()
            await page.goto("/fleet")
            await page.get_by_role("link", name=f"{verb} w1").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text(f"{verb} worker?")
            await page.get_by_role("button", name=f"{verb} 1").click()
            await expect(page.get_by_role("status")).to_be_visible()
            await other.bring_to_front()
            row = other.locator("tr", has=other.locator(".id", has_text="w1"))
            # Who has left in order is listed no more.
            await expect(row.locator(".state")).to_have_text([word] if word else [])


async def test_a_task_is_submitted_again_with_changes(fleet: Fleet, tmp_path: Path) -> None:
    async with shown(fleet) as (browser, ids), chromium(tmp_path, browser.address, tolerant=True) as page:
        await page.goto(f"/task?id={ids[1]}")
        await page.get_by_role("link", name="Submit again with changes").click()
        agent, text = page.get_by_label("Agent", exact=True), page.get_by_label("Input", exact=True)
        await agent.fill((await agent.input_value()).replace("jobs:fail", "jobs:say"))
        await text.fill("first line\nsecond line")
        await page.get_by_label("Metadata").fill("{")
        await page.get_by_role("button", name="Submit").click()
        await expect(page.get_by_role("alert")).to_contain_text("metadata: not JSON")
        await expect(page.get_by_label("Metadata")).to_be_focused()
        assert await findings(page) == []
        assert await text.input_value() == "first line\nsecond line"
        await page.get_by_label("Metadata").fill("")
        new = await page.get_by_label("Task id").input_value()
        await page.get_by_role("button", name="Submit").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text(new)
        await expect(page.get_by_role("status")).to_contain_text(f"Task {new} is on queue")
        await expect(page.locator("#answer")).to_have_text("first line second line ")
        assert (await fleet.ends(new)).status == "completed"


async def test_pages_can_be_read_without_scripts(fleet: Fleet, tmp_path: Path) -> None:
    async with (
        shown(fleet) as (browser, ids),
        chromium(tmp_path, browser.address, java_script_enabled=False) as page,
    ):
        await page.goto("/tasks")
        await page.get_by_label("Agent").fill("fail")
        await page.get_by_role("button", name="Filter").click()
        await page.locator(f'a[href="/task?id={ids[1]}"]').click()
        await expect(page.locator("main")).to_contain_text("failed")
