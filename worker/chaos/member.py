"""A place in the fleet: a worker's id, and the process that has it now."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
from tests.support import WORKER_DIRECTORY, environment

from orbiter.dev.tied import tied

SLOTS = 8
SETTINGS = ["--retry-backoff", "0.2", "--stall-timeout", "2", "--log-level", "info"]
SETTINGS += ["--max-rss-per-process", "400000000"]
# A group's masters hand over again and again: who starts meanwhile waits for the end of it, as the next start would.
SETTINGS += ["--connect-timeout", "180"]
# Of the workers, in order: how many executor processes each has.
ISOLATION = (("--processes", "1"), ("--processes", "2"), ("--processes", "1"), ("--processes", "2"))
# It has a sitecustomize.py, by which a process' clock is wrong.
WRONG_CLOCK = Path(__file__).parent / "wrong_clock"


@dataclass(frozen=True)
class Surroundings:
    """What members have in common.

    Attributes:
        directory: Where logs and notes go.
        options: Of their command, besides each one's own.
        env: Variables besides.
        shifting: Whether their clocks may be shifted.
        older: Sources of another release, which members run in turn with ours; ``None`` where none do.
    """

    directory: Path
    options: tuple[str, ...]
    env: dict[str, str]
    shifting: bool = False
    older: Path | None = None


class Member:
    """One of them.

    Attributes:
        name: Its worker's id.
        log: What its processes have printed.
        asked: Which signals its process was sent.
        process: The one that it has now.
        runs_older: Whether the next process is of the other release.
    """

    def __init__(self, number: int, url: str, around: Surroundings) -> None:
        self.name = f"w{number}"
        self.log = around.directory / f"{self.name}.log"
        self.asked: list[str] = []
        self.runs_older = False
        self._around = around
        self._clock = around.directory / f"{self.name}.clock"
        command = [sys.executable, "-m", "orbiter.cli", "start", "worker", "--worker-id", self.name]
        command += ["--redis-url", url, "--concurrency", str(SLOTS), "--allow-import", "chaos.jobs"]
        self._command = tied([*command, *SETTINGS, *around.options, *ISOLATION[number]], signal.SIGKILL)
        self.shift(0)
        self.start()

    def start(self) -> None:
        """Start its process, the first or another one."""
        self.asked = []
        env = environment(RUN_NOTES=str(self._around.directory / "notes"), RUN_NOTES_BY=self.name, **self._around.env)
        path = [str(self._around.older), str(WORKER_DIRECTORY)] if self.runs_older else []
        if self._around.shifting:
            # Monotonic time is left alone: by it runs note when they were.
            path.append(str(WRONG_CLOCK))
            env["WRONG_CLOCK"] = str(self._clock)
        if path:
            env["PYTHONPATH"] = os.pathsep.join(filter(None, [*path, env.get("PYTHONPATH")]))
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(self._command, stdout=output, stderr=output, env=env, cwd=WORKER_DIRECTORY)

    def send(self, number: signal.Signals) -> bool:
        """Send it a signal; tell whether it was there."""
        if self.process.poll() is not None:
            return False
        self.asked.append(number.name)
        self.process.send_signal(number)
        return True

    def shift(self, seconds: float) -> None:
        """Let its clock be wrong by so much from now on."""
        self._clock.write_text(f"{seconds:+.3f}\n")

    def executors(self) -> list[psutil.Process]:
        """Return its executor processes."""
        with contextlib.suppress(psutil.Error):
            found: list[psutil.Process] = psutil.Process(self.process.pid).children()
            return found
        return []
