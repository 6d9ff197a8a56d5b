"""The ``orbiter`` command. Each command group is a module of its own, imported when it is used."""

from __future__ import annotations

import click

from orbiter.cli.application import Application, show_version

__all__ = ["main"]


@click.group(
    cls=Application,
    commands_from={
        "dev": ("orbiter.cli.dev:dev", "Try out agents: Redis, a worker that reloads and a log, in this terminal."),
        "start": ("orbiter.cli.start:start", "Start a worker in this terminal or service."),
        "task": ("orbiter.cli.task:task", "Submit tasks, follow, list and cancel them."),
        "worker": ("orbiter.cli.worker:worker", "See who works in the fleet."),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=show_version, help="Print the version."
)
def main() -> None:
    """Run agent tasks on a fleet of workers that share a queue in Redis.

    Every command takes --redis-url, or reads the variable ORBITER_REDIS_URL.
    """
