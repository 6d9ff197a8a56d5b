"""The ``orbiter`` command. Each command group is a module of its own, imported when it is used."""

from __future__ import annotations

from orbiter.cli import beginning  # noqa: F401 - a worker handles signals before anything else is imported

# isort: split
import click

from orbiter.cli.application import Application, show_version

__all__ = ["main"]


@click.group(
    cls=Application,
    commands_from={
        "alerts": ("orbiter.cli.alerts:alerts", "Check whether something is wrong with the fleet; export the rules."),
        "completion": ("orbiter.cli.completion:completion", "Print what completes commands and ids in your shell."),
        "config": ("orbiter.cli.config:config", "See which settings are in force, and where they come from."),
        "dashboard": ("orbiter.cli.dashboard:dashboard", "Serve pages that show the fleet; act on it where allowed."),
        "dev": ("orbiter.cli.dev:dev", "Try out agents: Redis, a worker that reloads and a log, in this terminal."),
        "doctor": ("orbiter.cli.doctor:doctor", "Say what is wrong between here, Redis and the workers; the remedies."),
        "queue": ("orbiter.cli.queue:queue", "See what waits, runs, is delayed or dead."),
        "start": ("orbiter.cli.start:start", "Start a worker in this terminal or service."),
        "task": ("orbiter.cli.task:task", "Submit tasks, follow, list, cancel and retry them."),
        "top": ("orbiter.cli.top.command:top", "Watch fleet, queue and tasks in this terminal; act on them by keys."),
        "worker": ("orbiter.cli.worker:worker", "See who works in the fleet; drain, quiet or resume workers."),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=show_version, help="Print the version."
)
def main() -> None:
    """Run agent tasks on a fleet of workers that share a queue in Redis.

    Every command takes --redis-url and --queue. What is not given comes from variables such as ORBITER_REDIS_URL, then
    from the file orbiter.toml: 'orbiter config show' lists all of it.
    """
