"""What several commands share: their options, the connection to Redis, and how its errors are told."""

from __future__ import annotations

from orbiter.cli import plain_redis  # noqa: F401 - before anything else imports it

# isort: split
import asyncio
import os
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click
import redis
from click.core import ParameterSource

from orbiter.cli.failures import Failure, UsageFailure
from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.connection.redis_url import RedisUrlError, check, connect, explain, explain_right, mask
from orbiter.distributed.connection.refusals import lacks_right
from orbiter.distributed.errors import OrbiterError, RedisUnavailableError, SettingsError, WorkerIdTakenError
from orbiter.distributed.limits import variable
from orbiter.distributed.models import DEFAULT_QUEUE
from orbiter.distributed.names import (
    DEFAULT_NAMESPACE,
    InvalidNameError,
    check_namespace,
    check_queue_name,
    check_task_id,
)
from orbiter.distributed.reading import REMEDY, may_read, not_for_this_user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from redis.asyncio import Redis

    from orbiter.distributed.client.client import Client

T = TypeVar("T")
Command = TypeVar("Command", bound="Callable[..., Any]")

MISSING_URL = "Error: --redis-url required or set ORBITER_REDIS_URL environment variable."
_ANSWER_WITHIN = 5.0
_NAME = "orbiter-cli"
_NAMESPACE = f"{__name__}.namespace"


def typed(text: str) -> str:
    """Return an argument as it was typed: under an ASCII locale, UTF-8 comes as halves of surrogate pairs."""
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        return text


class Name(click.ParamType):  # type: ignore[type-arg] # none before click 8.2
    """A name by its rule, from wherever it comes: flag, variable or file.

    Args:
        rule: Returns the name, or raises the :class:`InvalidNameError` that says what is wrong with it.
    """

    name = "text"

    def __init__(self, rule: Callable[[str], str]) -> None:
        self._rule = rule

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check a name."""
        try:
            return self._rule(typed(value))
        except InvalidNameError as error:
            self.fail(str(error), param, ctx)


class QueueName(Name):
    """A queue, whole: with the namespace that the command has, typed or not."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check a name, and put the namespace before it."""
        place = Name(partial(check_queue_name, namespace=namespace(ctx)))
        return place.convert(value, param, ctx)


