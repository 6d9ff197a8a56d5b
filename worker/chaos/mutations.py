"""Faults put into the code itself, one at a time: each must be found, by the state machine or by a run of a named seed.

A mutation is applied to a copy of the sources, by exact text; where that text is gone, it fails and says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from tests.support import WORKER_DIRECTORY, environment

LUA = "broker/lua"


class MutationError(Exception):
    """The text that a mutation replaces is not there, or there more than once."""


@dataclass(frozen=True)
class Mutation:
    """One fault.

    Attributes:
        name: What is not done any more.
        file: Where, below ``orbiter/distributed``.
        before: What stands there.
        after: What stands there instead.
        caught_by: The command that finds it, ``python -m`` and so on.
        says: What that says then.
    """

    name: str
    file: str
    before: str
    after: str
    caught_by: tuple[str, ...]
    says: str


def machine(seed: int = 1) -> tuple[str, ...]:
    """Return the state machine with histories of a seed; which of them meet a fault changes with what they can do."""
    return ("chaos.machine", "--seed", str(seed), "--examples", "100")


def faults(kinds: str, *options: str, seed: int = 1) -> tuple[str, ...]:
    """Return a run of some kinds of faults; where these cost no run, neither do its tasks."""
    return ("chaos", "--seed", str(seed), "--duration", "12", "--faults", kinds, *options)


MUTATIONS = (
    Mutation(
        "owner check in settle",
        f"{LUA}/core/settle_and_claim.lua",
        "  if not pending then return 'lost' end\n",
        "",
        machine(),
        "AssertionError",
    ),
    Mutation(
        "owner check of all other steps",
        f"{LUA}/lib/check_fence.lua",
        "  if deliveries and deliveries ~= '' and tonumber(deliveries) ~= count then return nil end\n",
        "",
        machine(4),
        "AssertionError",
    ),
    Mutation(
        "outcome before acknowledgement",
        f"{LUA}/lib/start_task.lua",
        "  local attempt = count_of(known[7]) + 1\n",
        "  local attempt = count_of(known[7]) + 1\n  drop_entry(at.queue, at.group, at.entry)\n",
        machine(),
        "AssertionError",
    ),
    Mutation(
        "suspect runs alone",
        f"{LUA}/lib/lose_process.lua",
        "redis.call('HSET', task, 'status', 'pending', 'alone', next_alone)",
        "redis.call('HSET', task, 'status', 'pending')",
        machine(),
        "AssertionError",
    ),
    Mutation(
        "janitor checks and deletes in one script",
        f"{LUA}/core/tidy.lua",
        "  if #redis.call('XPENDING', queue, group, '-', '+', 1, ARGV[n]) == 0 then\n",
        "  if true then\n",
        machine(),
        "AssertionError",
    ),
    Mutation(
        "own history is read after a reconnect",
        "worker/fetcher.py",
        "        # What is on its way to us is pending here, too.\n",
        "        self._flow.recover = False\n        return\n",
        faults("drop,reset", "--no-poison", "--lease", "30", "--rate", "40", seed=182),
        "a loss without a cause",
    ),
    Mutation(
        "requeue after unblock",
        "worker/fetcher.py",
        "                if not self._flow.heartbeat_overdue:\n                    await self._recover()\n",
        "",
        faults("end deaf worker", "--no-poison", "--lease", "30"),
        "a loss without a cause",
    ),
    Mutation(
        "renewal during a drain",
        "worker/lease.py",
        "        held = self._flow.runs.held\n        slots",
        "        held = self._flow.runs.held if self._flow.open else {}\n        slots",
        faults("end worker", "--no-poison", "--drain", "8"),
        "a loss without a cause",
    ),
    Mutation(
        "kill before requeue",
        "execution/processes/executor_process.py",
        "        if self.status is None:\n            with contextlib.suppress(OSError):\n"
        "                os.killpg(self.pid, signal.SIGKILL)\n",
        "        if self.status is None and self.runs:\n            self._owner.died(self)\n"
        "            self._loop.call_later(20, self.kill)\n        elif self.status is None:\n"
        "            with contextlib.suppress(OSError):\n                os.killpg(self.pid, signal.SIGKILL)\n",
        faults("none", seed=45),
        "doubled under live leases",
    ),
)


def mutated(mutation: Mutation, folder: Path) -> Path:
    """Copy the sources there, with the fault; return where Python finds them.

    Raises:
        MutationError: The text to be replaced is not there exactly once.
    """
    sources = folder / "src"
    shutil.copytree(WORKER_DIRECTORY / "src", sources, ignore=shutil.ignore_patterns("__pycache__"))
    path = sources / "orbiter" / "distributed" / mutation.file
    text = path.read_text() if path.is_file() else ""
    if (times := text.count(mutation.before)) != 1:
        raise MutationError(f"{mutation.name}: {mutation.file} has {mutation.before!r} {times} times, not once")
    path.write_text(text.replace(mutation.before, mutation.after))
    return sources


def caught(mutation: Mutation) -> tuple[bool, str]:
    """Run what is to find a mutation; return whether it did, and what it said."""
    with TemporaryDirectory(prefix="mutation-") as directory:
        sources = mutated(mutation, Path(directory))
        env = environment(PYTHONPATH=os.pathsep.join([str(sources), str(WORKER_DIRECTORY)]))
        command = [sys.executable, "-m", *mutation.caught_by]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=directory, check=False)
        said = done.stdout + done.stderr
        return done.returncode == 1 and mutation.says in said, said


@click.command()
@click.option("--only", default="", help="Those whose names have this in them.")
@click.option("--verbose", is_flag=True, help="Show what was said.")
def main(only: str, verbose: bool) -> None:
    """Put each fault into the code, and see whether it is found."""
    missed = 0
    for mutation in MUTATIONS:
        if only not in mutation.name:
            continue
        found, said = caught(mutation)
        missed += not found
        click.echo(f"{'caught' if found else 'MISSED'}  {mutation.name}: python -m {' '.join(mutation.caught_by)}")
        if verbose or not found:
            click.echo("\n".join(said.splitlines()[-30:]))
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
