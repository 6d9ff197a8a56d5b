"""An executor process: ``python -m orbiter.distributed.execution.processes.child``. It runs tasks and knows no Redis.

Its main thread runs the event loop. A second thread, the guard, ends the process with its supervisor and with its
lease, and tells what blocks the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from orbiter.distributed import signals
from orbiter.distributed.errors import ConfigurationError
from orbiter.distributed.execution.in_process import InProcessExecutor
from orbiter.distributed.execution.processes.baseline import Baseline
from orbiter.distributed.execution.processes.child_log import ChildLog
from orbiter.distributed.execution.processes.frames import (
    DURABLE,
    HEADER,
    LARGEST_STEP,
    MOMENT,
    NUMBER,
    START,
    Channel,
    Frames,
    Kind,
    pack,
)
from orbiter.distributed.execution.processes.printed import TASK_ID, RecordHandler, TaggedStream
from orbiter.distributed.execution.report import packed
from orbiter.distributed.models import TaskPayload
from orbiter.distributed.runtimes import CancellationToken
from orbiter.distributed.runtimes.imports import IMPORTING, ImportGuard
from orbiter.distributed.runtimes.model_guard import ModelGuard
from orbiter.distributed.runtimes.task_limits import TaskLimits
from orbiter.distributed.runtimes.threads import abandoned, threads_of
from orbiter.distributed.runtimes.user_code import RUN, Contained, containing, frames_of_user_code, stepping
from orbiter.distributed.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

logger = logging.getLogger(__name__)

# What a callable is called through, in the loop or in a thread.

_PR_SET_PDEATHSIG = 1
LOOK_EVERY = 0.5
# The loop is silent for so long before anybody is told; then again each time it has doubled.
BLOCKED_AFTER = 1.0
# C code that holds the interpreter keeps the guard from looking: Python's own watchdog writes down where.
DUMP_AFTER = 10.0
ANSWER_TO_CANCEL = 0.05
# The supervisor is believed: the operator may allow tasks of any size.
LARGEST_FRAME = 2**32 - 1
# Of 1000: as if half of the host's memory were its own.
OOM_SCORE = "500"


class ChildJournal:
    """What outlives a run, kept by the supervisor."""

    def __init__(self, runner: Runner, run: int, checkpoint: Any, steps: dict[str, Any]) -> None:
        self.checkpoint = checkpoint
        self._runner = runner
        self._run = run
        self._steps = steps
        self._scopes: dict[str, int] = {}
        self._kept: dict[int, asyncio.Future[None]] = {}
        self._asked = 0

    def scope(self, name: str) -> str:
        """Return a name for steps, another one at each call."""
        self._scopes[name] = self._scopes.get(name, 0) + 1
        return f"{name} {self._scopes[name]}"

    def replay(self, key: str) -> Any:
        """Return what an earlier run kept of a step, or ``None``."""
        return self._steps.get(key)

    async def append(self, key: str, value: Any) -> None:
        """Keep what a step gave; returns once the supervisor has kept it. What is too large is not, and runs again.

        Raises:
            RuntimeError: The run is over: a coroutine that it has started goes on.
        """
        if self._run not in self._runner.runs:
            raise RuntimeError(f"the run is over: nothing is kept of {key!r}")
        step = to_json([key, value])
        if len(step) > LARGEST_STEP:
            logger.warning("step not journaled: %s has %d bytes, the most is %d", key, len(step), LARGEST_STEP)
            return
        self._asked += 1
        kept = self._kept[self._asked] = asyncio.get_running_loop().create_future()
        self._runner.channel.send(Kind.APPEND, self._run, NUMBER.pack(self._asked) + step)
        await kept

    def kept(self, number: int) -> None:
        """Take note that a step is kept."""
        if (waiting := self._kept.pop(number, None)) and not waiting.done():
            waiting.set_result(None)

    def save(self, checkpoint: Any) -> None:
        """Keep a checkpoint, JSON; callable from any thread.

        Raises:
            ConfigurationError: It is not JSON, or larger than Temporal takes.
        """
        from orbiter.distributed.plain_json import json_text  # noqa: PLC0415 - durable runs only

        body = json_text(checkpoint, "the checkpoint").encode()
        if len(body) > LARGEST_STEP:
            raise ConfigurationError(
                f"checkpoint: {len(body)} bytes as JSON are more than the {LARGEST_STEP} that it may have; store the"
                " data elsewhere and save its place"
            )
        self.checkpoint = checkpoint
        self._runner.loop.call_soon_threadsafe(self._send_checkpoint, body)

    def _send_checkpoint(self, body: bytes) -> None:
        # A thread of a run that is over may still call: the supervisor takes nothing of it any more.
        if self._run in self._runner.runs:
            self._runner.channel.send(Kind.SAVE, self._run, body)


class ChildRun:
    """One run, in its executor process."""

    def __init__(self, number: int, task: TaskPayload, log: ChildLog, journal: ChildJournal | None) -> None:
        self.number = number
        self.task = task
        self.log = log
        self.journal = journal
        self.token = CancellationToken()
        self.work: asyncio.Task[Any] | None = None


class Runner:
    """Runs what the supervisor sends.

    Args:
        config: What the supervisor said first.
        loop: The event loop.
    """

    def __init__(self, config: dict[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.channel: Channel
        self.runs: dict[int, ChildRun] = {}
        self._largest_event = config["max_event_bytes"]
        self.guard = ImportGuard(
            config["allow_import"],
            refused=config["bad_imports"],
            models=ModelGuard(config["allow_models"]),
            limits=TaskLimits(**config["limits"]),
        )
        self._executor = InProcessExecutor(
            self.guard,
            queue=config["queue"],
            worker_id=config["worker_id"],
            max_result_bytes=config["max_result_bytes"],
        )
        self._tracebacks = config.get("tracebacks", False)
        self._finishing = False
        self._baseline = Baseline()
        self._spoiled = False

    def received(self, kind: int, number: int, body: bytes) -> None:
        """Do what the supervisor says."""
        match kind:
            case Kind.START:
                self._start(number, body)
            case Kind.CANCEL:
                self._cancel(number)
            case Kind.CREDIT:
                if run := self.runs.get(number):
                    run.log.give(NUMBER.unpack(body)[0])
            case Kind.KEPT:
                if (run := self.runs.get(number)) and run.journal:
                    run.journal.kept(NUMBER.unpack(body)[0])
            case Kind.FINISH:
                self.loop.call_soon(self.loop.stop)
                self._finishing = True

    @property
    def finishing(self) -> bool:
        """Whether the supervisor wants this process to end."""
        return self._finishing

    def _start(self, number: int, body: bytes) -> None:
        attempt, flags, kept = START.unpack_from(body)
        at = START.size + kept
        log = ChildLog(self.channel, number, self._largest_event, self.loop)
        try:
            task = TaskPayload.from_json(body[at:].decode())
        except Exception as error:  # noqa: BLE001 - told to the supervisor
            self.channel.send(Kind.FAILED, number, packed(error))
            return
        journal = None
        if flags & DURABLE:
            journal = ChildJournal(self, number, *from_json(body[START.size : at]))
        run = self.runs[number] = ChildRun(number, task, log, journal)
        RUN.set(number)
        TASK_ID.set(task.task_id)
        work = self._executor.run_task(task, attempt, log, run.token, journal)
        run.work = self.loop.create_task(Contained(work))
        run.work.add_done_callback(lambda work: self._ended(run, work))

    def _ended(self, run: ChildRun, work: asyncio.Task[Any]) -> None:
        number = run.number
        if self.runs.pop(number, None) is None:
            return
        run.log.close()
        # Before the outcome: what comes next must not come here.
        self.report_spoiled(self._baseline.spoiled())
        if work.cancelled():
            if number in stepping.grown:
                # What it was stopped for may hang on cycles of the cancellation's traceback.
                self.loop.call_soon(gc.collect)
            self._when_over(run)
        elif (error := work.exception()) is not None:
            shown = self._tracebacks and run.task.agent_config.get("runtime") == "callable"
            if shown and (frames := frames_of_user_code(error)):
                exc_info = (type(error), error, frames)
                logger.warning("the task raised", exc_info=exc_info, extra={"task_id": run.task.task_id})
            self.channel.send(Kind.FAILED, number, packed(error))
        else:
            self.channel.send(Kind.COMPLETED, number, work.result().text.encode())

    def look(self) -> None:
        """Look at what costs a little, now and then."""
        self.report_spoiled(self._baseline.spoiled() or self._baseline.crowded())

    def report_spoiled(self, reason: str) -> None:
        """Tell the supervisor, once, that this process should get no more tasks."""
        if reason and not self._spoiled:
            self._spoiled = True
            self.channel.send(Kind.SPOILED, 0, reason.encode())

    def _when_over(self, run: ChildRun) -> None:
        """Say that a run was cancelled, once its threads have ended; where they do not, the supervisor sees to it."""
        if threads_of(run.number):
            self.channel.send(Kind.DEAF, run.number, (IMPORTING.get(run.number) or "")[:200].encode())
            self.loop.call_later(ANSWER_TO_CANCEL, self._wait_for_threads, run.number)
            return
        self.channel.send(Kind.CANCELLED, run.number)

    def _wait_for_threads(self, number: int) -> None:
        if threads_of(number):
            self.loop.call_later(ANSWER_TO_CANCEL, self._wait_for_threads, number)
        else:
            self.channel.send(Kind.CANCELLED, number)

    def _cancel(self, number: int) -> None:
        run = self.runs.get(number)
        if run is not None and run.work is not None:
            run.token.cancel()
            run.work.cancel()


class Guard(threading.Thread):
    """Ends the process with its supervisor or its lease, and tells what blocks the loop.

    Args:
        end: This process' end of the guard's socket pair.
        runner: What runs.
        rest: What had come behind the first frame.
    """

    def __init__(self, end: socket.socket, runner: Runner, rest: bytes) -> None:
        super().__init__(name="orbiter-guard", daemon=True)
        self._end = end
        self._runner = runner
        self._frames = Frames(1000)
        self._rest = rest
        self._lease = 0.0
        self._asked = self._answered = time.monotonic()
        self._reported = 0.0
        self._loop_thread = threading.get_ident()
        self._dumping = 0.0

    def run(self) -> None:
        """Watch, until the process ends."""
        self._take(self._rest)
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        while True:
            wait = LOOK_EVERY
            if self._lease:
                wait = max(0.0, min(wait, self._lease - time.monotonic()))
            if poll.poll(wait * 1000):
                try:
                    data = self._end.recv(65536)
                except OSError:
                    data = b""  # user code has closed it
                if not data:
                    self._die()
                self._take(data)
            now = time.monotonic()
            if self._lease and now >= self._lease:
                self._die()
            self._watch(now)

    def _take(self, data: bytes) -> None:
        for kind, _, body in self._frames.cut(data):
            if kind == Kind.LEASE:
                self._lease = MOMENT.unpack(body)[0]

    @staticmethod
    def _die() -> None:
        """End this process and what its tasks have started: nobody watches over them any more."""
        with contextlib.suppress(OSError):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    def _watch(self, now: float) -> None:
        if self._answered >= self._asked:
            self._asked, self._reported = now, BLOCKED_AFTER
            self._runner.loop.call_soon_threadsafe(self._answer)
            if now - self._dumping > LOOK_EVERY * 2:
                self._dumping = now
                faulthandler.dump_traceback_later(DUMP_AFTER, exit=False)
            return
        silent = now - self._asked
        faulthandler.cancel_dump_traceback_later()
        self._dumping = 0.0
        if silent >= self._reported:
            self._reported = max(self._reported * 2, silent)
            run = stepping.run
            frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - what there is
            report = [round(silent, 1), run, self._where(frame)[-500:]]
            with contextlib.suppress(OSError):
                self._end.sendall(pack(Kind.BLOCKED, run, to_json(report)))

    def _answer(self) -> None:
        """On the loop: it turns."""
        self._answered = time.monotonic()
        lag = self._answered - self._asked
        stepping.look()
        self._runner.look()
        grown = stepping.grown
        top = max(grown, key=lambda run: grown[run]) if grown else 0
        submitted = metrics.SUBMITTED.values()
        metrics.SUBMITTED.clear()
        counted = [[*labels, number] for labels, number in submitted.items() if number]
        report = [round(lag * 1000, 1), abandoned(), top, grown.get(top, 0), counted]
        self._runner.channel.send(Kind.TICK, 0, to_json(report))

    def _where(self, frame: FrameType | None) -> str:
        innermost = frame
        while frame is not None:
            if self._runner.guard.allows(str(frame.f_globals.get("__name__", ""))):
                return f"{frame.f_code.co_filename}:{frame.f_lineno}"
            frame = frame.f_back
        return f"{innermost.f_code.co_filename}:{innermost.f_lineno}" if innermost else ""


def _preload(runner: Runner, modules: list[str]) -> None:
    """Import what the operator allowed, each in a thread of its own: a slow one delays nobody."""

    def load(module: str) -> None:
        runner.loop.call_soon_threadsafe(runner.channel.send, Kind.IMPORTING, 0, module.encode())
        reason = ""
        try:
            importlib.import_module(module)
        except BaseException as error:  # noqa: BLE001 - user code
            from orbiter.distributed.errors import text_of  # noqa: PLC0415

            reason = f"{type(error).__name__}: {text_of(error)}"
        runner.loop.call_soon_threadsafe(runner.channel.send, Kind.IMPORTED, 0, to_json([module, reason[:1000]]))

    for module in modules:
        threading.Thread(target=load, args=(module,), name=f"orbiter-import-{module}", daemon=True).start()


def _tie(parent: int) -> None:
    """End with the supervisor, also where it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    # It may have ended before it was asked to be watched.
    if os.getppid() != parent:
        os._exit(1)


