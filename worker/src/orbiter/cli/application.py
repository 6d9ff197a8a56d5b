"""How the command behaves as a whole: groups that import lazily, and errors that are one clear line."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from orbiter.cli.failures import UsageFailure
from orbiter.cli.output import forget_what_is_left, open_closed_streams, print_line, written

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


# What every command takes, and no group of commands.
_OF_COMMANDS = {"--json": "", "--redis-url": " URL", "--namespace": " NAME", "--queue": " NAME"}
# What click calls them.
_NUMBERS = {
    "integer": "a whole number",
    "integer range": "a whole number",
    "float": "a number",
    "float range": "a number",
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and one-line helps, and imports each command when it is called."""

    def __init__(self, *args: Any, commands_from: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._commands_from = dict(commands_from or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names."""
        return sorted({*super().list_commands(ctx), *self._commands_from})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if cmd_name not in self._commands_from:
            return super().get_command(ctx, cmd_name)
        module, _, name = self._commands_from[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; what neither its flags nor variables say, the settings file may."""
        self._check_name(ctx, args[0])
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and not isinstance(command, click.Group):
            from orbiter.cli.settings_file import FileDefaults  # noqa: PLC0415 - help of a group needs no settings

            # Help shows the defaults in force; where the file is wrong, those of the program.
            lenient = ctx.resilient_parsing or not set(rest).isdisjoint(ctx.help_option_names)
            ctx.default_map = {name: FileDefaults(lenient=lenient)}
        return name, command, rest

    def _check_name(self, ctx: click.Context, name: str) -> None:
        """Name the nearest command where there is none of this name; click looks among those imported already."""
        known = self.list_commands(ctx)
        if name in known or name.startswith("-") or ctx.resilient_parsing:
            return
        near = get_close_matches(name, known, n=1)
        ctx.fail(f"No such command {name!r}." + "".join(f" Did you mean {found!r}?" for found in near))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        rows = [(name, self._short_help(name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _short_help(self, name: str) -> str:
        if name in self._commands_from:
            return self._commands_from[name][1]
        return self.commands[name].get_short_help_str(limit=90)


class Application(LazyGroup):
    """The outermost group."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command and leave with its exit code."""
        open_closed_streams()
        # Around all: errors and a shell's completions are written outside of the two below.
        try:
            with written():
                return super().main(*args, **options)
        finally:
            # What became of the command is one thing; that nobody read its log is another.
            forget_what_is_left()

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the command line's beginning."""
        with _one_line_errors(), written():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Read the rest of the command line and run the command."""
        # A terminal or pipe that cannot show a character gets its escape instead of a traceback.
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        with _one_line_errors(), written():
            return super().invoke(ctx)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turn click's three-line usage errors into one line that names the command whose help has more."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "orbiter"
        message = " ".join(_in_words(error).split()).removesuffix(".")
        end = "" if message.endswith("?") else "."
        raise UsageFailure(f"Error: {message}{end} See '{command} --help'.") from None


def _in_words(error: click.UsageError) -> str:
    """Return an error of click in words that need no knowledge of it."""
    if (
        isinstance(error, click.NoSuchOption)
        and error.option_name in _OF_COMMANDS
        and isinstance(error.ctx and error.ctx.command, click.Group)
    ):
        name = error.option_name
        return f"{name} goes behind the whole command, as in 'orbiter task list {name}{_OF_COMMANDS[name]}'"
    message = error.format_message()
    for name, words in _NUMBERS.items():
        message = message.replace(f"is not a valid {name}.", f"is not {words}.")
    return message


def show_version(ctx: click.Context, _: click.Parameter, requested: bool) -> None:
    """Print the installed version and leave."""
    if not requested or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - 40 ms that only this needs

    try:
        found = version("orbiter-distributed")
    except PackageNotFoundError:
        found = "unknown (not installed)"
    print_line(f"orbiter {found}")
    ctx.exit()
