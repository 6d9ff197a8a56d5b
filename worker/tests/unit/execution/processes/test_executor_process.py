"""ExecutorProcess: real processes, as their supervisor sees them, and one that breaks every rule."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from orbiter.distributed.errors import describe, kind_of
from orbiter.distributed.execution.endings import Completed, Failed
from orbiter.distributed.execution.processes import executor_process
from orbiter.distributed.execution.processes.child_log import CREDIT
from orbiter.distributed.execution.processes.executor_process import ExecutorProcess, environment_of_tasks
from orbiter.distributed.execution.processes.frames import (
    HEADER,
    LARGEST_OTHER,
    LARGEST_REPORT,
    LARGEST_STEP,
    NUMBER,
    Kind,
    pack,
)
from tests.support import is_alive, slowness
from tests.unit.execution.processes.support import LARGEST, TARGETS, Starts, runs, starting, until

HOSTILE = "tests.unit.execution.processes.hostile"
FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS") or (30 if os.environ.get("CI") else 8))
FUZZ_SEED = int(os.environ.get("FUZZ_SEED", "13"))


# -- its environment -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["ORBITER_REDIS_URL", "TEMPORAL_API_KEY", "WATCHDOG_USEC", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "LISTEN_FDS"],
)
def test_environment_of_tasks_holds_nothing_of_the_worker(name: str) -> None:
    assert environment_of_tasks({name: "x", "PATH": "/bin", f"MY_{name}": "y"}, ()) == {
        "PATH": "/bin",
        f"MY_{name}": "y",
    }


def test_environment_of_tasks_holds_no_secret_wherever_it_stands() -> None:
    environ = {"URL": "redis://:s3cret@host", "KEY": "s3cret", "OTHER": "other", "MODEL_KEY": "sk-1"}
    assert environment_of_tasks(environ, ("s3cret", "other2")) == {"OTHER": "other", "MODEL_KEY": "sk-1"}


async def test_process_finds_only_what_it_was_given() -> None:
    async with starting() as starts:
        process = await starts.process(env={"PATH": os.environ["PATH"], "MINE": "1"})
        starts.begin(process, runs("environment"))
        ending = await starts.ending()
        assert isinstance(ending, Completed)
        found = json.loads(ending.text)
    assert set(found["environ"]) - {"LC_CTYPE"} == {"PATH", "MINE"}
    assert found["sid"] == process.pid
    assert len(found["argv"]) == 1
    # Its own sockets and pipes, and nothing that this process has open.
    assert {where for where in found["open"] if not where.startswith(("socket:", "anon_inode:", "pipe:"))} <= {
        "/dev/null"
    }


# -- what it runs ----------------------------------------------------------------------------------------------------


async def test_process_runs_a_callable_and_its_events_come_before_its_end() -> None:
    async with starting() as starts:
        process = await starts.process()
        assert starts.owner.up == [1]
        starts.begin(process, runs("echo", text="hello", attempt=4))
        ending = await starts.ending()
        assert isinstance(ending, Completed)
        found = json.loads(ending.text)
        assert (found["output"], found["attempt"], found["pid"]) == ("hello", 4, process.pid)
        assert starts.sent.text() == "hello"
        events = starts.sent.events()
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert {event["attempt"] for event in events} == {4}
        assert process.runs == {}
        await until(lambda: starts.owner.imports == {TARGETS: ""})


async def test_process_reports_an_error_with_text_and_type() -> None:
    async with starting() as starts:
        process = await starts.process()
        starts.begin(process, runs("fails", text="no such key"))
        ending = await starts.ending()
        assert isinstance(ending, Failed)
        assert (describe(ending.error), kind_of(ending.error)) == ("no such key", "LookupError")


async def test_stream_beyond_the_credit_arrives_whole_and_in_order() -> None:
    number = CREDIT * 3 // 1000
    async with starting() as starts:
        process = await starts.process()
        run = starts.begin(process, runs("streams", text=str(number)))
        assert isinstance(await starts.ending(), Completed)
        text = starts.sent.text()
    assert [int(text[at : at + 6]) for at in range(0, len(text), 1000)] == list(range(number))
    assert run.in_flight <= CREDIT


async def test_process_keeps_and_replays_the_steps_of_a_durable_run() -> None:
    class Journal:
        """What the supervisor keeps."""

        def __init__(self) -> None:
            self.appended: list[Any] = []
            self.saved: list[Any] = []

        def kept(self) -> tuple[Any, dict[str, Any]]:
            return {"at": 1}, {"one": 1}

        async def append(self, key: str, value: Any) -> None:
            self.appended.append((key, value))

        def save(self, checkpoint: Any) -> None:
            self.saved.append(checkpoint)

    journal = Journal()
    async with starting() as starts:
        process = await starts.process()
        starts.begin(process, runs("journaled"), journal)
        starts.begin(process, runs("sleeps", "t2"))
        ending = await starts.ending()
        assert isinstance(ending, Completed)
        assert json.loads(ending.text) == {"output": "", "before": 1, "checkpoint": {"at": 2}}
        # A coroutine that it left behind goes on saving: that is not kept, and ends nobody.
        heard = process.heard
        await until(lambda: process.heard > heard)
        assert not process.gone.is_set()
        assert list(process.runs) == [2]
    assert (journal.appended, journal.saved) == ([("two", {"x": 2})], [{"at": 2}])


async def test_process_keeps_no_step_and_no_checkpoint_that_nobody_takes() -> None:
    class Journal:
        def kept(self) -> tuple[Any, dict[str, Any]]:
            return None, {}

        async def append(self, key: str, value: Any) -> None:
            raise AssertionError(key)

        def save(self, checkpoint: Any) -> None:
            raise AssertionError

    async with starting() as starts:
        process = await starts.process()
        starts.begin(process, runs("keeps_much", text=str(LARGEST_STEP)), Journal())
        ending = await starts.ending()
        assert isinstance(ending, Failed)
        assert kind_of(ending.error) == "ConfigurationError"
        assert f"more than the {LARGEST_STEP} that it may have" in describe(ending.error)
        assert process.killed_for == ""


async def test_results_are_as_large_as_the_settings_allow() -> None:
    async with starting() as starts:
        process = await starts.process(max_result_bytes=30_000_000)
        starts.begin(process, runs("answers", text=str(26_000_000)))
        ending = await starts.ending()
        assert isinstance(ending, Completed)
        assert len(ending.text) > 26_000_000


async def test_process_ends_a_run_that_it_is_told_to_cancel() -> None:
    async with starting() as starts:
        process = await starts.process()
        run = starts.begin(process, runs("sleeps"))
        starts.begin(process, runs("sleeps", "t2"))
        await until(lambda: starts.sent.text() == "started")
        process.cancel(run)
        assert await starts.ending() is None
        assert list(process.runs) == [2]


async def test_deaf_thread_is_reported_and_ends_the_run_once_it_ends() -> None:
    async with starting() as starts:
        process = await starts.process()
        seconds = 2 * slowness()
        run = starts.begin(process, runs("in_thread_a_while", text=str(seconds)))
        await until(lambda: starts.sent.text() == "started")
        began = time.monotonic()
        process.cancel(run)
        await until(lambda: run.deaf)
        assert time.monotonic() - began < seconds
        assert "t1" not in starts.owner.endings
        assert await starts.ending() is None
        assert time.monotonic() - began >= seconds


async def test_run_that_cancels_itself_beside_its_thread_ends_no_other() -> None:
    async with starting() as starts:
        process = await starts.process()
        starts.begin(process, runs("cancels_itself"))
        starts.begin(process, runs("sleeps", "t2"))
        assert await starts.ending() is None
        assert list(process.runs) == [2]


async def test_blocked_loop_is_named_by_run_file_and_line() -> None:
    async with starting() as starts:
        process = await starts.process()
        starts.begin(process, runs("sleeps", "t2"))
        blocker = starts.begin(process, runs("blocks"))
        await until(lambda: starts.owner.blocks)
        seconds, run, where = starts.owner.blocks[0]
        assert (0 <= seconds <= 2 * slowness(), run) == (True, blocker.number)
        assert process.blocked_run == blocker.number
        path, line = where.rsplit(":", 1)
        assert "time.sleep(60)" in Path(path).read_text().splitlines()[int(line) - 1]


# -- its output ------------------------------------------------------------------------------------------------------


async def test_what_a_task_prints_and_logs_is_logged_with_its_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with starting() as starts:
        process = await starts.process()
        starts.begin(process, runs("prints"))
        await starts.ending()
        await until(lambda: len([r for r in caplog.records if " by " in f" {r.message}" or "stderr" in r.message]) == 4)
    found = {
        record.message: (record.name, record.levelno, vars(record)["task_id"])
        for record in caplog.records
        if record.name in {"orbiter.tasks", "tool"}
    }
    assert found == {
        "by print": ("orbiter.tasks", logging.INFO, "t1"),
        "to stderr": ("orbiter.tasks", logging.INFO, "t1"),
        "by a logger": ("tool", logging.WARNING, "t1"),
        "by a C library": ("orbiter.tasks", logging.INFO, None),
    }


# -- its death -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("segfault", "was killed by SIGSEGV"),
        ("kill", "was killed by SIGKILL"),
        ("0", "exited with status 0"),
        ("3", "exited with status 3"),
    ],
)
async def test_death_of_a_process_is_told_in_words_with_all_it_had_sent(how: str, words: str) -> None:
    async with starting() as starts:
        process = await starts.process()
        run = starts.begin(process, runs("ends_process", text=how))
        await until(process.gone.is_set)
        assert process.how() == words
        assert process.retired
        assert process.retired
        # The run is the pool's to settle.
        assert (process.runs, starts.owner.endings) == ({run.number: run}, {})
        await starts.sent.publisher.flush()
        assert starts.sent.text() == "started"


def test_signal_without_a_name_is_told_by_its_number() -> None:
    async def how() -> str:
        process = ExecutorProcess(1, single=False, config={}, env={}, owner=None)  # type: ignore[arg-type]
        process.status = -63
        return process.how()

    assert asyncio.run(how()) == "was killed by signal 63"


async def test_kill_takes_along_what_tasks_have_started() -> None:
    async with starting() as starts:
        process = await starts.process()
        starts.begin(process, runs("leaves_a_child"))
        ending = await starts.ending()
        assert isinstance(ending, Completed)
        child = psutil.Process(json.loads(ending.text)["pid"])
        process.kill("was replaced")
        process.kill("and again")
        await until(process.gone.is_set)
        assert process.how() == "was replaced"
        await until(lambda: not is_alive(child))


async def test_process_ends_by_itself_where_it_is_let() -> None:
    async with starting() as starts:
        process = await starts.process()
        process.finish()
        await until(process.gone.is_set)
        assert process.how() == "exited with status 0"


async def test_process_ends_itself_when_its_lease_is_over() -> None:
    async with starting() as starts:
        process = await starts.process()
        starts.begin(process, runs("sleeps"))
        process.lease(time.monotonic() + 0.2)
        await until(process.gone.is_set)
        assert process.how() == "was killed by SIGKILL"


async def test_process_that_cannot_start_says_why_in_its_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_process, "MODULE", "no_such_module_of_ours")
    async with starting() as starts:
        process = await starts.process()
        assert process.how() == "exited with status 1"
        assert "No module named no_such_module_of_ours" in process.last_lines[-1]


async def test_process_that_the_system_refuses_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_process.sys, "executable", "/nonexistent/python")
    before = sorted(Path("/proc/self/fd").iterdir())
    process = ExecutorProcess(1, single=False, config={}, env={}, owner=None)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="nonexistent"):
        await process.start()
    assert sorted(Path("/proc/self/fd").iterdir()) == before


async def test_death_is_seen_without_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    async with starting() as starts:
        process = await starts.process()
        os.kill(process.pid, signal.SIGTERM)  # which an executor process leaves to its supervisor
        os.kill(process.pid, signal.SIGKILL)
        await until(process.gone.is_set)
        assert process.how() == "was killed by SIGKILL"


# -- one that breaks every rule --------------------------------------------------------------------------------------

OURS, THEIRS = 1, 2
EVENT = b'{"type": "text", "text": "x"}'
TICK = b"[0, 0, 0, 0, []]"


class Attacked:
    """A real process that holds a run, with hostile ones beside it that hold one each."""

    def __init__(self, starts: Starts) -> None:
        self.starts = starts

    async def begin(self) -> None:
        self.real = await self.starts.process()
        self.starts.begin(self.real, runs("sleeps", "other"), number=THEIRS)
        await until(lambda: self.starts.sent.text("other") == "started")

    async def attack(
        self, task_id: str, sends: list[Any], *, lives: bool, clock: Callable[[], float] = time.monotonic
    ) -> ExecutorProcess:
        """Let a hostile process send this, and return it once it is gone."""
        hostile = {"sends": [(part, data.hex(), *times) for part, data, *times in sends], "lives": lives}
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[4])}
        process = await self.starts.process(env=env, hostile=hostile, clock=clock)
        assert process.up, process.last_lines
        self.starts.begin(process, runs("echo", task_id), number=OURS)
        await until(process.gone.is_set)
        return process

    def check(self) -> None:
        """Check that nothing of the real process has changed."""
        assert self.real.up
        assert [run.slot.claim.task.task_id for run in self.real.runs.values()] == ["other"]
        assert "other" not in self.starts.owner.endings
        assert self.starts.sent.text("other") == "started"


@pytest.fixture
def _hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes with a configuration for it are hostile, all others are real."""
    start, real = ExecutorProcess.start, executor_process.MODULE

    def choose(self: ExecutorProcess) -> Any:
        # It reads the name before it waits for anything.
        monkeypatch.setattr(executor_process, "MODULE", HOSTILE if "hostile" in self._config else real)
        return start(self)

    monkeypatch.setattr(ExecutorProcess, "start", choose)


