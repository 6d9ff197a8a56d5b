"""``orbiter completion``: the shell's script, and the ids of tasks, workers and dead letters for it."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import get_completion_class

from orbiter.cli.options import namespace
from orbiter.cli.output import print_raw

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio import Redis

_ANSWER_WITHIN = 0.5
_OFFERED = 1000
# Shells take what is offered apart, and put it into the line as it is: nothing that one of them would act upon, or take
# for an option.
_HARMLESS = re.compile(r"[A-Za-z0-9_.:@%+=/][A-Za-z0-9_.:@%+=/-]{0,199}")
_INSTALL = {
    "bash": "orbiter completion bash > ~/.local/share/bash-completion/completions/orbiter",
    "zsh": "orbiter completion zsh > ~/.zfunc/_orbiter    (a folder on $fpath, before compinit)",
    "fish": "orbiter completion fish > ~/.config/fish/completions/orbiter.fish",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(_INSTALL)))
def completion(shell: str) -> None:
    """Print the script that completes commands, options and ids in SHELL, with how to install it."""
    kind = get_completion_class(shell)
    root = click.get_current_context().find_root()
    if kind is None:  # pragma: no cover - click has all three
        raise click.UsageError(f"no completion for {shell}")
    script = kind(root.command, {}, "orbiter", "_ORBITER_COMPLETE").source()
    # zsh takes its #compdef from the first line only.
    head, _, rest = script.strip().partition("\n")
    note = f"# Install, once: {_INSTALL[shell]}"
    print_raw("\n".join([head, note, rest] if head.startswith("#compdef") else [note, head, rest]))


def task_ids(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Offer the newest tasks."""

    async def look(client: Redis) -> list[str]:
        from orbiter.distributed.broker.keys import Keys  # noqa: PLC0415 - completing anything else must be quick

        return [str(name) for name in await client.zrevrange(Keys(namespace(ctx)).by_time, 0, _OFFERED - 1)]

    return _offer(ctx, incomplete, look)


def worker_ids(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Offer the fleet's workers."""

    async def look(client: Redis) -> list[str]:
        from orbiter.distributed.broker.keys import Keys  # noqa: PLC0415

        return [str(name) for name in await client.zrange(Keys(namespace(ctx)).fleet, 0, _OFFERED - 1)]

    return _offer(ctx, incomplete, look)


def dead_letters(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Offer the newest dead letters: by task, and by entry where they name none."""
    queue = str(ctx.params.get("queue") or "")

    async def look(client: Redis) -> list[str]:
        from orbiter.distributed.broker.dead_letters import DeadLetters  # noqa: PLC0415

        newest = DeadLetters("", queue_name=queue, namespace=namespace(ctx), client=client).newest(100)
        return [letter.task_id or letter.entry_id async for letter in newest]

    return _offer(ctx, incomplete, look)


def _offer(ctx: click.Context, incomplete: str, look: Callable[[Redis], Awaitable[list[str]]]) -> list[str]:
    url: Any = ctx.params.get("redis_url")
    if not url:
        return []
    try:
        names = asyncio.run(_look(url, look))
    except Exception:  # noqa: BLE001 - whatever is wrong, somebody in the middle of a command line must not read of it
        return []
    return [name for name in names if name.startswith(incomplete) and _HARMLESS.fullmatch(name)]


async def _look(url: str, look: Callable[[Redis], Awaitable[list[str]]]) -> list[str]:
    from orbiter.distributed.connection.redis_url import connect  # noqa: PLC0415

    async with asyncio.timeout(_ANSWER_WITHIN):
        async with connect(url, max_connections=1, retries=0, name="orbiter-completion") as client:
            return await look(client)
