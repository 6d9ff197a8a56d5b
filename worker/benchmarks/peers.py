"""``python -m benchmarks.peers DIRECTORY [NAME...]``: ours beside other task queues; the table is on stdout.

``make bench-peers`` installs them into DIRECTORY. Each runs as one process with 16 slots on a core of its own, beside a
redis-server on another; who submits has a turn on the worker's core. They take turns in every round.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from benchmarks.machine import HERE, PATIENCE, BenchmarkError, Machine, end, open_machine, pin

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = "benchmarks.peer_programs"
SLOTS = "16"
MARKS = "bench:marks"
MEASURES = ("drain, tasks/s", "many at once, tasks/s", "submit to start, p50, ms")


def _ours(isolation: str) -> dict[str, list[str]]:
    worker = [sys.executable, "-m", "orbiter.cli", "start", "worker", "--concurrency", SLOTS, "--isolation", isolation]
    worker += ["--processes", "1"] if isolation == "process" else []
    worker += ["--worker-id", "measured", "--allow-import", "benchmarks", "--log-level", "warning"]
    return {"worker": worker, "submitter": [sys.executable, "-m", PROGRAMS, "ours"]}


def _commands(directory: Path) -> dict[str, dict[str, list[str]]]:
    """Return how each peer's worker, and who submits to it, are started."""
    programs, python = directory / "bin", str(directory / "bin" / "python")
    workers = {
        "dramatiq": ["dramatiq", f"{PROGRAMS}.dramatiq_tasks", "--processes", "1", "--threads", SLOTS],
        "taskiq": ["taskiq", "worker", f"{PROGRAMS}.taskiq_tasks:broker", "--workers", "1"],
        "huey": ["huey_consumer", f"{PROGRAMS}.huey_tasks.huey", "--workers", SLOTS, "--quiet", "--no-periodic"],
        "streaq": ["streaq", "run", f"{PROGRAMS}.streaq_tasks:worker"],
        "saq": ["saq", f"{PROGRAMS}.saq_tasks.settings", "--quiet"],
    }
    workers["taskiq"] += ["--max-async-tasks", SLOTS, "--log-level", "WARNING"]
    bullmq = ["node", str(HERE / "benchmarks" / "peer_programs" / "bullmq.mjs")]
    return {
        "ours": _ours("none"),
        "ours, isolated": _ours("process"),
        "bullmq": {"worker": [*bullmq, "worker"], "submitter": bullmq},
        **{
            name: {
                "worker": [python, str(programs / command[0]), *command[1:]],
                "submitter": [python, "-m", PROGRAMS, f"{name}_tasks"],
            }
            for name, command in workers.items()
        },
    }


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("names", nargs=-1)
@click.option("--tasks", default=60_000, show_default=True, help="Tasks that a worker drains, a third to warm up.")
@click.option("--waits", default=300, show_default=True, help="Tasks that are submitted one at a time.")
@click.option("--rounds", default=3, show_default=True)
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Also write all."
)
def main(
    directory: Path, names: tuple[str, ...], *, tasks: int, waits: int, rounds: int, json_file: Path | None
) -> None:
    """Measure ours beside the peers that are installed in DIRECTORY; all of them, or those NAMES."""
    commands = _commands(directory.absolute())
    if unknown := set(names) - commands.keys():
        raise click.UsageError(f"{', '.join(sorted(unknown))}: no peer; there are {', '.join(commands)}")
    chosen = names or tuple(commands)
    if "bullmq" in chosen and shutil.which("node") is None:
        raise click.ClickException("node is not installed: BullMQ needs Node.js")
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in chosen}
    try:
        with open_machine() as machine:
            pin(0, machine.server_core)
            for number in range(1, rounds + 1):
                for name in chosen:
                    click.echo(f"{name}: round {number} of {rounds}", err=True)
                    peer = _Peer(machine, commands[name], directory.absolute())
                    found[name].append(peer.measure(tasks, waits))
    except BenchmarkError as error:
        raise click.ClickException(str(error)) from None
    if json_file:
        report = {"date": time.strftime("%Y-%m-%d"), "tasks": tasks, "measures": MEASURES, "rounds": found}
        json_file.write_text(json.dumps(report, indent=2) + "\n")
    click.echo(_table(found))


def _table(found: dict[str, list[tuple[float, ...]]]) -> str:
    lines = ["| | " + " | ".join(MEASURES) + " |", "| --- |" + " --- |" * len(MEASURES)]
    for name, rounds in found.items():
        drain, many, wait = (median(values) for values in zip(*rounds, strict=True))
        rates = " | ".join(f"{rate:,.0f}".replace(",", " ") for rate in (drain, many))
        lines.append(f"| {name} | {rates} | {wait:.2f} |")
    return "\n".join(lines)


class _Peer:
    """One peer on the machine."""

    def __init__(self, machine: Machine, commands: dict[str, list[str]], directory: Path) -> None:
        self._machine = machine
        self._commands = commands
        self._log = machine.directory / "peer.log"
        # Nothing of the environment that the benchmarks were started in changes how any of them works.
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("ORBITER_")}
        self._environment |= {"BENCH_URL": machine.url, "BENCH_PEERS": str(directory), "ORBITER_REDIS_URL": machine.url}
        self._environment["PYTHONPATH"] = str(HERE)

    def measure(self, tasks: int, waits: int) -> tuple[float, ...]:
        """Return the rate of the drain, that of submitting many, and what one task waits; see ``MEASURES``."""
        client = self._machine.client
        client.flushall()
        submitted = self._submit("submit", tasks)
        self._environment |= {"BENCH_WARM": str(tasks // 3), "BENCH_TOTAL": str(tasks)}
        with self._worker() as process:
            deadline = time.monotonic() + PATIENCE
            while client.llen(MARKS) < 2:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BenchmarkError(f"not drained within {PATIENCE:g} s\n{self._log_end()}")
                time.sleep(0.1)
        warm, last = (float(mark) for mark in client.lrange(MARKS, 0, 1))
        client.flushall()
        # Where the queue has to be made before its worker starts, as taskiq's.
        self._submit("submit", 1)
        with self._worker():
            ways = self._submit("idle", waits)
        return (tasks - tasks // 3) / (last - warm), tasks / submitted, median(ways[waits // 10 :])

    def _submit(self, what: str, number: int) -> Any:
        command = [*self._commands["submitter"], what, str(number)]
        with self._log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603
                command, stdout=subprocess.PIPE, stderr=log, env=self._environment, cwd=HERE
            )
        # As one task waits for one process after the other, who submits must not keep the worker from its core then.
        pin(process.pid, self._machine.measured_core if what == "submit" else self._machine.server_core)
        try:
            answer, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"{what}: not within {PATIENCE:g} s\n{self._log_end()}") from None
        finally:
            end(process)
        if process.returncode != 0:
            raise BenchmarkError(f"{what} failed\n{self._log_end()}")
        return json.loads(answer)

    @contextmanager
    def _worker(self) -> Iterator[subprocess.Popen[bytes]]:
        with self._log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603
                self._commands["worker"],
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=HERE,
                start_new_session=True,
            )
        pin(process.pid, self._machine.measured_core)
        try:
            yield process
        finally:
            end(process)
            # Some have processes of their own that outlive the first one.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _log_end(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


if __name__ == "__main__":
    main()
