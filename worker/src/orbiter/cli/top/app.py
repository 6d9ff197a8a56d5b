"""Top: the screen. It looks again and again, draws what has changed, and asks before it does anything."""

from __future__ import annotations

import asyncio
import getpass
import socket
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import redis
from rich.text import Text
from textual.app import App
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Sparkline, Static

from orbiter.cli.top.dialogs import ChooseStatus, Confirm
from orbiter.cli.top.looks import WITHIN, Look, Looking
from orbiter.cli.top.rows import (
    FLEET,
    PADDING,
    TASKS,
    Column,
    fitted,
    fleet_title,
    layout,
    plain,
    queue_lines,
    tasks_title,
)
from orbiter.distributed.client.operations import Operations
from orbiter.distributed.client.overview import Command, Overview
from orbiter.distributed.connection.redis_url import explain, explain_right, mask
from orbiter.distributed.connection.refusals import lacks_right
from orbiter.distributed.errors import OrbiterError
from orbiter.distributed.models import TaskStatus
from orbiter.distributed.names import InvalidNameError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from textual import events
    from textual.app import ComposeResult

    from orbiter.distributed.client.client import Client
    from orbiter.distributed.client.operations import Done

T = TypeVar("T")

_EFFECTS = {
    Command.DRAIN: "It ends its tasks, takes no more, and leaves.",
    Command.QUIET: "Its tasks go on, it takes no more, and stays.",
    Command.RESUME: "It takes tasks again.",
}
# The scroll bar of a table.
_BAR = 1


class Pane(DataTable[Text], Generic[T]):
    """A table of which a person chooses a row; the row stays chosen while others come and go.

    Args:
        columns: What it shows.
        empty: What it says where there is nothing.
    """

    def __init__(self, columns: Sequence[Column[T]], *, id: str, empty: str) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id, cursor_type="row", cell_padding=PADDING)
        self._offered = columns
        self._empty = empty
        self._shape: list[tuple[Column[T], int]] = []
        self._drawn: list[list[Text]] | None = None
        self.ids: list[str] = []

    @property
    def chosen(self) -> str:
        """The id of the chosen row; nothing where there is none."""
        return self.ids[self.cursor_row] if 0 <= self.cursor_row < len(self.ids) else ""

    def show(self, things: Sequence[T], ids: Sequence[str], look: Look) -> None:
        """Show these, and redraw no more than has changed."""
        shape = layout(self._offered, max(1, self.app.size.width - _BAR))
        if shape != self._shape:
            self._shape, self._drawn = shape, None
            self.clear(columns=True)
            for column, width in shape:
                self.add_column(Text(column.title), width=width)
        rows = [[fitted(column.cell(thing, look), width) for column, width in shape] for thing in things]
        if rows == self._drawn and list(ids) == self.ids:
            return
        chosen, at, top = self.chosen, self.cursor_row, self.scroll_y
        self.clear()
        for row in rows:
            self.add_row(*row)
        if not rows:
            self.add_row(*(Text(self._empty if number == 1 else "") for number in range(len(shape))))
        self.ids, self._drawn = list(ids), rows
        self.move_cursor(row=self.ids.index(chosen) if chosen in self.ids else min(at, max(0, len(rows) - 1)))
        self.scroll_to(y=top, animate=False)


