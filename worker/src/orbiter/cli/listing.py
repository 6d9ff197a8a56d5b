"""Tables of which a terminal shows as many columns as fit, ``--wide`` all, and ``--columns`` those that are named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import click
from rich.text import Text

from orbiter.cli.render import console, table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.table import Table

T = TypeVar("T")
Command = TypeVar("Command", bound="Callable[..., Any]")

# A rule and a space on each side of a cell.
_FRAME = 3


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column.

    Attributes:
        name: What ``--columns`` calls it.
        title: What stands above it.
        cell: Returns what stands in it.
        wide: Whether only ``--wide`` and ``--columns`` show it.
        rank: Which one goes first where not all fit: the highest; 0 stays.
    """

    name: str
    title: str
    cell: Callable[[T], str | Text]
    wide: bool = False
    rank: int = 0


@dataclass(frozen=True)
class Choice:
    """Which columns the command line asks for: those named, or all, or as many as fit."""

    names: tuple[str, ...] = ()
    wide: bool = False


DEFAULT_CHOICE = Choice()


def column_options(columns: Sequence[Column[Any]]) -> Callable[[Command], Command]:
    """Add ``--wide`` and ``--columns``, which make a :class:`Choice`."""
    known = [column.name for column in columns]

    def names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
        chosen = tuple(name.strip().lower() for name in (value or "").split(",")) if value is not None else ()
        for name in chosen:
            if name not in known:
                raise click.BadParameter(f"{name!r} is no column; the columns are {', '.join(known)}", ctx, param)
        return chosen

    def add(command: Command) -> Command:
        command = click.option(
            "--columns",
            metavar="NAME,...",
            callback=names,
            help=f"Columns to show, in this order: {', '.join(known)}.",
        )(command)
        return click.option("--wide", is_flag=True, help="All columns; else as many as fit the terminal.")(command)

    return add


def listing(title: str, columns: Sequence[Column[T]], rows: Sequence[T], choice: Choice) -> Table:
    """Return the table of some rows."""
    if choice.names:
        shown = [next(column for column in columns if column.name == name) for name in choice.names]
    else:
        shown = [column for column in columns if choice.wide or not column.wide]
    cells = {column.name: [column.cell(row) for row in rows] for column in shown}
    if not choice.names and not choice.wide:
        shown = _fitting(shown, cells, console().width)
    return table(title, [column.title for column in shown], zip(*(cells[column.name] for column in shown), strict=True))


def _fitting(shown: list[Column[T]], cells: dict[str, list[str | Text]], available: int) -> list[Column[T]]:
    """Return the columns that fit side by side, without those that matter least where not all do."""
    widths = {
        column.name: max(len(column.title), *(Text(str(cell)).cell_len for cell in cells[column.name]))
        for column in shown
    }
    left = sorted(shown, key=lambda column: column.rank)
    while left[-1].rank and sum(widths[column.name] + _FRAME for column in left) + 1 > available:
        left.pop()
    return [column for column in shown if column in left]
