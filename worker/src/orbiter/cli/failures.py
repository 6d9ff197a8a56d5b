"""Errors that the command shows as one clear line."""

from __future__ import annotations

import sys
from typing import IO, Any

import click

from orbiter.cli.output import print_line


class Failure(click.ClickException):
    """The command could not do what it was asked. The message is printed, and the exit code is 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message."""
        print_line(self.message, file=file or sys.stderr)


class UsageFailure(Failure):
    """The command line asks for what cannot be."""

    exit_code = 2


class KnownTask(Failure):
    """A task has the id that another one was to have."""

    exit_code = 3
