"""``python -m benchmarks.peers DIRECTORY [NAME...]``: ours beside other task queues; the table is on stdout.

``make bench-peers`` installs them into DIRECTORY. Each runs as one process with 16 slots on a core of its own, beside a
redis-server on another; who submits has a turn on the worker's core. They take turns in every round. ``floor`` is what
bare redis-py takes for the same, as ``python -m benchmarks idle submit`` measures it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from benchmarks import idle, submit
from benchmarks.machine import HERE, PATIENCE, BenchmarkError, Machine, end, open_machine, pin, worker_loop
from benchmarks.report import Measure, summarise, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROGRAMS = "benchmarks.peer_programs"
SLOTS, NAP = 16, 0.1
# Tasks of a nap each; with 16 slots the first end together, and all others after them in four seconds at best.
NAPS = 640
# Tasks that wait, many and few; measured where the difference is of interest, as it takes a while.
MANY_WAIT, FEW_WAIT = 200_000, 10_000
# Tasks a second of a peer that is given up for slower.
SLOWEST = 100
DEEP = ("ours", "bullmq")
MARKS, MOMENTS = "bench:marks", "bench:moments"
DRAIN, SUBMIT, IDLE = "drain, tasks/s", "many at once, tasks/s", "submit to start, p50, ms"
OVERLAP, DEPTH, AGAIN = "overlap, x ideal", "200 000 waiting / 10 000", "killed to running again, s"
MEASURES = (DRAIN, SUBMIT, IDLE, OVERLAP, DEPTH, AGAIN)
SHORT_LEASE = "ours, lease of 3 s"
FLOOR = "floor"


def _ours(isolation: str, *options: str) -> dict[str, list[str]]:
    worker = [sys.executable, "-m", "orbiter.cli", "start", "worker", "--concurrency", f"{SLOTS}"]
    worker += ["--isolation", isolation, *(["--processes", "1"] if isolation == "process" else []), *options]
    # A worker that starts anew under its name takes back at once what it had; another one is what a fleet has.
    worker += ["--worker-id", "{name}", "--allow-import", "benchmarks", "--log-level", "warning"]
    return {"worker": worker, "submitter": [sys.executable, "-m", PROGRAMS, "ours"]}


def _commands(directory: Path) -> dict[str, dict[str, list[str]]]:
    """Return how each peer's worker, and who submits to it, are started."""
    programs, python = directory / "bin", str(directory / "bin" / "python")
    workers = {
        "dramatiq": ["dramatiq", f"{PROGRAMS}.dramatiq_tasks", "--processes", "1", "--threads", f"{SLOTS}"],
        "taskiq": ["taskiq", "worker", f"{PROGRAMS}.taskiq_tasks:broker", "--workers", "1"],
        "huey": ["huey_consumer", f"{PROGRAMS}.huey_tasks.huey", "--workers", f"{SLOTS}", "--quiet", "--no-periodic"],
        "streaq": ["streaq", "run", f"{PROGRAMS}.streaq_tasks:worker"],
        "saq": ["saq", f"{PROGRAMS}.saq_tasks.settings", "--quiet"],
    }
    workers["taskiq"] += ["--max-async-tasks", f"{SLOTS}", "--log-level", "WARNING"]
    bullmq = ["node", str(HERE / "benchmarks" / "peer_programs" / "bullmq.mjs")]
    return {
        "ours": _ours("none"),
        "ours, isolated": _ours("process"),
        SHORT_LEASE: _ours("process", "--heartbeat-ttl", "3"),
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
@click.option("--patience", default=75.0, show_default=True, help="Seconds for a killed worker's task to run again.")
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Also write all."
)
def main(
    directory: Path,
    names: tuple[str, ...],
    *,
    tasks: int,
    waits: int,
    rounds: int,
    patience: float,
    json_file: Path | None,
) -> None:
    """Measure ours beside the peers that are installed in DIRECTORY; all of them, or those NAMES."""
    commands = _commands(directory.absolute())
    known = [*commands, FLOOR]
    if unknown := set(names) - set(known):
        raise click.UsageError(f"{', '.join(sorted(unknown))}: no peer; there are {', '.join(known)}")
    chosen = names or tuple(known)
    if "bullmq" in chosen and shutil.which("node") is None:
        raise click.ClickException("node is not installed: BullMQ needs Node.js")
    found: dict[str, dict[str, list[float | None]]] = {name: defaultdict(list) for name in chosen if name in commands}
    floors: list[list[Measure]] = []
    try:
        with open_machine() as machine:
            pin(0, machine.server_core)
            peers = {name: _Peer(machine, name, commands[name], directory.absolute()) for name in found}
            for number in range(1, rounds + 1):
                for name, peer in peers.items():
                    if name != SHORT_LEASE:
                        click.echo(f"{name}: round {number} of {rounds}", err=True)
                        for measure, value in peer.measure(tasks, waits):
                            found[name][measure].append(value)
                if FLOOR in chosen:
                    click.echo(f"{FLOOR}: round {number} of {rounds}", err=True)
                    floors.append(_floor(machine, tasks, waits))
            for name, peer in peers.items():
                click.echo(f"{name}: its worker is killed", err=True)
                found[name][AGAIN].append(peer.again(patience))
    except BenchmarkError as error:
        raise click.ClickException(str(error)) from None
    beside = summarise(floors)
    if json_file:
        report = {"date": time.strftime("%Y-%m-%d"), "tasks": tasks, "patience": patience, "rounds": found}
        report["floor"] = [row.to_dict() for row in beside]
        json_file.write_text(json.dumps(report, indent=2) + "\n")
    if found:
        click.echo(_table(found, patience))
    if beside:
        click.echo(f"\n{table(beside)}")