class ReadablePath(click.Path):
    """A file or directory that is there and that this process may read."""

    def __init__(self, *, file_okay: bool = True, dir_okay: bool = True, **options: Any) -> None:
        super().__init__(exists=True, file_okay=file_okay, dir_okay=dir_okay, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check a path."""
        if not may_read(value):
            self.fail(f"{not_for_this_user(value)}; {REMEDY}", param, ctx)
        return super().convert(value, param, ctx)


QUEUE_NAME = QueueName(check_queue_name)
TASK_ID = Name(check_task_id)


def _usable_url(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if ctx.resilient_parsing:
        return value
    if not value:
        raise Failure(MISSING_URL)
    try:
        check(value)
    except RedisUrlError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    return value


def namespace(ctx: click.Context | None = None) -> str:
    """Return the namespace of the command that runs, or of that context."""
    found = ctx or click.get_current_context(silent=True)
    return DEFAULT_NAMESPACE if found is None else str(found.meta.get(_NAMESPACE, DEFAULT_NAMESPACE))


def _keep_namespace(ctx: click.Context, _: click.Parameter, value: str) -> None:
    ctx.meta[_NAMESPACE] = value


def namespace_option(command: Command) -> Command:
    """Add ``--namespace``, for :func:`namespace`. It is read before the queue's name, wherever it stands."""
    option = click.option(
        "--namespace",
        type=Name(check_namespace),
        default=DEFAULT_NAMESPACE,
        envvar=variable("namespace"),
        show_default=True,
        show_envvar=True,
        is_eager=True,
        expose_value=False,
        callback=_keep_namespace,
        help="First word of all keys in Redis.",
    )
    return option(command)


def fleet_options(command: Command) -> Command:
    """Add what says which fleet: ``--redis-url`` and ``--namespace``."""
    return redis_url_option(namespace_option(command))


def redis_url_option(command: Command) -> Command:
    """Add ``--redis-url``: checked, and required from one of flag and variable."""
    option = click.option(
        "--redis-url",
        envvar=variable("redis_url"),
        show_envvar=True,
        metavar="URL",
        callback=_usable_url,
        help="Redis connection URL.",
    )
    return option(command)


def json_option(command: Command) -> Command:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for other programs.")(command)


def queue_option(command: Command) -> Command:
    """Add ``--queue``."""
    option = click.option(
        "--queue",
        type=QUEUE_NAME,
        default=DEFAULT_QUEUE,
        envvar=variable("queue"),
        show_default=True,
        show_envvar=True,
        help="Queue name.",
    )
    return option(command)


def queue_filter_option(command: Command) -> Command:
    """Add ``--queue`` to a listing of all queues: from no variable, as a filter that nobody typed misleads."""
    option = click.option("--queue", "only_queue", type=QUEUE_NAME, help="Only this queue.  [default: all queues]")
    return option(command)


def any_queue_option(command: Command) -> Command:
    """Add ``--queue`` where a task's id says all, so that no command refuses it."""
    option = click.option(
        "--queue", type=QUEUE_NAME, expose_value=False, help="Accepted as everywhere; a task's id is enough."
    )
    return option(command)


async def queue_of_task(client: Redis, task_id: str, queue: str) -> str:
    """Return the queue of a task: what ``--queue`` says, else what its record says, else the setting's value."""
    if click.get_current_context().get_parameter_source("queue") is ParameterSource.COMMANDLINE:
        return queue
    recorded: Any = await client.hget(Keys(namespace()).task(task_id), "queue")
    return str(recorded or queue)


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[Redis]:
    """Give a connected client; a Redis that does not answer at once is an error, as somebody waits at the terminal."""
    client = connect(url, retries=1, name=_NAME)
    try:
        async with asyncio.timeout(_ANSWER_WITHIN):
            await client.ping()
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def open_client(url: str, queue: str = DEFAULT_QUEUE) -> AsyncIterator[Client]:
    """Give a connected client of a queue, as :func:`open_redis` does."""
    from orbiter.distributed.client.client import Client  # noqa: PLC0415 - not every command has tasks

    async with Client(url, queue=queue, namespace=namespace(), name=_NAME, retries=1) as client:
        async with asyncio.timeout(_ANSWER_WITHIN):
            await client.redis.ping()
        yield client


def run(url: str, work: Coroutine[Any, Any, T], *, runner: Callable[[Coroutine[Any, Any, T]], T] = asyncio.run) -> T:
    """Run a command's coroutine to its end; tell errors of Redis in one line, never with the URL's secrets."""
    place = f"Redis at {mask(url)}"
    try:
        return runner(work)
    except RedisUrlError as error:
        raise click.BadParameter(str(error), param_hint="'--redis-url'") from None
    except RedisUnavailableError as error:
        raise Failure(f"Error: {error}") from None
    except (InvalidNameError, SettingsError) as error:
        raise UsageFailure(f"Error: {error}") from None
    except WorkerIdTakenError as error:
        raise UsageFailure(f"Error: {error}") from None
    except OrbiterError as error:
        raise Failure(f"Error: {error}") from None
    except redis.ConnectionError as error:
        raise Failure(f"Error: {explain(error, url)}") from None
    except (TimeoutError, redis.TimeoutError):
        raise Failure(f"Error: Cannot reach {place}: no answer within {_ANSWER_WITHIN:.0f} s") from None
    except redis.RedisError as error:
        if lacks_right(error):
            # The URL is the wrong one for this command; of `alerts check`, 1 says that an alert fires.
            raise UsageFailure(f"Error: {explain_right(error, url, _command_name())}") from None
        raise Failure(f"Error: {place} says: {error}") from None


def _command_name() -> str:
    context = click.get_current_context(silent=True)
    return "orbiter" if context is None else context.command_path
