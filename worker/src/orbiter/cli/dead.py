"""``orbiter task dead`` and ``orbiter task retry``: look at what failed for good, run it again or drop it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from orbiter.cli.application import LazyGroup
from orbiter.cli.completion import dead_letters, task_ids
from orbiter.cli.failures import Failure
from orbiter.cli.options import (
    TASK_ID,
    fleet_options,
    json_option,
    namespace,
    open_redis,
    queue_of_task,
    queue_option,
    run,
)
from orbiter.cli.output import print_line
from orbiter.cli.prefixes import may_be_beginning, not_found, the_one, whole_task_id
from orbiter.cli.render import format_time, page, print_json, print_view, table
from orbiter.distributed.broker.dead_letters import DeadLetter, DeadLetterError, DeadLetters, UnknownTaskError
from orbiter.distributed.inert import inert
from orbiter.distributed.plain_json import read_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


_REASON_LIMIT = 120


@click.command("retry")
@click.argument("task_id", type=TASK_ID, shell_complete=task_ids)
@fleet_options
@queue_option
@json_option
def retry_task(task_id: str, redis_url: str, queue: str, as_json: bool) -> None:
    """Run a failed or cancelled task again, with all its retries before it.

    The beginning of a generated id will do: 4 characters or more that no other task's id begins with. Not with --json.
    """
    task_id = run(redis_url, _retry_task(redis_url, queue, task_id, exact=as_json))
    _print_done([_Done(name=task_id, task_id=task_id)], as_json=as_json)


async def _retry_task(redis_url: str, queue: str, task_id: str, *, exact: bool) -> str:
    """Run it again; return its whole id."""
    async with open_redis(redis_url) as client:
        if not exact:
            # A dead letter is kept for longer than its task's record.
            letters = DeadLetters(redis_url, queue_name=queue, namespace=namespace(), client=client)
            task_id = await whole_task_id(client, task_id, changes=True, known=letters.find)
        name = await queue_of_task(client, task_id, queue)
        letters = DeadLetters(redis_url, queue_name=name, namespace=namespace(), client=client)
        try:
            return await letters.retry_task(task_id)
        except UnknownTaskError:
            raise not_found(task_id, exact=exact) from None
        except DeadLetterError as error:
            raise Failure(str(error)) from None


@click.group(cls=LazyGroup)
def dead() -> None:
    """Look at tasks that failed for good and entries that cannot be read; retry or drop them."""


@dead.command("list")
@fleet_options
@queue_option
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most this many.")
@json_option
def list_letters(redis_url: str, queue: str, limit: int, as_json: bool) -> None:
    """List the dead letters of a queue, the newest first."""
    found = run(redis_url, _newest(redis_url, queue, limit))
    if as_json:
        print_json([_without_payload(letter) for letter in found])
    elif not found:
        print_line("No dead letters found.")
    else:
        rows = [
            (
                letter.entry_id,
                letter.task_id or "-",
                inert(letter.reason, limit=_REASON_LIMIT),
                letter.error_type or "-",
                format_time(letter.dead_since),
            )
            for letter in found
        ]
        print_view(table("Dead Letters", ("Entry ID", "Task ID", "Reason", "Error Type", "Time"), rows))


async def _newest(redis_url: str, queue: str, limit: int) -> list[DeadLetter]:
    async with open_redis(redis_url) as client:
        letters = DeadLetters(redis_url, queue_name=queue, namespace=namespace(), client=client)
        return [letter async for letter in letters.newest(limit)]


def _without_payload(letter: DeadLetter) -> dict[str, Any]:
    return {name: value for name, value in asdict(letter).items() if name not in {"payload", "other"}}


@dead.command("show")
@click.argument("name", metavar="ENTRY_OR_TASK_ID", shell_complete=dead_letters)
@fleet_options
@queue_option
@json_option
def show_letter(name: str, redis_url: str, queue: str, as_json: bool) -> None:
    """Show a dead letter with its payload.

    The beginning of a task's id will do: 4 characters or more that no other dead letter's has. Not with --json.
    """
    letter = run(redis_url, _find(redis_url, queue, name, exact=as_json))
    if letter is None:
        raise Failure(f"Dead letter not found on queue {queue}: {name}")
    try:
        payload: Any = read_json(letter.payload)
    except ValueError:
        payload = letter.payload
    if as_json:
        print_json(asdict(letter) | {"payload": payload})
        return
    text = payload if isinstance(payload, str) else json.dumps(payload, indent=2)
    cut = ", only its beginning was kept" if letter.truncated else ""
    print_view(
        page(
            f"Dead letter {letter.entry_id}",
            (
                ("Task", letter.task_id or "-"),
                ("Time", format_time(letter.dead_since)),
                ("Reason", Text(inert(letter.reason), style="red")),
                ("Error type", letter.error_type or "-"),
                *letter.other.items(),
                ("Payload", f"{len(letter.payload)} characters{cut}"),
            ),
        )
    )
    print_view(Text(inert(text, keep="\n")))


async def _find(redis_url: str, queue: str, name: str, *, exact: bool) -> DeadLetter | None:
    async with open_redis(redis_url) as client:
        letters = DeadLetters(redis_url, queue_name=queue, namespace=namespace(), client=client)
        return await _meant(letters, name, exact=exact)


async def _meant(letters: DeadLetters, name: str, *, exact: bool, changes: bool = False) -> DeadLetter | None:
    """Return the dead letter of this entry or task, or of the task whose id begins so."""
    found = await letters.find(name)
    if found or exact or not may_be_beginning(name):
        return found
    begin_so = [task_id async for task_id in letters.task_ids() if task_id.startswith(name)]
    return await letters.find(the_one(name, begin_so, changes=changes)) if begin_so else None


@dataclass(frozen=True)
class _Done:
    """What became of one dead letter: ``error`` says why nothing did."""

    name: str
    task_id: str = ""
    error: str = ""


@dead.command("retry")
@click.argument("names", metavar="ENTRY_OR_TASK_ID...", nargs=-1, shell_complete=dead_letters)
@click.option("--all", "everything", is_flag=True, help="Every dead letter of the queue.")
@fleet_options
@queue_option
@json_option
def retry_letters(names: tuple[str, ...], everything: bool, redis_url: str, queue: str, as_json: bool) -> None:
    """Run the tasks of dead letters again, with all their retries before them; exit 1 unless all of them can.

    The beginning of a task's generated id will do: 4 characters or more that no other dead letter's has. Not with
    --json.
    """
    _either(names, everything=everything)
    done = run(redis_url, _retry(redis_url, queue, None if everything else names, exact=as_json))
    _print_done(done, as_json=as_json)


def _either(names: Sequence[str], *, everything: bool) -> None:
    if bool(names) == everything:
        raise click.UsageError("give either ids of dead letters or --all", click.get_current_context())


async def _retry(redis_url: str, queue: str, names: Sequence[str] | None, *, exact: bool) -> list[_Done]:
    async with open_redis(redis_url) as client:
        letters = DeadLetters(redis_url, queue_name=queue, namespace=namespace(), client=client)
        done = []
        async for name, letter in _chosen(letters, names, exact=exact):
            if letter is None:
                done.append(_Done(name=name, error=f"Dead letter not found on queue {queue}: {name}"))
                continue
            try:
                done.append(_Done(name=name, task_id=await letters.retry(letter)))
            except DeadLetterError as error:
                done.append(_Done(name=name, task_id=letter.task_id, error=str(error)))
        return done


async def _chosen(
    letters: DeadLetters, names: Sequence[str] | None, *, exact: bool
) -> AsyncIterator[tuple[str, DeadLetter | None]]:
    """Yield the named dead letters, or all of them."""
    if names is None:
        async for letter in letters.newest():
            yield letter.entry_id, letter
    else:
        # All of them before the first is acted upon: one that several tasks have is an error of the command line.
        for found in [(name, await _meant(letters, name, exact=exact, changes=True)) for name in dict.fromkeys(names)]:
            yield found


def _print_done(done: Sequence[_Done], *, as_json: bool) -> None:
    if as_json:
        print_json([{"name": one.name, "task_id": one.task_id, "error": one.error or None} for one in done])
    elif not done:
        print_line("No dead letters found.")
    else:
        for one in done:
            print_line(one.error or f"Task {one.task_id} will run again.", err=bool(one.error))
    if any(one.error for one in done):
        raise click.exceptions.Exit(1)


@dead.command("drop")
@click.argument("names", metavar="ENTRY_OR_TASK_ID...", nargs=-1, shell_complete=dead_letters)
@click.option("--all", "everything", is_flag=True, help="Every dead letter of the queue.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@fleet_options
@queue_option
@json_option
def drop_letters(
    *, names: tuple[str, ...], everything: bool, yes: bool, redis_url: str, queue: str, as_json: bool
) -> None:
    """Delete dead letters for good: their tasks can be read for a day, but not run again.

    The beginning of a task's generated id will do: 4 characters or more that no other dead letter's has. Not with
    --json.
    """
    _either(names, everything=everything)
    count, missing = run(redis_url, _count(redis_url, queue, None if everything else names, exact=as_json))
    if missing:
        raise Failure(f"Dead letter not found on queue {queue}: {', '.join(missing)}")
    if not yes and count:
        what = "1 dead letter" if count == 1 else f"{count} dead letters"
        if not click.confirm(f"Drop {what} of queue {queue} for good? (--yes does not ask)", err=True):
            raise Failure("Nothing dropped.")
    chosen = None if everything else names
    dropped = run(redis_url, _drop(redis_url, queue, chosen, exact=as_json)) if count else 0
    if as_json:
        print_json({"dropped": dropped})
    else:
        print_line(f"{dropped} dropped.")


async def _count(redis_url: str, queue: str, names: Sequence[str] | None, *, exact: bool) -> tuple[int, list[str]]:
    """Return how many dead letters are meant, and the names that are none."""
    async with open_redis(redis_url) as client:
        letters = DeadLetters(redis_url, queue_name=queue, namespace=namespace(), client=client)
        if names is None:
            return await letters.count(), []
        found = [(name, letter) async for name, letter in _chosen(letters, names, exact=exact)]
        return len(found), [name for name, letter in found if letter is None]


async def _drop(redis_url: str, queue: str, names: Sequence[str] | None, *, exact: bool) -> int:
    async with open_redis(redis_url) as client:
        letters = DeadLetters(redis_url, queue_name=queue, namespace=namespace(), client=client)
        if names is None:
            return await letters.drop_all()
        return await letters.drop(
            [letter.entry_id async for _, letter in _chosen(letters, names, exact=exact) if letter]
        )
