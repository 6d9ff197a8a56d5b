"""What several commands share: their options, the connection to Redis, and how its errors are told."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click
import redis
from click.core import ParameterSource

from orbiter.cli.failures import Failure
from orbiter.distributed import keys
from orbiter.distributed.errors import OrbiterError, RedisUnavailableError
from orbiter.distributed.models import DEFAULT_QUEUE
from orbiter.distributed.redis_url import RedisUrlError, check, connect, mask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from redis.asyncio import Redis

T = TypeVar("T")
Command = TypeVar("Command", bound="Callable[..., Any]")

MISSING_URL = "Error: --redis-url required or set ORBITER_REDIS_URL environment variable."
_ANSWER_WITHIN = 5.0


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


def redis_url_option(command: Command) -> Command:
    """Add ``--redis-url``: checked, and required from one of flag and variable."""
    option = click.option(
        "--redis-url",
        envvar="ORBITER_REDIS_URL",
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
        default=DEFAULT_QUEUE,
        envvar="ORBITER_QUEUE",
        show_default=True,
        show_envvar=True,
        help="Queue name.",
    )
    return option(command)


def queue_filter_option(command: Command) -> Command:
    """Add ``--queue`` to a listing of all queues: from no variable, as a filter that nobody typed misleads."""
    option = click.option("--queue", "only_queue", metavar="TEXT", help="Only this queue.  [default: all queues]")
    return option(command)


def any_queue_option(command: Command) -> Command:
    """Add ``--queue`` where a task's id says all, so that no command refuses it."""
    option = click.option(
        "--queue", metavar="TEXT", expose_value=False, help="Accepted as everywhere; a task's id is enough."
    )
    return option(command)


async def queue_of_task(client: Redis, task_id: str, queue: str) -> str:
    """Return the queue of a task: what ``--queue`` says, else what its record says, else the setting's value."""
    if click.get_current_context().get_parameter_source("queue") is ParameterSource.COMMANDLINE:
        return queue
    recorded: Any = await client.hget(keys.task(task_id), "queue")
    return str(recorded or queue)


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[Redis]:
    """Give a connected client; a Redis that does not answer at once is an error, as somebody waits at the terminal."""
    client = connect(url, retries=1, name="orbiter-cli")
    try:
        async with asyncio.timeout(_ANSWER_WITHIN):
            await client.ping()
        yield client
    finally:
        await client.aclose()


def run(
    url: str, work: Coroutine[Any, Any, T], *, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> T:
    """Run a command's coroutine to its end; tell errors of Redis in one line, never with the URL's secrets."""
    place = f"Redis at {mask(url)}"
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(work)
    except RedisUrlError as error:
        raise click.BadParameter(str(error), param_hint="'--redis-url'") from None
    except RedisUnavailableError as error:
        raise Failure(f"Error: {error}") from None
    except OrbiterError as error:
        raise Failure(f"Error: {error}") from None
    except redis.AuthenticationError as error:
        raise Failure(f"Error: {place} refused the login: {error}") from None
    except redis.ConnectionError as error:
        raise Failure(f"Error: Cannot reach {place}: {error}") from None
    except (TimeoutError, redis.TimeoutError):
        raise Failure(f"Error: Cannot reach {place}: no answer within {_ANSWER_WITHIN:.0f} s") from None
    except redis.RedisError as error:
        raise Failure(f"Error: {place} says: {error}") from None