def _floor(machine: Machine, tasks: int, waits: int) -> list[Measure]:
    machine = replace(machine, loop=worker_loop(machine))
    return [
        *idle.measure(machine, waits),
        *idle.measure(machine, waits, isolation="process"),
        *submit.measure(machine, tasks // 3),
    ]


def _table(found: dict[str, dict[str, list[float | None]]], patience: float) -> str:
    lines = ["| | " + " | ".join(MEASURES) + " |", "| --- |" + " --- |" * len(MEASURES)]
    for name, values in found.items():
        lines.append(f"| {name} | " + " | ".join(_cell(values.get(one, ()), patience) for one in MEASURES) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float | None], patience: float) -> str:
    """Return the median of what was measured, if anything was."""
    measured = [value for value in values if value is not None]
    if not measured:
        return f"not within {patience:g}" if values else ""
    middle = median(measured)
    return f"{middle:,.0f}".replace(",", " ") if middle >= 100 else f"{middle:.2f}"


def _patience(tasks: int) -> float:
    """Return the seconds after which a peer is given up that has so many tasks to submit or to drain."""
    return PATIENCE + tasks / SLOWEST


class _Peer:
    """One peer on the machine."""

    def __init__(self, machine: Machine, name: str, commands: dict[str, list[str]], directory: Path) -> None:
        self._machine = machine
        self._name = name
        self._commands = commands
        self._log = machine.directory / "peer.log"
        # Nothing of the environment that the benchmarks were started in changes how any of them works.
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("ORBITER_")}
        self._environment |= {"BENCH_URL": machine.url, "BENCH_PEERS": str(directory), "ORBITER_REDIS_URL": machine.url}
        self._environment["PYTHONPATH"] = str(HERE)

    def measure(self, tasks: int, waits: int) -> Iterator[tuple[str, float]]:
        """Measure one round; see ``MEASURES``."""
        submitted, seconds = self._drain("submit", tasks, warm=tasks // 3)
        yield DRAIN, (tasks - tasks // 3) / seconds
        yield SUBMIT, tasks / submitted
        self._clear()
        with self._worker():
            ways = self._submit("idle", waits)
        yield IDLE, median(ways[waits // 10 :])
        _, seconds = self._drain("nap", NAPS, warm=SLOTS)
        yield OVERLAP, seconds / ((NAPS - SLOTS) / SLOTS * NAP)
        if self._name in DEEP:
            rates = [number / self._drain("submit", number, warm=number // 3)[1] for number in (MANY_WAIT, FEW_WAIT)]
            yield DEPTH, rates[0] / rates[1]

    def again(self, patience: float) -> float | None:
        """Kill a worker amid a task and start another; return the seconds until the task runs there, if it does."""
        self._clear()
        with self._worker() as process:
            self._submit("hold", 1)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        killed = time.monotonic()
        with self._worker("another"):
            while time.monotonic() < killed + patience:
                moment: Any = self._machine.client.lpop(MOMENTS)
                if moment:
                    return float(moment) - killed
                time.sleep(0.05)
        return None

    def _clear(self) -> None:
        """Leave nothing but the queue, where that has to be made before its worker starts, as taskiq's."""
        self._machine.client.flushall()
        self._submit("submit", 1)

    def _drain(self, what: str, tasks: int, *, warm: int) -> tuple[float, float]:
        """Submit so many and let a worker drain them; return the seconds of both, the second without the warm-up."""
        client = self._machine.client
        client.flushall()
        submitted = self._submit(what, tasks)
        self._environment |= {"BENCH_WARM": str(warm), "BENCH_TOTAL": str(tasks)}
        patience = _patience(tasks)
        with self._worker() as process:
            deadline = time.monotonic() + patience
            while client.llen(MARKS) < 2:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BenchmarkError(f"{self._name}: not drained within {patience:g} s\n{self._log_end()}")
                time.sleep(0.1)
        first, last = (float(mark) for mark in client.lrange(MARKS, 0, 1))
        return submitted, last - first

    def _submit(self, what: str, number: int) -> Any:
        command = [*self._commands["submitter"], what, str(number)]
        with self._log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603
                command, stdout=subprocess.PIPE, stderr=log, env=self._environment, cwd=HERE
            )
        # As one task waits for one process after the other, who submits must not keep the worker from its core then.
        pin(process.pid, self._machine.measured_core if what == "submit" else self._machine.server_core)
        try:
            answer, _ = process.communicate(timeout=_patience(number))
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"{what}: not within {_patience(number):g} s\n{self._log_end()}") from None
        finally:
            end(process)
        if process.returncode != 0:
            raise BenchmarkError(f"{what} failed\n{self._log_end()}")
        return json.loads(answer)

    @contextmanager
    def _worker(self, name: str = "measured") -> Iterator[subprocess.Popen[bytes]]:
        with self._log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603
                [word.format(name=name) for word in self._commands["worker"]],
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
