"""``orbiter dashboard``: pages that show the fleet and, where that is allowed, act on it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orbiter.cli.failures import Failure, UsageFailure
from orbiter.cli.options import ReadablePath, fleet_options, namespace, queue_option, run
from orbiter.cli.output import print_line, print_raw
from orbiter.distributed.errors import OrbiterError, how_to_install
from orbiter.distributed.worker.logs import setup_logging

if TYPE_CHECKING:
    from orbiter.dashboard.options import Options

_FILE = ReadablePath(dir_okay=False, path_type=Path)


def _hash_password(ctx: click.Context, _: click.Parameter, user: str | None) -> None:
    """Ask for a password, print the line of the file, and leave."""
    if user is None or ctx.resilient_parsing:
        return
    from orbiter.dashboard.passwords import hash_line  # noqa: PLC0415 - not needed to serve

    password = click.prompt(f"Password of {user}", hide_input=True, confirmation_prompt=True, err=True)
    try:
        print_raw(hash_line(user, password))
    except OrbiterError as error:
        raise UsageFailure(f"Error: {error}") from None
    ctx.exit()


@click.command("dashboard")
@fleet_options
@queue_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8420, show_default=True, help="Port; 0 for a free one.")
@click.option("--allow-actions", is_flag=True, help="Let people cancel, retry, drain and the like, not only look.")
@click.option("--password-file", type=_FILE, help="File of users and hashes of their passwords; see --hash-password.")
@click.option("--proxy-header", metavar="NAME", default="", help="Header in which a proxy names the user.")
@click.option(
    "--proxy-from",
    "proxies",
    metavar="ADDRESS",
    multiple=True,
    help="Address or network of a proxy whose --proxy-header counts. Repeatable.",
)
@click.option(
    "--allow-host",
    "hosts",
    metavar="NAME",
    multiple=True,
    help="Host name that browsers may use for the dashboard, beside its address. Repeatable.",
)
@click.option("--tls-certificate", "certificate", type=_FILE, help="File with the dashboard's TLS certificate, PEM.")
@click.option("--tls-key", "key", type=_FILE, help="File with the key of --tls-certificate, PEM.")
@click.option(
    "--hash-password",
    metavar="USER",
    is_eager=True,
    expose_value=False,
    callback=_hash_password,
    help="Ask for a password, print its line for --password-file, and leave.",
)
def dashboard(redis_url: str, proxies: tuple[str, ...], **options: Any) -> None:
    """Serve pages that show the fleet: workers, queue, tasks, errors, alerts.

    They are for this machine only and for reading, unless options say otherwise. Ends with Ctrl+C.
    """
    try:
        from orbiter.dashboard.options import Options, network_of  # noqa: PLC0415 - an extra brings what it needs
        from orbiter.dashboard.server import serving  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("orbiter"):
            raise
        raise Failure(f"Error: the dashboard needs its libraries: {how_to_install('dashboard')}") from None
    try:
        networks = tuple(network_of(text) for text in proxies)
    except ValueError as error:
        raise click.BadParameter(f"{error}; write 10.0.0.5 or 10.0.0.0/24", param_hint="'--proxy-from'") from None
    found = Options(redis_url, namespace=namespace(), proxies=networks, **options)
    try:
        found.check()
    except OrbiterError as error:
        raise UsageFailure(f"Error: {error}") from None
    setup_logging("human", "warning")
    run(redis_url, _serve(found))


async def _serve(options: Options) -> None:
    from orbiter.dashboard.server import serving  # noqa: PLC0415

    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with serving(options) as (address, running):
        print_line(f"Dashboard at {address}{'' if options.allow_actions else ' (for reading; --allow-actions to act)'}")
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait({stopped, running}, return_when=asyncio.FIRST_COMPLETED)
        with contextlib.suppress(asyncio.CancelledError):
            stopped.cancel()
            await stopped