def _offer_itself() -> None:
    """Have the kernel end this process, and what its tasks start, before the supervisor where memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)


def _first_frame(end: socket.socket) -> tuple[dict[str, Any], bytes]:
    data = b""
    while len(data) < HEADER.size or len(data) < HEADER.size + HEADER.unpack_from(data)[0]:
        more = end.recv(1 << 20)
        if not more:
            os._exit(1)
        data += more
    until = HEADER.size + HEADER.unpack_from(data)[0]
    return from_json(data[HEADER.size : until]), data[until:]


def _speak(level: int) -> None:
    """Send what is printed and logged here to the supervisor."""
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123 - for as long as the process lives
    sys.stdout, sys.stderr = TaggedStream(1), TaggedStream(2)
    root = logging.getLogger()
    root.handlers[:] = [RecordHandler(2)]
    root.setLevel(level)
    logging.captureWarnings(capture=True)
    faulthandler.enable(2)


def _new_loop() -> asyncio.AbstractEventLoop:
    """Return the loop that runs tasks; loops that tasks make themselves are Python's."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def main() -> None:
    """Run tasks until the supervisor says otherwise."""
    work_fd, guard_fd, parent = (int(argument) for argument in sys.argv[1:4])
    sys.argv[1:] = []
    _tie(parent)
    _offer_itself()
    work, guard_end = socket.socket(fileno=work_fd), socket.socket(fileno=guard_fd)
    for end in (work, guard_end):
        end.set_inheritable(False)
    ours = [work_fd, guard_fd]

    def close_ours() -> None:
        """Hold nothing of ours in what a tool forks; once, as others may have these numbers later."""
        while ours:
            os.close(ours.pop())

    os.register_at_fork(after_in_child=close_ours)
    config, rest = _first_frame(guard_end)
    sys.path[:] = config["path"]
    _speak(config["log_level"])
    loop = _new_loop()
    asyncio.set_event_loop(loop)
    stepping.limit = config["weigh_above"]
    runner = Runner(config, loop)

    async def begin() -> None:
        runner.channel = await Channel.open(work, runner.received, lambda _: os._exit(0), largest=LARGEST_FRAME)
        Guard(guard_end, runner, rest).start()
        runner.channel.send(Kind.READY)
        runner.channel.flush()
        _preload(runner, config["preload"])

    # A service manager that signals all processes of a unit means the supervisor, which drains.
    nothing: dict[int, Callable[[], None]] = {int(number): lambda: None for number in signals.HANDLED}
    with signals.handled(loop, nothing), containing(loop), _telemetry(config):
        loop.run_until_complete(begin())
        while not runner.finishing:
            try:
                loop.run_forever()
            except BaseException as error:
                if signals.is_forked:
                    signals.exit_child(error)
                logger.exception("a callback of user code raised %s", type(error).__name__)
            if signals.is_forked:
                signals.exit_child()
    os._exit(0)


@contextlib.contextmanager
def _telemetry(config: dict[str, Any]) -> Any:
    """Send spans by OTLP, where the worker does, and the metrics of user code; ours are the supervisor's."""
    from orbiter.distributed.telemetry.otel import exporting  # noqa: PLC0415 - not needed to be imported

    with exporting(f"{config['worker_id']}/{config['number']}", ours=False):
        yield


if __name__ == "__main__":
    main()
