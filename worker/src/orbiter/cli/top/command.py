"""``orbiter top``: the command, and what it needs before the screen can be drawn."""

from __future__ import annotations

import asyncio
import contextlib
import math
import select
import signal
import sys
from typing import TYPE_CHECKING

import click

from orbiter.cli.failures import Failure, UsageFailure
from orbiter.cli.options import fleet_options, open_client, queue_option, run
from orbiter.distributed.errors import MissingExtraError, how_to_install

if TYPE_CHECKING:
    from orbiter.cli.top.app import Top

# Seconds between two looks at whether the terminal is still there.
_HERE_EVERY = 1.0
_NO_TERMINAL = (
    "Error: orbiter top draws on a terminal, and here is none. For other programs there are "
    "'orbiter worker list --json', 'orbiter queue info --json' and 'orbiter task list --json'."
)


def _finite(ctx: click.Context, param: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number of seconds", ctx, param)
    return value


@click.command("top")
@fleet_options
@queue_option
@click.option(
    "--every",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    callback=_finite,
    help="Seconds between two updates of the screen.",
)
def top(redis_url: str, queue: str, every: float) -> None:
    """Watch the fleet, the queue and its tasks in this terminal; drain, cancel and the like by keys.

    Each key asks before anything is done. Ends with q.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageFailure(_NO_TERMINAL)
    code = run(redis_url, _show(redis_url, queue, every))
    if code:
        raise Failure("Error: the screen ended by an error of its own, which stands above.")


def screen() -> type[Top]:
    """Return the class of the screen.

    Raises:
        MissingExtraError: The library that draws it is not installed.
    """
    try:
        from orbiter.cli.top.app import Top  # noqa: PLC0415 - an extra brings what it needs
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("orbiter"):
            raise
        raise MissingExtraError(f"orbiter top needs the library textual: {how_to_install('top')}") from None
    return Top


async def _show(redis_url: str, queue: str, every: float) -> int:
    """Show the screen until a person or a signal ends it; return 0, or another number where it broke."""
    drawn = screen()
    async with open_client(redis_url, queue) as client:
        app, loop = drawn(client, every=every), asyncio.get_running_loop()
        # The terminal is left as it was found. Not so on SIGHUP, which ends this at once: then there is none any more,
        # and Textual would wait for ever for what it has to write there.
        loop.add_signal_handler(signal.SIGTERM, app.exit)
        watching = asyncio.create_task(_end_with_terminal())
        try:
            await app.run_async()
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        return app.return_code or 0


async def _end_with_terminal() -> None:
    """End this process once its terminal is gone, as SIGHUP does.

    That signal does not come where whoever started this ignores it, or where the terminal is not that of its session:
    Textual would then read what is not there, again and again.
    """
    terminal = select.poll()
    # A hang-up is told whatever else is asked for.
    terminal.register(sys.stdin.fileno(), 0)
    while not terminal.poll(0):  # noqa: ASYNC110 - a loop watches no file for hang-ups alone
        await asyncio.sleep(_HERE_EVERY)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.raise_signal(signal.SIGHUP)
