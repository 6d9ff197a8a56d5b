"""ExecutorProcess: one executor process, as its supervisor sees it: start, frames, output, death."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from pydantic_core import from_json, to_json

from orbiter.distributed.execution.endings import Completed, Failed
from orbiter.distributed.execution.processes.cgroups import OutOfMemory
from orbiter.distributed.execution.processes.child_log import CREDIT, KEPT
from orbiter.distributed.execution.processes.frames import (
    DURABLE,
    LARGEST_OTHER,
    LARGEST_REPORT,
    LARGEST_STEP,
    MOMENT,
    NUMBER,
    START,
    Channel,
    FrameError,
    FrameLimit,
    Kind,
    name_of,
)
from orbiter.distributed.execution.processes.printed import PRINTED, PrintedLines
from orbiter.distributed.execution.report import unpacked
from orbiter.distributed.models import event_from_json
from orbiter.distributed.names import check_whole_queue_name
from orbiter.distributed.plain_json import check_depth, check_numbers
from orbiter.distributed.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orbiter.distributed.errors import RunError
    from orbiter.distributed.execution.endings import Execution
    from orbiter.distributed.execution.interface import Log
    from orbiter.distributed.execution.processes.cgroups import Cgroup
    from orbiter.distributed.execution.slot import Slot
    from orbiter.distributed.runtimes import Journal

logger = logging.getLogger(__name__)

MODULE = "orbiter.distributed.execution.processes.child"
# Never in the environment of tasks: the worker's settings and credentials, and what systemd tells a service.
WITHHELD = ("ORBITER_", "TEMPORAL_", "WATCHDOG_", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "LISTEN_")
LINES_A_SECOND = 1000
READ_AT_ONCE = 65_536
# What a process had written before it died is read for so long at most.
LAST_WORDS_WITHIN = 0.5
# Frames that are not events, of one process within a second; more are no mistake.
FRAMES_A_SECOND = 200
# Largest bodies, bytes. Results and events have theirs from the settings, all others have next to none.
SIZES = {
    Kind.FAILED: LARGEST_REPORT,
    Kind.TICK: LARGEST_REPORT,
    Kind.IMPORTED: LARGEST_REPORT,
    Kind.APPEND: LARGEST_STEP + NUMBER.size,
    Kind.SAVE: LARGEST_STEP,
}
APPENDS_AT_ONCE = 64
# What a process may say that its tasks have submitted since it last said so: queues and agents, tasks of each.
QUEUES, MOST_SUBMITTED = 20, 1e6
# A number that it says is no larger, whatever it counts.
MOST = 10**9


def environment_of_tasks(environ: Mapping[str, str], secrets: tuple[str, ...]) -> dict[str, str]:
    """Return what tasks may see of the worker's environment.

    Args:
        environ: The worker's.
        secrets: Passwords and the like: no variable that holds one of them is passed on.
    """
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(WITHHELD) and not any(secret in value for secret in secrets)
    }


class KeptSteps(Protocol):
    """A journal that a process border lies in front of."""

    def kept(self) -> tuple[Any, Mapping[str, Any]]:
        """Return the checkpoint, and the steps that earlier runs have finished, by key."""


class Run:
    """One run in an executor process, on the supervisor's side.

    Attributes:
        number: Its number, which no other run of this worker has.
        slot: The claim.
        end: How it ends: an ending, or ``None`` where it was cancelled.
        asked: When it was told to stop (monotonic), 0 before.
        deaf: Its coroutine has ended, but not its threads; or it does not answer.
        released: Nobody waits for it any more.
        importing: The module that it was importing when it was told to stop.
        instead: What it ends in once it has stopped.
    """

    __slots__ = (
        *("asked", "deaf", "end", "importing", "in_flight", "instead", "journal", "log", "number", "released", "slot"),
        "appends",
    )

    def __init__(self, number: int, slot: Slot, log: Log, journal: Journal | None) -> None:
        self.number = number
        self.slot = slot
        self.log = log
        self.journal = journal
        self.end: asyncio.Future[Execution | None] = asyncio.get_running_loop().create_future()
        self.asked = 0.0
        self.deaf = False
        self.released = False
        self.importing = ""
        self.instead: Execution | None = None
        self.in_flight = 0
        self.appends = 0

    def over(self, ending: Execution | None) -> None:
        """End it for whoever waits."""
        if not self.end.done():
            self.end.set_result(ending)


class Owner(Protocol):
    """Who keeps executor processes: the pool."""

    def ready(self, process: ExecutorProcess) -> None:
        """Take note that a process can run tasks."""

    def ended(self, process: ExecutorProcess, run: Run, ending: Execution | None) -> None:
        """Take note that a run has ended in its process; ``None``: it was cancelled."""

    def died(self, process: ExecutorProcess) -> None:
        """Take note that a process has died, and all it had said was read."""

    def blocked(self, process: ExecutorProcess, seconds: float, run: int, where: str) -> None:
        """Take note that the loop of a process has not turned for so long."""

    def imported(self, process: ExecutorProcess, module: str, reason: str) -> None:
        """Take note that a module was imported, or why it could not be (``""``: it was)."""

    def spoiled(self, process: ExecutorProcess, reason: str) -> None:
        """Take note that a process is no good for more tasks."""


class ExecutorProcess:
    """One executor process.

    Args:
        number: Which one of this worker, from 1.
        single: Whether it runs one task at a time.
        config: What it is told first.
        env: Its environment.
        owner: Told what becomes of it.
        cgroup: What is to hold it and all that its tasks start, where there is one.
        clock: Monotonic seconds.

    Attributes:
        runs: What runs in it, by number.
        started: How many runs were started in it.
        retired: It takes no more runs.
        up: It can run tasks.
        heard: When its loop last turned (monotonic).
        grown: The run that has made it grow most while it was large, and by how many bytes.
        killed_for: Why the supervisor has killed it, ``""`` where it has not.
    """

    def __init__(
        self,
        number: int,
        *,
        single: bool,
        config: dict[str, Any],
        env: Mapping[str, str],
        owner: Owner,
        cgroup: Cgroup | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.number = number
        self.single = single
        self.cgroup = cgroup
        self.runs: dict[int, Run] = {}
        self.started = 0
        self.retired = self.up = self.finishing = False
        self.born = self.heard = clock()
        self.lag = 0.0
        self.ended_last = 0.0
        self.threads = 0
        self.grown = (0, 0)
        self.resident = 0
        self.baseline = 0
        self.blocked_run = 0
        self.blocked_at = ""
        self.killed_for = ""
        self.guilty = 0
        # Killed for another reason than what ran in it: that runs again, uncharged.
        self.replaced = False
        self.too_large = self.scanned_large = False
        # A run was stopped for making it grow: what else runs in it is not to blame.
        self.grower_known = False
        self.large_since = self.finish_by = self.end_by = 0.0
        self.importing: dict[str, float] = {}
        self.not_imported = set(config.get("preload", ()))
        self.status: int | None = None
        self.gone = asyncio.Event()
        self.last_lines: list[str] = []
        self._config = config
        self._env = env
        self._owner = owner
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._work: Channel | None = None
        self._guard: Channel | None = None
        self._open = 0
        self._leased = 0.0
        self._all_read = asyncio.Event()
        self._dead = False
        self._limit = FrameLimit(clock)
        self._asides: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Start it; it says itself when it is ready.

        Raises:
            OSError: No process could be started.
        """
        ours, theirs = socket.socketpair()
        guard, its_guard = socket.socketpair()
        reading, writing = os.pipe()
        descriptors = theirs.fileno(), its_guard.fileno()
        command = [sys.executable, "-P", "-m", MODULE, *map(str, descriptors), str(os.getpid())]
        try:
            # From the loop's thread, which lives as long as the worker: the death signal belongs to it.
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - a few milliseconds; the command is our own
                command,
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env=dict(self._env),
                pass_fds=descriptors,
                start_new_session=True,
            )
        except OSError:
            for end in (ours, guard):
                end.close()
            os.close(reading)
            raise
        finally:
            for end in (theirs, its_guard):
                end.close()
            os.close(writing)
        self.pid = self._process.pid
        os.set_blocking(reading, False)
        self._output = reading
        self._lines = PrintedLines(self._printed, rate=LINES_A_SECOND, clock=self._clock)
        self._loop.add_reader(reading, self._read_output)
        self._watch_for_death()
        self._open = 2
        if self.cgroup is not None:
            # Before it is told what to import. In a thread: the kernel may take tens of milliseconds.
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self.cgroup.add, self.pid)
        self._guard = await Channel.open(guard, self._from_guard, self._closed, largest=LARGEST_OTHER)
        self._guard.send(Kind.CONFIGURE, 0, to_json(self._config))
        self._guard.flush()
        sizes = SIZES | {
            Kind.COMPLETED: self._config["max_result_bytes"],
            Kind.EVENTS: max(self._config["max_event_bytes"], LARGEST_REPORT),
        }
        self._work = await Channel.open(ours, self._received, self._closed, largest=LARGEST_OTHER, sizes=sizes)

    # -- what it is told -------------------------------------------------------------------------------------------

    def begin(self, run: Run, payload: bytes) -> None:
        """Start a run."""
        claim = run.slot.claim
        self.runs[run.number] = run
        self.started += 1
        kept, flags = b"", 0
        if run.journal is not None:
            flags, kept = DURABLE, to_json(run.journal.kept())  # type: ignore[attr-defined]
        body = START.pack(claim.attempt, flags, len(kept)) + kept + payload
        self._work.send(Kind.START, run.number, body)  # type: ignore[union-attr]

    def flush(self) -> None:
        """Send now what would be sent a little later."""
        if self._work is not None:
            self._work.flush()

    def cancel(self, run: Run) -> None:
        """Ask a run to stop."""
        run.asked = self._clock()
        if self._work is not None:
            self._work.send(Kind.CANCEL, run.number)

    def give_credit(self, run: Run, size: int) -> None:
        """Let a run send more events: Redis has taken some."""
        log = run.slot.log
        size = run.in_flight if not log.backlog else min(size, run.in_flight)
        if size > 0 and run.number in self.runs and self._work is not None:
            run.in_flight -= size
            self._work.send(Kind.CREDIT, run.number, NUMBER.pack(size))

    def lease(self, until: float) -> None:
        """Tell until when it may live (monotonic) should it hear nothing more; 0 is for ever."""
        if self._guard is not None and not self._guard.backlog():
            self._leased = until
            self._guard.send(Kind.LEASE, 0, MOMENT.pack(until))

    def lease_no_longer(self, until: float) -> None:
        """Tell it now what a run that is about to begin may take: its supervisor may be frozen the next moment."""
        if not self._leased or until < self._leased:
            self.lease(until)

    def finish(self) -> None:
        """Let it end by itself."""
        self.retired = self.finishing = True
        if self._work is not None:
            self._work.send(Kind.FINISH)

    def kill(self, reason: str = "") -> None:
        """Kill it, and what its tasks have started."""
        self.retired = True
        self.killed_for = self.killed_for or reason
        if self.status is None:
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
            if self.cgroup is not None:
                self.cgroup.kill()

    # -- what it says ----------------------------------------------------------------------------------------------

    def _received(self, kind: int, number: int, body: bytes) -> None:
        run = self.runs.get(number)
        match kind:
            case Kind.COMPLETED if run:
                self._ended(run, Completed(self._result(body)))
            case Kind.FAILED if run:
                self._ended(run, Failed(_error(body)))
            case Kind.EVENTS | Kind.SPENT if run:
                (self._event if kind == Kind.EVENTS else self._spent)(run, body)
            case Kind.TICK:
                self._tick(body)
            case Kind.CANCELLED if run:
                self._ended(run, None)
            case Kind.DEAF if run:
                run.deaf, run.importing = True, body.decode("utf-8", "replace")[:200]
            case Kind.READY if not self.up:
                self.up, self.heard = True, self._clock()
                self._owner.ready(self)
            case Kind.APPEND if run and run.journal and run.appends < APPENDS_AT_ONCE:
                self._append(run, body)
            case Kind.SAVE if run and run.journal:
                self._count()
                run.journal.save(_json(body))
            case Kind.IMPORTING | Kind.IMPORTED | Kind.SPOILED:
                self._about_process(kind, body)
            case Kind.EVENTS | Kind.SPENT | Kind.SAVE | Kind.APPEND | Kind.DEAF if number:
                raise FrameError(f"a frame ({name_of(kind)}) for a run that it does not hold")
            case _:
                raise FrameError(f"a frame ({name_of(kind)}) for run {number}, which it may not send")

    @staticmethod
    def _result(body: bytes) -> str:
        value = _json(body)
        if value is not None and not isinstance(value, dict):
            raise FrameError("a result that is no object")
        text = body.decode()
        try:
            check_numbers(text, length=True)
            check_depth(value, text)
        except ValueError as error:
            raise FrameError(f"a result that not everybody could read: {error}") from error
        return text

    def _ended(self, run: Run, ending: Execution | None) -> None:
        del self.runs[run.number]
        if not self.runs:
            self.ended_last = self._clock()
        self._owner.ended(self, run, ending)

    def _event(self, run: Run, body: bytes) -> None:
        run.in_flight += len(body)
        if run.in_flight > (CREDIT + KEPT) * 6:
            raise FrameError("more events than it had credit for")
        try:
            event = event_from_json(body)
        except ValueError as error:
            raise FrameError("an event that cannot be read") from error
        run.log.emit(event)
        log = run.slot.log
        if log.closed or log.on_sent is None:
            self.give_credit(run, len(body))

    def _spent(self, run: Run, body: bytes) -> None:
        self._count()
        try:
            model, agent, tokens_in, tokens_out = _json(body)
            run.log.spend(str(model), str(agent), int(tokens_in), int(tokens_out))
        except (TypeError, ValueError, OverflowError) as error:
            raise FrameError("a usage that cannot be read") from error

    def _tick(self, body: bytes) -> None:
        self._count()
        try:
            lag, threads, grower, grown, submitted = _json(body)
            lag, threads, grower, grown = int(lag * 10) / 10, _number(threads), int(grower), int(grown)
            for queue, agent, number in submitted[:QUEUES]:
                metrics.SUBMITTED.add(
                    min(max(0.0, float(number)), MOST_SUBMITTED), check_whole_queue_name(queue), str(agent)
                )
        except (TypeError, ValueError, OverflowError) as error:
            raise FrameError("a tick that cannot be read") from error
        self.lag, self.threads, self.grown = min(lag, MOST), threads, (grower, grown)
        self.heard = self._clock()
        self.blocked_run, self.blocked_at = 0, ""

    def _append(self, run: Run, body: bytes) -> None:
        if len(body) < NUMBER.size:
            raise FrameError("a step that cannot be read")
        (request,) = NUMBER.unpack_from(body)
        content = _json(body[NUMBER.size :])
        if not (isinstance(content, list) and len(content) == 2 and isinstance(content[0], str)):
            raise FrameError("a step that cannot be read")
        run.appends += 1

        async def keep() -> None:
            try:
                await run.journal.append(content[0], content[1])  # type: ignore[union-attr]
            finally:
                run.appends -= 1
            if self._work is not None and run.number in self.runs:
                self._work.send(Kind.KEPT, run.number, NUMBER.pack(request))

        task = asyncio.create_task(keep())
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    def _about_process(self, kind: int, body: bytes) -> None:
        self._count()
        if kind == Kind.SPOILED:
            self._owner.spoiled(self, body.decode("utf-8", "replace")[:200])
            return
        if kind == Kind.IMPORTING:
            self.importing[self._preloaded(body.decode("utf-8", "replace"))] = self._clock()
            return
        try:
            module, reason = _json(body)
        except (TypeError, ValueError) as error:
            raise FrameError("an import that cannot be read") from error
        module = self._preloaded(module)
        self.importing.pop(module, None)
        self.not_imported.discard(module)
        self._owner.imported(self, module, str(reason)[:1000])

    def _preloaded(self, module: object) -> str:
        # Each one is kept and shown: others, without end, are not.
        if module not in self._config["preload"]:
            raise FrameError("an import that it was not asked for")
        return str(module)

    def _from_guard(self, kind: int, _: int, body: bytes) -> None:
        self._count()
        if kind != Kind.BLOCKED:
            raise FrameError(f"a frame ({name_of(kind)}) from the guard")
        try:
            seconds, run, where = _json(body)
            seconds, run = _number(seconds), int(run)
        except (TypeError, ValueError, OverflowError) as error:
            raise FrameError("a report of a blocked loop that cannot be read") from error
        self.blocked_run, self.blocked_at = run, str(where)[:500]
        self._owner.blocked(self, seconds, run, self.blocked_at)

    def _count(self) -> None:
        self._limit.count(FRAMES_A_SECOND + 20 * len(self.runs))

    # -- its output ------------------------------------------------------------------------------------------------

    def _read_output(self) -> None:
        try:
            data = os.read(self._output, READ_AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._lines.feed(data)
        else:
            self._loop.remove_reader(self._output)

    def _printed(self, task_id: str, level: int, name: str, text: str, traceback: str = "") -> None:
        if not self.up:
            self.last_lines = [*self.last_lines[-4:], f"{text}\n{traceback}".rstrip()]
        log = logging.getLogger(name or PRINTED)
        if log.isEnabledFor(level):
            extra = {"task_id": task_id or None}
            record = log.makeRecord(log.name, level, "", 0, "%s", (text,), None, extra=extra)
            record.exc_text = traceback or None
            log.handle(record)

    # -- its death -------------------------------------------------------------------------------------------------

    def _closed(self, error: BaseException | None) -> None:
        self._open -= 1
        if isinstance(error, FrameError):
            logger.error("executor process %d is ended: it sent %s", self.number, error)
            self.kill(f"sent {error}")
        if self._open == 0:
            self._all_read.set()

    def _watch_for_death(self) -> None:
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            # Not on every platform.
            def wait() -> None:
                self._process.wait()
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._exited)

            threading.Thread(target=wait, name=f"orbiter-wait-{self.number}", daemon=True).start()
            return
        self._loop.add_reader(self._pidfd, self._pid_ready)

    def _pid_ready(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._exited()

    def _exited(self) -> None:
        # What its tasks have started goes with it; the group's id is not free before it is reaped.
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        self.status = self._process.wait()
        if self.cgroup is not None:
            self._judge(self.cgroup)
            self.cgroup.kill()
        task = asyncio.create_task(self._collect())
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    def _judge(self, cgroup: Cgroup) -> None:
        """Tell whether the kernel has ended it for want of memory."""
        whose = cgroup.out_of_memory() if self.status == -signal.SIGKILL and not self.killed_for else None
        if whose is OutOfMemory.OWN:
            self.too_large = True
            limit = f"{cgroup.memory / 1e6:.0f} MB (from ORBITER_MAX_RSS_PER_PROCESS)"
            self.killed_for = f"ran out of memory: the kernel has ended it at its limit of {limit}"
        elif whose is OutOfMemory.OUTER:
            # By a limit that it shares with others: nothing of it is to blame.
            self.killed_for = (
                "ran out of memory: the kernel has ended it at the limit of its worker (MemoryMax), or of the host"
            )

    async def _collect(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_WITHIN):
                await self._all_read.wait()
        self.retired = True
        for channel in (self._work, self._guard):
            if channel is not None:
                channel.close()
        self._read_output()
        self._loop.remove_reader(self._output)
        self._lines.end()
        os.close(self._output)
        self.gone.set()
        self._owner.died(self)

    def how(self) -> str:
        """Return how it ended, in words."""
        if self.killed_for:
            return self.killed_for
        status = self.status or 0
        if status >= 0:
            return f"exited with status {status}"
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
        return f"was killed by signal {-status}"


def _error(body: bytes) -> RunError:
    try:
        return unpacked(body)
    except (ValueError, TypeError) as error:
        raise FrameError("an error that cannot be read") from error


def _number(value: Any) -> int:
    """Return what a process counts, as a number that can be shown and sent on."""
    return max(0, min(int(value), MOST))


def _json(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError as error:
        raise FrameError("text that is not JSON") from error