BROKEN = {
    "garbage": [("work", b"\xff" * 4000)],
    "garbage to the guard": [("guard", b"\xff" * 4000)],
    "http": [("work", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")],
    # It is told by its header: nobody waits for the rest.
    "too large a result": [("work", HEADER.pack(LARGEST + 1, Kind.COMPLETED, OURS))],
    "too large an event": [("work", HEADER.pack(LARGEST_REPORT + 1, Kind.EVENTS, OURS))],
    "too large an error": [("work", HEADER.pack(LARGEST_REPORT + 1, Kind.FAILED, OURS))],
    "too large a tick": [("work", HEADER.pack(LARGEST_REPORT + 1, Kind.TICK, 0))],
    "too large a step": [("work", HEADER.pack(LARGEST_STEP + NUMBER.size + 1, Kind.APPEND, OURS))],
    "too large a checkpoint": [("work", HEADER.pack(LARGEST_STEP + 1, Kind.SAVE, OURS))],
    "too large an import": [("work", HEADER.pack(LARGEST_REPORT + 1, Kind.IMPORTED, 0))],
    "too large a name": [("work", HEADER.pack(LARGEST_OTHER + 1, Kind.IMPORTING, 0))],
    "too large a frame of no kind": [("work", HEADER.pack(LARGEST_OTHER + 1, 200, 0))],
    "too large a block": [("guard", HEADER.pack(LARGEST_OTHER + 1, Kind.BLOCKED, 0))],
    "an unknown kind": [("work", pack(99, OURS))],
    "ready twice": [("work", pack(Kind.READY))],
    "a supervisor's kind": [("work", pack(Kind.CANCEL, OURS))],
    "completed of another's": [("work", pack(Kind.COMPLETED, THEIRS, b'{"output": "mine"}'))],
    "failed of another's": [("work", pack(Kind.FAILED, THEIRS, b'["x", "X", false, null]'))],
    "cancelled of another's": [("work", pack(Kind.CANCELLED, THEIRS))],
    "events of another's": [("work", pack(Kind.EVENTS, THEIRS, EVENT))],
    "usage of another's": [("work", pack(Kind.SPENT, THEIRS, b'["m", "a", 1, 1]'))],
    "usage that is none": [("work", pack(Kind.SPENT, OURS, b'["m", "a", 1]'))],
    "usage without end": [("work", pack(Kind.SPENT, OURS, b'["m", "a", 1e999, 1]'))],
    "too much usage": [("work", pack(Kind.SPENT, OURS, b'["m", "a", 1, 1]') * 1000, 100)],
    "deaf of another's": [("work", pack(Kind.DEAF, THEIRS))],
    "append for another's": [("work", pack(Kind.APPEND, THEIRS, NUMBER.pack(1) + b'["a", 1]'))],
    "save for another's": [("work", pack(Kind.SAVE, THEIRS, b"{}"))],
    "append of what is not durable": [("work", pack(Kind.APPEND, OURS, NUMBER.pack(1) + b'["a", 1]'))],
    "a result twice": [("work", pack(Kind.COMPLETED, OURS, b'{"output": 1}') * 2)],
    "a result that is no JSON": [("work", pack(Kind.COMPLETED, OURS, b"{"))],
    "a result that is no object": [("work", pack(Kind.COMPLETED, OURS, b"[]"))],
    "a result that is no text": [("work", pack(Kind.COMPLETED, OURS, b'{"output": "\xff"}'))],
    "a result that is not a number": [("work", pack(Kind.COMPLETED, OURS, b'{"output": NaN}'))],
    "a result of too long a number": [("work", pack(Kind.COMPLETED, OURS, b'{"output": %s}' % (b"1" * 5000)))],
    "a result that is too deep": [("work", pack(Kind.COMPLETED, OURS, b'{"a":' * 110 + b"1" + b"}" * 110))],
    "a result with half a pair": [("work", pack(Kind.COMPLETED, OURS, b'{"output": "\\ud83d"}'))],
    "an error that is none": [("work", pack(Kind.FAILED, OURS, b'{"text": 1}'))],
    "an event that is none": [("work", pack(Kind.EVENTS, OURS, b'{"type": "nothing of ours"}'))],
    "an event that is a number": [("work", pack(Kind.EVENTS, OURS, b"7"))],
    "a tick that is none": [("work", pack(Kind.TICK, 0, b'["a", 0, 0, 0]'))],
    "a tick without end": [("work", pack(Kind.TICK, 0, b"[1e999, 0, 0, 0]"))],
    "a tick that is no number": [("work", pack(Kind.TICK, 0, b"[NaN, 0, 0, 0]"))],
    "a tick with too little": [("work", pack(Kind.TICK, 0, b"[1, 2]"))],
    "an import that is none": [("work", pack(Kind.IMPORTED, 0, b'["module"]'))],
    "an import that is a number": [("work", pack(Kind.IMPORTED, 0, b"7"))],
    "an import that nobody asked for": [("work", pack(Kind.IMPORTED, 0, b'["other", ""]'))],
    "the begin of another": [("work", pack(Kind.IMPORTING, 0, b"other"))],
    "a block that is none": [("guard", pack(Kind.BLOCKED, 0, b'["long", "one"]'))],
    "a block for ever": [("guard", pack(Kind.BLOCKED, 0, b'[1e999, 1, "x"]'))],
    "an outcome by the guard": [("guard", pack(Kind.COMPLETED, OURS, b"{}"))],
    "too many ticks": [("work", pack(Kind.TICK, 0, TICK) * 1000, 100)],
    "too many blocks": [("guard", pack(Kind.BLOCKED, 0, b'[1, 1, "x"]') * 1000, 100)],
    "too many events": [("work", pack(Kind.EVENTS, OURS, b'{"type": "text", "text": "%s"}' % (b"x" * 90_000)), 400)],
}


@pytest.mark.usefixtures("_hostile")
async def test_process_that_breaks_a_rule_is_ended_and_nobody_else_is(caplog: pytest.LogCaptureFixture) -> None:
    async with starting() as starts:
        attacked = Attacked(starts)
        await attacked.begin()
        # Redis takes nothing of what the hostile ones send.
        starts.sent.queue.will("append_events", *[ConnectionError()] * 1000)
        attacks = [attacked.attack(name, sends, lives=True) for name, sends in BROKEN.items()]
        processes = [
            process for at in range(0, len(attacks), 6) for process in await asyncio.gather(*attacks[at : at + 6])
        ]
        for name, process in zip(BROKEN, processes, strict=True):
            assert process.killed_for.startswith("sent "), name
        # Where it holds the run it may end it, once.
        assert starts.owner.endings == {"a result twice": Completed('{"output": 1}')}
        attacked.check()
    assert "Traceback" not in caplog.text


@pytest.mark.usefixtures("_hostile")
async def test_what_has_gathered_while_nobody_read_is_no_flood(caplog: pytest.LogCaptureFixture) -> None:
    """As after minutes in which the supervisor was stopped."""

    def clock() -> float:
        # Once the process runs something it has been quiet for five minutes, or nobody has listened.
        return time.monotonic() + (300 if any(process.started for process in starts.processes[1:]) else 0)

    async with starting() as starts:
        attacked = Attacked(starts)
        await attacked.begin()
        last = pack(Kind.TICK, 0, b"[0, 77, 0, 0, []]")
        sends = [("work", pack(Kind.TICK, 0, TICK) * 900), ("guard", pack(Kind.BLOCKED, 0, b'[1, 1, "x"]') * 100)]
        process = await attacked.attack("quiet", [*sends, ("work", last)], lives=False, clock=clock)
        assert (process.how(), process.threads) == ("exited with status 0", 77)
        assert len(starts.owner.blocks) == 100
        attacked.check()
    assert "is ended" not in caplog.text


@pytest.mark.usefixtures("_hostile")
async def test_numbers_that_a_process_makes_up_can_be_shown() -> None:
    huge = b"9" * 4000
    tick = pack(Kind.TICK, 0, b"[%s, %s, %s, %s, []]" % (b"1e300", huge, huge, huge))
    async with starting() as starts:
        attacked = Attacked(starts)
        await attacked.begin()
        block = pack(Kind.BLOCKED, 0, b'[%s, 1, "x"]' % huge)
        process = await attacked.attack("boaster", [("work", tick), ("guard", block)], lives=False)
        assert process.how() == "exited with status 0"
        assert (process.lag, process.threads) == (1e9, 10**9)
        assert starts.owner.blocks == [(10**9, 1, "x")]


def hostile_bytes(dice: random.Random) -> list[tuple[str, bytes]]:
    """Return what a process might send: frames that are right, frames that nearly are, and noise."""
    bodies = [
        *(b"", b"{}", b"[]", b"null", b"\xff", EVENT, b'{"output": "x"}', b'["x", "X", false, null]', b"[0, 0, 0, 0]"),
        *(b'["m", ""]', b'["m", {"a": []}]', b'[1, 1, "x"]', b"[1e999, 0, 1, 1]", b'{"output": "\\ud83d"}'),
        *(NUMBER.pack(1) + b'["a", 1]', b"[" * 5000, b'{"a":' * 5000, b"1" * 5000),
    ]
    found: list[tuple[str, bytes]] = []
    for _ in range(dice.randint(1, 12)):
        body = dice.choice(bodies)
        kind = dice.choice([*Kind, dice.randrange(256)])
        data = pack(kind, dice.choice([0, 1, 2, 3, dice.randrange(2**32)]), body)
        match dice.randrange(8):
            case 0:
                data = dice.randbytes(dice.randint(1, 60))
            case 1:
                at = dice.randrange(len(data))
                data = data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]
            case 2:
                data = data[: dice.randrange(len(data))]
            case 3:
                data = struct.pack("!I", dice.choice([0, 1, LARGEST, LARGEST + 1, 2**32 - 1])) + data[4:]
            case _:
                pass
        found.append((dice.choice(["work", "work", "work", "guard"]), data))
    return found


@pytest.mark.usefixtures("_hostile")
async def test_fuzzed_process_changes_nothing_of_others(caplog: pytest.LogCaptureFixture) -> None:
    """Runs for FUZZ_SECONDS from FUZZ_SEED; a failure names the seeds of its round."""
    deadline = time.monotonic() + FUZZ_SECONDS
    async with starting() as starts:
        attacked = Attacked(starts)
        await attacked.begin()
        rounds = 0
        while rounds < FUZZ_SECONDS // 2 or time.monotonic() < deadline:
            seeds = [FUZZ_SEED * 1_000_000 + rounds * 4 + at for at in range(4)]
            await asyncio.gather(
                *(attacked.attack(f"seed{seed}", hostile_bytes(random.Random(seed)), lives=False) for seed in seeds)
            )
            rounds += 1
            attacked.check()
            assert starts.faults == [], seeds
            assert "Traceback" not in caplog.text, seeds
        # It runs tasks as before.
        starts.begin(attacked.real, runs("echo", "after", text="well"))
        assert isinstance(await starts.ending("after"), Completed)
        assert starts.sent.text("after") == "well"
