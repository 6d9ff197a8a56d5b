"""``orbiter start worker``: every option, its default and its range come from the worker's settings."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click
from annotated_types import Ge, Le
from click.core import ParameterSource

from orbiter.cli import plain_redis
from orbiter.cli.application import LazyGroup
from orbiter.cli.failures import Failure
from orbiter.cli.options import ReadablePath, redis_url_option, run
from orbiter.cli.output import print_line
from orbiter.cli.settings_file import empty_list
from orbiter.distributed import signals
from orbiter.distributed.connection.redis_url import mask
from orbiter.distributed.errors import SettingsError
from orbiter.distributed.limits import variable
from orbiter.distributed.settings import Size, WorkerSettings, size_of
from orbiter.distributed.worker.logs import LOG_FORMATS, LOG_LEVELS, setup_logging

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from pydantic.fields import FieldInfo


_PR_SET_DUMPABLE = 4
# A worker of its own keeps user code apart; one that is embedded in a program runs it in that program.
_DEFAULTS = {"isolation": "process"}


class SizeRange(click.IntRange):
    """Bytes, also with a unit: ``400M``, ``2G``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number of bytes."""
        number = size_of(value)
        try:
            int(number)
        except ValueError:
            self.fail(f"{value!r} is not a size, such as 400M or 2G", param, ctx)
        return super().convert(number, param, ctx)


class ListOption(click.Option):
    """A list. A variable that is empty is an empty list: what stands behind it, file and default, does not count."""

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        """Find the value where click looks for it, and where the variable is empty."""
        value, source = super().consume_value(ctx, opts)
        if source is not ParameterSource.COMMANDLINE and empty_list(str(self.envvar)):
            return (), ParameterSource.ENVIRONMENT
        return value, source


@click.group(cls=LazyGroup)
def start() -> None:
    """Start a worker in this terminal or service."""


def _settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--concurrency`` and all the others: flag, variable and setting differ only in spelling."""
    for name, info in reversed(WorkerSettings.model_fields.items()):
        default = _DEFAULTS.get(name, info.default)
        option = click.option(
            f"--{name.replace('_', '-')}",
            name,
            envvar=variable(name),
            show_envvar=True,
            default=None if info.is_required() or info.default_factory else default,
            show_default="generated" if info.default_factory else default not in ("", ()),
            help=f"{info.description}.",
            **_kind(info, metavar="PATTERN" if name == "allow_models" else "PREFIX"),
        )
        command = option(command)
    return command


def _kind(info: FieldInfo, *, metavar: str) -> dict[str, Any]:
    """Return click's view of a setting's type; ``metavar`` is the word for an entry of a list."""
    annotation = info.annotation
    if get_origin(annotation) is Literal:
        return {"type": click.Choice([str(choice) for choice in get_args(annotation)])}
    if get_origin(annotation) is tuple:
        return {"multiple": True, "metavar": metavar, "cls": ListOption}
    if annotation in (int, float):
        low = next((rule.ge for rule in info.metadata if isinstance(rule, Ge)), None)
        high = next((rule.le for rule in info.metadata if isinstance(rule, Le)), None)
        if Size in info.metadata:
            return {"type": SizeRange(min=low, max=high)}  # type: ignore[arg-type]
        kind = click.IntRange if annotation is int else click.FloatRange
        return {"type": kind(min=low, max=high)}  # type: ignore[arg-type]
    return {"metavar": "TEXT"}


@start.command("worker")
@redis_url_option
@_settings_options
@click.option(
    "--import-from",
    metavar="DIRECTORY",
    multiple=True,
    type=ReadablePath(file_okay=False, resolve_path=True),
    help="Directory that is searched first for modules that tasks import. Repeatable.",
)
@click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS),
    default="human",
    envvar=variable("log_format"),
    show_default=True,
    show_envvar=True,
    help="Lines for people, or one JSON object a line.",
)
@click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS, case_sensitive=False),
    default="info",
    envvar=variable("log_level"),
    show_default=True,
    show_envvar=True,
    help="Lowest level that is logged.",
)
def start_worker(
    redis_url: str, log_format: str, log_level: str, *, import_from: tuple[str, ...], **options: Any
) -> None:
    """Claim tasks from the queue and run them, until SIGTERM or Ctrl+C.

    A stopped worker takes nothing new, lets running tasks end within --drain-timeout, hands the others back to the
    queue, and exits 0. A second signal hands everything back at once.

    With TEMPORAL_HOST in the environment, and no other --executor, tasks run durably in Temporal.
    """
    source = click.get_current_context().get_parameter_source("executor")
    if source is ParameterSource.DEFAULT and os.environ.get("TEMPORAL_HOST"):
        options["executor"] = "temporal"
    try:
        settings = WorkerSettings.of(**options)
    except SettingsError as error:
        raise click.UsageError(str(error), click.get_current_context()) from None
    # From here on, what is done is the process's: whoever calls this for a refusal stays as it was.
    signals.hold()
    if settings.isolation != "none":
        _hide_from_tasks()
    else:
        plain_redis.complete()
    _look_in(import_from)
    setup_logging(log_format, log_level, worker_id=settings.worker_id, queue=settings.queue)
    sys.excepthook = _log_uncaught
    _print_banner(redis_url, settings)

    # Not needed to print help or refuse an option.
    from orbiter.distributed.runtimes.user_code import run_contained  # noqa: PLC0415
    from orbiter.distributed.worker.worker import Worker  # noqa: PLC0415

    values = settings.model_dump()
    try:
        worker = Worker(redis_url, queue_name=values.pop("queue"), **values)
    except ImportError as error:
        raise Failure(f"Error: {error}") from None
    _spare_the_collector()
    run(redis_url, worker.start(), runner=partial(run_contained, loop_factory=_loop_factory()))


def _look_in(directories: tuple[str, ...]) -> None:
    """Let this process, and those that it starts for tasks, import from directories before anywhere else."""
    if directories:
        sys.path[:0] = directories
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (*directories, os.environ.get("PYTHONPATH"))))


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Log what ends the program: as Python writes it, a text of a task's in it could forge lines of the journal."""
    logging.getLogger(__name__).critical("the worker ends, of an error", exc_info=(kind, error, traceback))


def _hide_from_tasks() -> None:
    """Let no process of this user read what is in this one: tasks run as the same user.

    It writes no core dump either, and debuggers and profilers of the same user cannot attach.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _spare_the_collector() -> None:
    """Keep the garbage collector from going through all modules, which stay, again and again while tasks run."""
    gc.freeze()
    gc.set_threshold(10_000, *gc.get_threshold()[1:])
    with contextlib.suppress(AttributeError):
        # What imports needed goes back to the system, where the C library can do that.
        ctypes.CDLL(None).malloc_trim(0)


def _loop_factory() -> Callable[[], AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - only a worker needs it, and not every platform has it
    except ImportError:
        return None
    return uvloop.new_event_loop


def _print_banner(redis_url: str, settings: WorkerSettings) -> None:
    print_line("Orbiter Worker Starting")
    print_line(f"  Worker ID:   {settings.worker_id}")
    print_line(f"  Redis URL:   {mask(redis_url)}")
    print_line(f"  Queue:       {settings.queue}")
    print_line(f"  Concurrency: {settings.concurrency}")
    if settings.executor != "local":
        print_line(f"  Executor:    {settings.executor}")
    print_line()
    print_line("Press Ctrl+C to stop.")
