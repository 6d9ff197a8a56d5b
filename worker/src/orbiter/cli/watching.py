"""``--watch``: the same look again and again, redrawn on a terminal, one below the other elsewhere."""

from __future__ import annotations

import asyncio
import math
import re
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import click

from orbiter.cli.options import open_redis, run
from orbiter.cli.output import print_line
from orbiter.cli.render import console, format_time, print_json, print_view

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from redis.asyncio import Redis
    from rich.table import Table
    from rich.text import Text

T = TypeVar("T")
Command = TypeVar("Command", bound="Callable[..., Any]")

DEFAULT_SECONDS = 2
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)")


@dataclass(frozen=True)
class View(Generic[T]):
    """Something to look at.

    Attributes:
        look: Asks Redis.
        draw: Returns what a person sees.
        as_json: Returns what a program reads.
        ended: Whether there is no point in looking again.
    """

    look: Callable[[Redis], Awaitable[T]]
    draw: Callable[[T], Table | Text]
    as_json: Callable[[T], Any]
    ended: Callable[[T], bool] = lambda _: False


class Watchable(click.Command):
    """A command whose ``--watch`` may stand alone, also before an argument that is no number."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line."""
        return super().parse_args(ctx, _with_seconds(args))


def _with_seconds(args: list[str]) -> list[str]:
    arguments = list(args)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for at in range(end):
        if arguments[at] == "--watch" and not (at + 1 < end and _NUMBER.fullmatch(arguments[at + 1])):
            arguments[at] = f"--watch={DEFAULT_SECONDS}"
    return arguments


def _finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number of seconds", ctx, param)
    return value


def watch_option(command: Command) -> Command:
    """Add ``--watch [SECONDS]`` to a :class:`Watchable`."""
    option = click.option(
        "--watch",
        type=click.FloatRange(min=0.1),
        metavar="[SECONDS]",
        callback=_finite,
        help=f"Look again every SECONDS ({DEFAULT_SECONDS}) until Ctrl+C; with --json a line each time.",
    )
    return option(command)


def show(redis_url: str, view: View[T], *, watch: float | None, as_json: bool) -> None:
    """Show a view once, or every ``watch`` seconds until it ends or Ctrl+C is pressed."""
    if watch is not None:
        try:
            run(redis_url, _watch(redis_url, view, watch, as_json=as_json))
        except KeyboardInterrupt:
            return
        return
    value = run(redis_url, _look(redis_url, view))
    if as_json:
        print_json(view.as_json(value))
    else:
        print_view(view.draw(value))


async def _look(redis_url: str, view: View[T]) -> T:
    async with open_redis(redis_url) as client:
        return await view.look(client)


async def _watch(redis_url: str, view: View[T], seconds: float, *, as_json: bool) -> None:
    with _paper(as_json=as_json) as paint:
        async with open_redis(redis_url) as client:
            while True:
                value = await view.look(client)
                if as_json:
                    print_json(view.as_json(value), indent=None)
                else:
                    paint(view.draw(value))
                if view.ended(value):
                    return
                await asyncio.sleep(seconds)


@contextmanager
def _paper(*, as_json: bool) -> Iterator[Callable[[Table | Text], None]]:
    if as_json or not sys.stdout.isatty():
        yield _print_below
        return
    from rich.live import Live  # noqa: PLC0415 - only on a terminal

    with Live(console=console(), auto_refresh=False) as live:
        yield lambda view: live.update(view, refresh=True)


def _print_below(view: Table | Text) -> None:
    print_line(f"--- {format_time(time.time())}")
    print_view(view)