class Top(App[None]):
    """The fleet, the queue and its tasks.

    Args:
        client: The client that asks; of the queue that is shown.
        every: Seconds between two looks.
    """

    TITLE = "orbiter top"
    ENABLE_COMMAND_PALETTE = False
    VERTICAL_BREAKPOINTS = [(0, "-low"), (36, "-high")]  # noqa: RUF012 - declared by App
    CSS = """
    #head, #queue { padding: 0 1; }
    #head { height: 1; text-style: bold; }
    #queue { height: auto; }
    #counts { height: 2; margin: 0 1; }
    .-low #counts { display: none; }
    .title { height: 1; padding: 0 1; text-style: bold underline; margin: 0; }
    Pane { height: 1fr; scrollbar-size-vertical: 1; overflow-x: hidden; }
    #fleet { height: 2fr; }
    #tasks { height: 3fr; }
    #said { height: 1; padding: 0 1; text-style: reverse; }
    Confirm, ChooseStatus { align: center middle; }
    Confirm Vertical, ChooseStatus Vertical { width: 64; max-width: 90%; height: auto; border: solid; padding: 0 1; }
    OptionList { height: auto; border: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "steer('drain')", "Drain"),
        Binding("u", "steer('quiet')", "Quiet"),
        Binding("r", "steer('resume')", "Resume"),
        Binding("c", "task('cancel')", "Cancel"),
        Binding("t", "task('retry')", "Retry"),
        Binding("f", "filter", "Filter"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    def __init__(self, client: Client, *, every: float = 1.0) -> None:
        super().__init__()
        self._client = client
        self._every = every
        self._looking = Looking(Overview(client))
        self._operations = Operations(
            client, Overview(client), who=_who(), where=f"orbiter top on {socket.gethostname()}"
        )
        self._look: Look | None = None
        self._again = asyncio.Event()
        self._failed = ""
        self.status: TaskStatus | None = None

    def compose(self) -> ComposeResult:
        """Lay the panes out."""
        yield Static(id="head", markup=False)
        yield Static("asking Redis", id="queue", markup=False)
        yield Sparkline(id="counts")
        yield Static("Fleet", classes="title", id="fleet-title", markup=False)
        yield Pane(FLEET, id="fleet", empty="none: orbiter start worker")
        yield Static("Tasks", classes="title", id="tasks-title", markup=False)
        yield Pane(TASKS, id="tasks", empty="none")
        yield Static(id="said", markup=False)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to look."""
        self._write("head", f"orbiter top  {mask(self._client.redis_url)}  {plain(self._client.queue)}")
        self._write("said", "arrows choose a row, tab the table; every key asks first")
        self.query_one("#tasks", Pane).focus()
        self.run_worker(self._follow(), exclusive=True, group="looks")

    def on_resize(self, _: events.Resize) -> None:
        """Draw what was seen last for the new size."""
        if self._look is not None:
            self.call_after_refresh(self._draw, self._look)

    async def _follow(self) -> None:
        """Look and draw, one after the other, so that a slow Redis is asked less often."""
        while True:
            self._again.clear()
            try:
                self._look = await self._looking.look(self.status)
            except (redis.RedisError, OSError, TimeoutError, InvalidNameError) as error:
                self._failed = f"{self._explained(error)}; asking again"
                self._write("said", self._failed)
            else:
                if self._failed:
                    self._failed = ""
                    self._write("said", "Redis answers again")
                self._draw(self._look)
            try:
                async with asyncio.timeout(self._every):
                    await self._again.wait()
            except TimeoutError:
                continue

    def _draw(self, look: Look) -> None:
        if not self.is_running or not self.query("#fleet"):
            return
        with self.batch_update():
            self._write("queue", "\n".join(filter(None, queue_lines(look))))
            self.query_one("#counts", Sparkline).data = [float(minute.ended) for minute in look.minutes]
            self._write("fleet-title", fleet_title(look))
            self._write("tasks-title", tasks_title(look, self.status or ""))
            self.query_one("#fleet", Pane).show(look.workers, [worker.worker_id for worker in look.workers], look)
            self.query_one("#tasks", Pane).show(look.page.tasks, [task.task_id for task in look.page.tasks], look)

    def _write(self, where: str, text: str) -> None:
        # As Text: a str would be read as markup.
        self.screen_stack[0].query_one(f"#{where}", Static).update(Text(text, no_wrap=True, overflow="ellipsis"))

    def _explained(self, error: Exception) -> str:
        url = self._client.redis_url
        if isinstance(error, redis.ConnectionError):
            return plain(explain(error, url))
        if isinstance(error, TimeoutError | redis.TimeoutError):
            return f"Redis at {mask(url)} did not answer within {WITHIN:g} s"
        if lacks_right(error):
            return plain(explain_right(error, url, "orbiter top"))
        return plain(str(error))

    # -- what keys do ----------------------------------------------------------------------------------------------

    def action_steer(self, name: str) -> None:
        """Ask whether the chosen worker shall drain, be quiet or resume; tell it to."""
        command, worker_id = Command(name), self.query_one("#fleet", Pane).chosen
        if not worker_id:
            self._write("said", f"no worker to {name}")
            return
        question = f"{name.capitalize()} worker {plain(worker_id)}?"
        self._ask(question, _EFFECTS[command], lambda: self._operations.steer(worker_id, command))

    def action_task(self, name: str) -> None:
        """Ask whether the chosen task shall be cancelled or run again; see to it."""
        task_id = self.query_one("#tasks", Pane).chosen
        if not task_id:
            self._write("said", f"no task to {name}")
        elif name == "cancel":
            effect = "It ends as cancelled; where it runs, its worker is asked to stop it."
            self._ask(f"Cancel task {plain(task_id)}?", effect, lambda: self._operations.cancel([task_id]))
        else:
            effect = "It runs again, with all its retries before it."
            self._ask(f"Retry task {plain(task_id)}?", effect, lambda: self._operations.retry([task_id]))

    def action_filter(self) -> None:
        """Ask by which status tasks are shown."""

        def choose(name: str | None) -> None:
            self.status = TaskStatus(name) if name else None
            self._again.set()

        self.push_screen(ChooseStatus(self.status or ""), choose)

    def _ask(self, question: str, effect: str, act: Callable[[], Awaitable[Done]]) -> None:
        def answer(yes: bool | None) -> None:
            if yes:
                self.run_worker(self._act(act), group="acts")
            else:
                self._write("said", "nothing was done")

        self.push_screen(Confirm(question, effect), answer)

    async def _act(self, act: Callable[[], Awaitable[Done]]) -> None:
        try:
            async with asyncio.timeout(WITHIN):
                done = await act()
        except (redis.RedisError, OSError, TimeoutError, OrbiterError, InvalidNameError) as error:
            self._write("said", f"not done: {self._explained(error)}")
        else:
            self._write("said", plain(done.message))
        self._again.set()


def _who() -> str:
    """Return who sits at the terminal, for the audit stream."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
