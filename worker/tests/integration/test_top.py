"""`orbiter top` shows a real fleet, follows it through a restart of Redis, and does nothing before it has asked."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.asyncio import Redis
from textual.pilot import Pilot
from textual.widgets import Static

from orbiter.cli.top.app import Pane, Top
from orbiter.cli.top.dialogs import Confirm
from orbiter.cli.top.looks import MOST_TASKS
from orbiter.distributed import Client, TaskStatus
from orbiter.distributed.client.overview import Overview
from tests.fleet import Fleet, working
from tests.integration.test_listings import calls, many
from tests.rights import RULES
from tests.servers import plain_server
from tests.support import (
    WORKER_DIRECTORY,
    command_line,
    environment,
    is_alive,
    orbiter,
    slowness,
    wait_until,
    worker_process,
)


class Screen:
    """The screen of a test."""

    def __init__(self, app: Top, pilot: Pilot[Any]) -> None:
        self.app = app
        self.pilot = pilot

    def said(self, where: str) -> str:
        return str(self.app.screen_stack[0].query_one(f"#{where}", Static).content)

    def pane(self, name: str) -> Pane[Any]:
        return self.app.screen_stack[0].query_one(f"#{name}", Pane)

    def rows(self, name: str) -> list[list[str]]:
        pane = self.pane(name)
        return [[cell.plain for cell in pane.get_row_at(at)] for at in range(len(pane.ids))]

    async def press(self, *names: str) -> None:
        await self.pilot.press(*names)

    async def asks(self, key: str, name: str) -> None:
        """Press a key, and see that what it is about is asked for by its name."""
        await self.press(key)
        dialog = self.app.screen
        assert isinstance(dialog, Confirm)
        assert name in dialog.question


@asynccontextmanager
async def top(redis_url: str, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Screen]:
    """Run the screen without a terminal; give it once it has looked."""
    async with Client(redis_url, retries=1) as client:
        app = Top(client, every=0.3)
        async with app.run_test(size=size) as pilot:
            screen = Screen(app, pilot)
            await wait_until(lambda: "waiting" in screen.said("queue"))
            yield screen


@pytest.mark.parametrize("size", [(80, 24), (160, 50)], ids=str)
async def test_it_shows_workers_the_queue_and_tasks(fleet: Fleet, redis_url: str, size: tuple[int, int]) -> None:
    waiting = await fleet.submit("echo", "one two three", not_before=4e9)
    async with working(fleet, max_retries=0, worker_id="w-1"):
        failed = (await fleet.ends(await fleet.submit("fail"))).task_id
        async with top(redis_url, size) as screen:
            assert screen.pane("fleet").ids == ["w-1"]
            assert screen.pane("tasks").ids == [failed, waiting]
            assert "running" in screen.rows("fleet")[0]
            ended, delayed = screen.rows("tasks")
            assert "failed" in ended
            assert "RuntimeError" in ended
            assert "one two three" in delayed
            assert "delayed 1  dead 1" in screen.said("queue")
            assert "workers 1" in screen.said("queue")
            later = await fleet.submit("echo", not_before=4e9)
            await wait_until(lambda: later in screen.pane("tasks").ids)
            width = sum(
                column.get_render_width(screen.pane("tasks")) for column in screen.pane("tasks").columns.values()
            )
            assert 60 < width <= size[0]


async def test_a_key_does_nothing_until_it_is_confirmed(fleet: Fleet, redis_url: str) -> None:
    waiting = await fleet.submit("echo", not_before=4e9)
    async with top(redis_url) as screen:
        await screen.asks("c", waiting)
        await screen.press("enter", "n")
        task = await fleet.store.get_status(waiting)
        assert task is not None
        assert task.status is TaskStatus.PENDING
        await screen.asks("c", waiting)
        await screen.press("y")
        assert (await fleet.ends(waiting)).status is TaskStatus.CANCELLED
        await wait_until(lambda: "1 asked to end" in screen.said("said"))
    async with Client(redis_url) as client:
        (action,) = await Overview(client).actions()
        assert (action.what, action.target) == ("cancel", waiting)


async def test_a_failed_task_runs_again_and_the_row_stays_chosen(fleet: Fleet, redis_url: str) -> None:
    async with working(fleet, max_retries=0), top(redis_url) as screen:
        failed = (await fleet.ends(await fleet.submit("fail"))).task_id
        await wait_until(lambda: screen.pane("tasks").chosen == failed)
        newer = await fleet.submit("echo", not_before=4e9)
        await wait_until(lambda: screen.pane("tasks").ids == [newer, failed])
        await screen.asks("t", failed)
        await screen.press("y")

        async def again() -> bool:
            task = await fleet.store.get_status(failed)
            return task is not None and task.attempt > 1

        await wait_until(again)


async def test_workers_are_steered(fleet: Fleet, redis_url: str) -> None:
    async with working(fleet, worker_id="w-1") as worker, top(redis_url) as screen:
        for key, state in (("u", "quiet"), ("r", "running")):
            await screen.asks(key, "w-1")
            await screen.press("y")
            await wait_until(lambda wanted=state: worker.state == wanted)
            await wait_until(lambda wanted=state: wanted in screen.rows("fleet")[0])
        await screen.asks("d", "w-1")
        await screen.press("y")
        await wait_until(lambda: screen.pane("fleet").ids == [])
        await screen.press("d")
        assert not isinstance(screen.app.screen, Confirm)


async def test_tasks_are_filtered_by_status(fleet: Fleet, redis_url: str) -> None:
    waiting, gone = [await fleet.submit("echo", not_before=4e9) for number in range(2)]
    await fleet.broker.cancel(gone)
    async with top(redis_url) as screen:
        assert set(screen.pane("tasks").ids) == {waiting, gone}
        await screen.press("f", *["down"] * (1 + list(TaskStatus).index(TaskStatus.CANCELLED)), "enter")
        await wait_until(lambda: screen.pane("tasks").ids == [gone])
        await screen.press("f", "home", "enter")
        await wait_until(lambda: set(screen.pane("tasks").ids) == {waiting, gone})


async def test_it_goes_on_through_a_restart_of_redis(tmp_path: Path) -> None:
    with plain_server(tmp_path) as server:
        async with top(f"redis://127.0.0.1:{server.port}/0") as screen:
            server.kill()
            await wait_until(lambda: "asking again" in screen.said("said"))
            assert str(server.port) in screen.said("said")
            server.start()
            await wait_until(lambda: "answers again" in screen.said("said"))
            await screen.press("f")
            assert screen.app.is_running


async def test_what_clients_wrote_is_inert(fleet: Fleet, redis_url: str, redis_client: Redis) -> None:
    evil = "[bold red]x[/] [@click=app.quit]y[/] \x1b[31m\u202e\n"
    await fleet.submit("echo", evil, task_id=f"id{evil}", not_before=4e9)
    await redis_client.hset("orbiter:workers:w1", mapping={"hostname": evil, "version": evil, "state": evil})
    await redis_client.zadd("orbiter:fleet", {"w1": 4e12})
    async with top(redis_url, (160, 50)) as screen:
        cells = [cell for name in ("fleet", "tasks") for row in screen.rows(name) for cell in row]
        assert all(cell.isprintable() for cell in cells)
        assert any("[@click=app.quit]y[/] \\x1b[31m\\u202e" in cell for cell in cells)
        assert any(cell.startswith("[bold red]") for row in screen.rows("fleet") for cell in row)
        await screen.asks("c", "[bold red]x[/]")
        await screen.press("n")


async def test_a_look_reads_one_page_of_tasks(redis_url: str, redis_client: Redis) -> None:
    await many(redis_client, 5_000)
    async with top(redis_url) as screen:
        assert len(screen.pane("tasks").ids) == MOST_TASKS
        screen.app._every = 1000
        # The look that is under way ends, and one more is asked for.
        await screen.pilot.pause(0.3)
        read = ("hmget", "hgetall", "zrange", "xrange", "hget")
        before, scans = await calls(redis_client, *read), await calls(redis_client, "scan", "keys")
        seen = screen.app._look
        screen.app._again.set()
        await wait_until(lambda: screen.app._look is not seen)
        assert 0 < await calls(redis_client, *read) - before < 3 * MOST_TASKS + 100
        assert await calls(redis_client, "scan", "keys") == scans


async def test_it_needs_no_more_than_the_rights_of_the_dashboard(tmp_path: Path) -> None:
    # What is refused to one of the role's users fails the server's end.
    with plain_server(tmp_path, *RULES) as server:
        async with top(f"redis://dashboard:DASHBOARD-PASSWORD@127.0.0.1:{server.port}/0") as screen:
            assert screen.app._failed == ""


def test_without_a_terminal_it_says_what_else_there_is(redis_url: str) -> None:
    done = orbiter("top", "--redis-url", redis_url)
    assert done.returncode == 2
    assert "orbiter worker list --json" in done.stderr
    assert done.stdout == ""


@contextmanager
def terminal(command: list[str], folder: Path, width: int, height: int, **env: str) -> Iterator[Any]:
    """Run a command in tmux; give what calls tmux."""
    program = shutil.which("tmux")
    if program is None:
        pytest.skip("tmux is not installed: tools/prereqs.sh tmux")
    socket = folder / "tmux"

    def tmux(*arguments: str) -> str:
        done = subprocess.run(
            [program, "-S", str(socket), "-f", "/dev/null", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=WORKER_DIRECTORY,
            env=environment(**{"LC_ALL": "C.UTF-8", "TERM": "xterm-256color"} | env),
        )
        return done.stdout

    tmux(
        "new-session",
        "-d",
        "-s",
        "t",
        "-x",
        str(width),
        "-y",
        str(height),
        f"{shlex.join(command)}; echo ended $?; cat",
    )
    try:
        yield tmux
    finally:
        tmux("kill-server")


@pytest.mark.parametrize("size", [(80, 24), (160, 50)], ids=str)
async def test_it_is_driven_in_a_real_terminal(
    fleet: Fleet, redis_url: str, tmp_path: Path, size: tuple[int, int]
) -> None:
    command = [sys.executable, "-m", "orbiter.cli", "top", "--redis-url", redis_url, "--every", "0.2"]
    with (
        worker_process(redis_url, "w-1", tmp_path / "log"),
        terminal(command, tmp_path, *size, NO_COLOR="1") as tmux,
    ):
        running = await fleet.submit("hold", "until told", metadata={"until": str(tmp_path / "never")})

        async def shows(*texts: str) -> bool:
            return all(text in shown for text in texts) if (shown := tmux("capture-pane", "-p", "-t", "t")) else False

        # A wider screen has columns for which there is no place on a narrow one.
        wide = ["Problem"] if size[0] == 160 else []
        await wait_until(lambda: shows("w-1", "hold", "until told", "1/", "Cancel", "Quit", *wide))
        screen = tmux("capture-pane", "-p", "-t", "t")
        assert len(screen.splitlines()) == size[1]
        assert wide or "Problem" not in screen
        tmux("send-keys", "-t", "t", "c")
        await wait_until(lambda: shows(running, "y yes"))
        tmux("send-keys", "-t", "t", "y")
        assert (await fleet.ends(running)).status is TaskStatus.CANCELLED
        await wait_until(lambda: shows("cancelled"))
        tmux("send-keys", "-t", "t", "q")
        await wait_until(lambda: shows("ended 0"))


@pytest.mark.parametrize("started", ["exec", "trap '' HUP; exec"], ids=["as by a shell", "SIGHUP ignored"])
async def test_it_ends_when_its_terminal_goes_away(redis_url: str, tmp_path: Path, started: str) -> None:
    top_line = shlex.join([sys.executable, "-m", "orbiter.cli", "top", "--redis-url", redis_url])
    with terminal(["sh", "-c", f"{started} {top_line}"], tmp_path, 80, 24) as tmux:
        await wait_until(lambda: "waiting 0" in tmux("capture-pane", "-p", "-t", "t"))
        shell = psutil.Process(int(tmux("display-message", "-p", "-t", "t", "#{pane_pid}")))
        (process,) = [one for one in shell.children(recursive=True) if "top" in command_line(one)]
    # The server of the terminal has ended, as a connection by SSH does.
    try:
        await wait_until(lambda: not is_alive(process), 10 * slowness())
    finally:
        if is_alive(process):
            process.kill()
