"""Output that cannot be written: a reader that has left, a full disk, a stream that was closed from the start."""

from __future__ import annotations

import errno
import os
import select
import sys
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

import click

from orbiter.distributed.inert import inert
from orbiter.distributed.secrecy import hide

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a shell says of a program that SIGPIPE ended, as `orbiter task list | head -1` should be.
UNREAD = 141
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def open_closed_streams() -> None:
    """Give a command that was started with ``>&-`` somewhere to write to."""
    # Kept open for as long as the program runs.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def print_line(text: str = "", *, err: bool = False, file: IO[Any] | None = None, keep: str = "") -> None:
    """Print a line for a person, whatever is in it; ``keep`` as of :func:`inert`. On stderr it tells no secret."""
    click.echo(inert(hide(text) if err else text, keep=keep), err=err, file=file)


def print_raw(text: str, *, nl: bool = True) -> None:
    """Print what another program reads: JSON in ASCII, a shell's script, rules."""
    click.echo(text, nl=nl)


@contextmanager
def written() -> Iterator[None]:
    """End the program in order where its output cannot be written: without a word where nobody reads it."""
    try:
        yield
    except OSError as error:
        _end_for(error)
        raise
    except BaseExceptionGroup as group:
        for leaf in _leaves(group):
            if isinstance(leaf, OSError):
                _end_for(leaf)
        raise


def _end_for(error: OSError) -> None:
    if isinstance(error, BrokenPipeError) and _unread():
        forget_what_is_left()
        sys.exit(UNREAD)
    if error.errno in _DISK_FULL:
        forget_what_is_left()
        with suppress(OSError):
            print_line(f"Error: cannot write: {error.strerror}", err=True)
        sys.exit(1)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _unread() -> bool:
    """Tell whether stdout or stderr is a pipe that nobody reads: the broken one may as well be a connection."""
    looking = select.poll()
    for number in (1, 2):
        looking.register(number, 0)
    return any(events & select.POLLERR for _, events in looking.poll(0))


def forget_what_is_left() -> None:
    """Send what no stream takes nowhere, or Python would try again at its end, complain, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), stream.fileno())
