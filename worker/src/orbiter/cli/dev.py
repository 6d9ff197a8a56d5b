"""``orbiter dev``: Redis, one worker that reloads, and a log of all tasks, in one terminal and one process tree."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orbiter.cli.failures import Failure
from orbiter.cli.live_log import LiveLog, follow_all_tasks
from orbiter.cli.options import ReadablePath, namespace, namespace_option, queue_option
from orbiter.cli.output import print_line
from orbiter.dev.redis_server import RedisServer, own_redis
from orbiter.dev.reload import Code, find_code, watch_code
from orbiter.dev.worker_process import WorkerProcess
from orbiter.distributed.errors import MissingExtraError, OrbiterError, how_to_install
from orbiter.distributed.names import DEFAULT_NAMESPACE, MODULE, default_queue
from orbiter.distributed.worker.logs import LOG_LEVELS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_SOME_AGENT = '{"name": "helper", "model": "test"}'
_FILES_NAMED = 3


@dataclass(frozen=True)
class _Options:
    """What the command line asks for."""

    apps: tuple[str, ...]
    code: Code
    port: int | None
    data: Path | None
    namespace: str
    queue: str
    concurrency: int
    drain_timeout: float
    log_level: str
    dashboard_port: int

    def worker_options(self) -> list[str]:
        """Return the options of the worker that follow from it."""
        options = ["--queue", self.queue, "--concurrency", str(self.concurrency), "--log-level", self.log_level]
        return [*options, *(word for app in self.apps for word in ("--allow-import", app))]


def _module_of(file: str) -> str:
    """Return the module that a file would be, seen from here; nothing where it can be none."""
    module = ".".join(Path(file.removesuffix(".py")).parts)
    return module if MODULE.fullmatch(module) else ""


def _module_names(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value.endswith(".py") and (module := _module_of(value)):
            raise click.BadParameter(f"{value!r} is a file; leave out the .py: --app {module}", ctx, param)
        if not MODULE.fullmatch(value):
            raise click.BadParameter(f"{value!r} is not a module such as myapp or myapp.tools", ctx, param)
    return values


@click.command("dev")
@click.option(
    "--app",
    "apps",
    metavar="MODULE",
    multiple=True,
    callback=_module_names,
    help="Package with your tools: tasks may import from it, and the worker reloads when it changes. Repeatable.",
)
@click.option(
    "--watch-dir",
    metavar="DIR",
    multiple=True,
    type=ReadablePath(file_okay=False, path_type=Path),
    help="Reload also when a .py file below this directory changes. Repeatable.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port of Redis on 127.0.0.1.  [default: the same each time in a directory, where it is free]",
)
@click.option(
    "--data",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the data of Redis here.  [default: a temporary directory]",
)
@click.option(
    "--dashboard-port", type=click.IntRange(0, 65535), default=0, help="Port of the dashboard.  [default: any free one]"
)
@namespace_option
@queue_option
@click.option("--concurrency", type=click.IntRange(1, 1024), default=4, show_default=True, help="Slots of the worker.")
@click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    help="Seconds that running tasks get to end before a reload or stop.",
)
@click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS, case_sensitive=False),
    default="warning",
    show_default=True,
    help="Lowest level of the worker's log that is shown.",
)
def dev(apps: tuple[str, ...], watch_dir: tuple[Path, ...], **options: object) -> None:
    """Try out agents: a Redis of its own, a worker that reloads when your code changes, a dashboard, and a live log.

    Needs a redis-server 7 or newer: on PATH, or from the extra [redis-server]. Everything ends with Ctrl+C.
    """
    try:
        code = find_code(apps, watch_dir)
    except OrbiterError as error:
        raise click.UsageError(str(error), click.get_current_context()) from None
    try:
        asyncio.run(_develop(_Options(apps=apps, code=code, namespace=namespace(), **options)))  # type: ignore[arg-type]
    except OrbiterError as error:
        raise Failure(f"Error: {error}") from None


async def _develop(options: _Options) -> None:
    """Run everything until a signal, then stop it: worker first, so that it can drain, Redis last.

    Raises:
        OrbiterError: Redis did not start, or has ended. The worker refuses its settings.
    """
    log = LiveLog()
    stopping = asyncio.Event()
    workers: list[WorkerProcess] = []
    with _signals(stopping, workers):
        async with (
            own_redis(port=options.port, data=options.data) as server,
            _dashboard(log, server, options) as without,
        ):
            _print_how_to_submit(log, server, options, without)
            worker = WorkerProcess(
                server.url,
                options.worker_options(),
                imports=bool(options.apps) and options.log_level.lower() != "error",
                namespace=options.namespace,
                drain_timeout=options.drain_timeout,
                report=log.print,
                show=log.worker,
            )
            workers.append(worker)
            if reason := await _run_until(stopping, server, worker, log, options):
                raise OrbiterError(reason)
    log.print("stopped")


async def _run_until(
    stopping: asyncio.Event, server: RedisServer, worker: WorkerProcess, log: LiveLog, options: _Options
) -> str:
    """Run worker, log and watch until a signal; return what ended them instead, if anything did."""
    listening = asyncio.Event()
    async with asyncio.TaskGroup() as parts:
        following = parts.create_task(follow_all_tasks(server.url, log, listening, namespace=options.namespace))
        watching = parts.create_task(_watch(options.code, worker, log))
        stopped = parts.create_task(stopping.wait())
        died = parts.create_task(server.wait())
        listens = parts.create_task(listening.wait())
        await asyncio.wait({listens, stopped, died}, return_when=asyncio.FIRST_COMPLETED)
        working = parts.create_task(worker.run())
        await asyncio.wait({stopped, died, working}, return_when=asyncio.FIRST_COMPLETED)
        reason = ""
        if died.done():
            # There is nothing to hand back to.
            worker.kill()
            reason = f"redis-server has ended with exit code {died.result()}:\n{server.log_tail()}"
        elif working.done():
            reason = "a worker cannot start with these settings; see the line above"
        else:
            log.print("stopping")
        watching.cancel()
        working.cancel()
        await asyncio.wait({working})
        for part in (following, listens, stopped, died):
            part.cancel()
    log.close()
    return reason


async def _watch(code: Code, worker: WorkerProcess, log: LiveLog) -> None:
    if not code:
        return

    def changed(files: list[Path]) -> None:
        names = ", ".join(path.name for path in files[:_FILES_NAMED])
        more = f" and {len(files) - _FILES_NAMED} more" if len(files) > _FILES_NAMED else ""
        log.print(f"{names}{more} changed: reloading")
        worker.reload()

    try:
        await watch_code(code, changed)
    except* MissingExtraError as errors:
        log.print(f"no reload when code changes: {errors.exceptions[0]}", style="yellow")
    except* OSError as errors:
        log.print(f"no reload when code changes: {errors.exceptions[0]}", style="yellow")


@contextlib.asynccontextmanager
async def _dashboard(log: LiveLog, server: RedisServer, options: _Options) -> AsyncIterator[str]:
    """Serve the dashboard, where the extra is installed that it needs; give what to say where it is not."""
    try:
        from orbiter.dashboard.options import Options  # noqa: PLC0415 - an extra brings what it needs
        from orbiter.dashboard.server import serving  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("orbiter"):
            raise
        yield f"Dashboard: not installed; this adds it: {how_to_install('dashboard')}"
        return
    port, place = options.dashboard_port, (options.namespace, options.queue)
    # Whoever can reach it can reach this Redis, too.
    async with serving(Options(server.url, *place, port=port, allow_actions=True)) as (address, _):
        log.print(f"Dashboard at {address}")
        yield ""


@contextlib.contextmanager
def _signals(stopping: asyncio.Event, workers: list[WorkerProcess]) -> Iterator[None]:
    """Let Ctrl+C, SIGTERM and a closed terminal stop everything; a second one does not wait for running tasks."""

    def stop() -> None:
        if stopping.is_set():
            for worker in workers:
                worker.hurry()
        stopping.set()

    loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _print_how_to_submit(log: LiveLog, server: RedisServer, options: _Options, note: str) -> None:
    where = f"data in {server.directory}" if options.data else "its data are gone when this ends"
    log.print(f"Redis at {server.url}, {where}")
    if options.code:
        log.print(f"Watching {options.code}", style="")
    if note:
        log.print(note, style="")
    default = options.queue == default_queue(options.namespace)
    place = "" if options.namespace == DEFAULT_NAMESPACE else f" --namespace {shlex.quote(options.namespace)}"
    place += "" if default else f" --queue {shlex.quote(options.queue)}"
    submit = f'orbiter task submit "Fleets of agents" --stream{place} --agent'
    has_agent = Path("agent.json").is_file()
    line = f"{submit} agent.json" if has_agent else f"echo {shlex.quote(_SOME_AGENT)} | {submit} -"
    lines = [_go_here(), f"export ORBITER_REDIS_URL={server.url}", line]
    print_line("\n  ".join(["In another terminal:\n", *lines]) + "\n", keep="\n")


def _go_here() -> str:
    """Return the line that makes another terminal find what this one does: the directory, and the command."""
    # By the path that somebody typed, where a folder on it is a link.
    here = os.environ.get("PWD", "")
    place = here if here and Path(here).is_dir() and Path(here).samefile(".") else str(Path.cwd())
    activate = Path(sys.prefix) / "bin" / "activate"
    return f"cd {shlex.quote(place)}" + (f" && . {shlex.quote(str(activate))}" if activate.is_file() else "")
