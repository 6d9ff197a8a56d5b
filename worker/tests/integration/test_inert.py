"""What a person sees of texts that clients, tasks and workers have written: nothing of it acts, and nothing hides."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from orbiter.distributed.broker.worker_health import WorkerHealth
from orbiter.distributed.client.client import Client
from orbiter.distributed.models import (
    ErrorEvent,
    ReasoningEvent,
    StatusEvent,
    TaskStatus,
    TextEvent,
    ToolCallEvent,
    ToolResultEvent,
)
from tests import keys
from tests.fleet import QUEUE, Fleet
from tests.support import WORKER_DIRECTORY, environment

TEXTS = {
    "clears": "\x1b[2J\x1b]0;owned\x07",
    "c1": "\x9b2J\x85",
    "lines": "a\nb\rc\u2028d\x0b",
    "journal": "x\n<0>kernel: panic",
    "nul": "a\x00b",
    "turns": "\u202ecba\u2066",
    "shell": "$(touch owned)",
    "back": "`touch owned`;touch owned",
    "tab": "a\tb",
    "markup": "[red]x[/red] {0} %s",
    "option": "--all",
    "glob": "*",
    "long": "x" * 900_000,
}
TEXT_FIELDS = ("worker_id", "error", "last_loss", "queue", "agent_name", "error_type", "result")


async def hostile_fleet(fleet: Fleet) -> None:
    """Write records, heartbeats, dead letters and events full of these texts, among honest ones."""
    client = fleet.client
    for name, text in TEXTS.items():
        ids, some = (f"t-{name}", text[:200]), text[:2000]
        for number, task_id in enumerate(ids):
            record = dict.fromkeys(TEXT_FIELDS, text) | {"status": "failed", "created_at": "1"}
            await client.hset(keys.task(task_id), mapping=record)
            await client.zadd(keys.BY_TIME, {task_id: number})
            for event in (
                TextEvent(text=text, agent_name=some),
                ReasoningEvent(text=some),
                ToolCallEvent(tool_name=text, tool_call_id=some),
                ToolResultEvent(tool_name=some, tool_call_id="1", arguments={some: some}, result=some),
                ToolResultEvent(tool_name=some, tool_call_id="1", error=some, success=False),
                ErrorEvent(error=text, error_type=some),
                StatusEvent(status="running", agent_name=some, message=some),
                StatusEvent(status="completed", message=some),
            ):
                await client.xadd(keys.stream(task_id), {"event": event.to_json()})
        beat = {field.name: some for field in fields(WorkerHealth)} | {"last_heartbeat": "99999999999"}
        beat |= {"hostname": some, "problem": text}
        for worker_id in (f"w-{name}", text[:100]):
            await client.hset(keys.worker(worker_id), mapping=beat | {"state": "degraded"})
            await client.hset(keys.worker(f"{worker_id}-state"), mapping=beat)
            await client.zadd(keys.FLEET, {worker_id: 1, f"dead {worker_id}": 1})
        letter = {"task_id": some, "reason": text, "error_type": some, "payload": some, some: some}
        await client.xadd(keys.tagged(QUEUE, "dead"), letter)
    for task_id, record in UNREADABLE.items():
        await client.zadd(keys.BY_TIME, {task_id: 5})
        if record:
            await client.hset(keys.task(task_id), mapping={"created_at": "1", **record})
        else:
            await client.sadd(keys.task(task_id), "x")
    await client.sadd(keys.worker("no-hash"), "x")
    await client.zadd(keys.FLEET, {"no-hash": 1, "honest": 1})
    await client.hset(keys.task("honest"), mapping={"status": "completed", "result": '{"output": "yes"}'})
    await client.zadd(keys.BY_TIME, {"honest": 9})
    await client.hset(keys.worker("honest"), mapping={"last_heartbeat": "99999999999", "queue": QUEUE})


UNREADABLE: dict[str, dict[str, str]] = {
    "odd number": {"status": "running", "retries": "abc"},
    "odd time": {"status": "running", "started_at": "nan", "completed_at": "1e300"},
    "odd status": {"status": "\x1b[31mdone"},
    "long number": {"status": "running", "attempt": "9" * 100_000},
    "no hash": {},
}

# What a command line holds.
NAMES = [text for name, text in TEXTS.items() if name not in {"nul", "long"}]
COMMANDS: list[tuple[str, ...]] = [
    ("task", "list"),
    ("task", "list", "--status", "unreadable"),
    *(("task", "status", "--", f"t-{name}") for name in TEXTS),
    *(("task", "events", "--", f"t-{name}") for name in TEXTS),
    *(("task", "status", "--", text) for text in NAMES),
    ("task", "status", "odd number"),
    ("task", "status", "no hash"),
    ("task", "dead", "list"),
    *(("task", "dead", "show", "--", text) for text in NAMES),
    ("worker", "list"),
    ("worker", "list", "--wide"),
    ("queue", "info"),
    ("alerts", "check"),
]
REFUSED: list[tuple[str, ...]] = [
    *(("task", "status", "--", f"none {text[:100]}") for text in NAMES),
    *(("task", "cancel", "--", text) for text in NAMES),
    *(("task", "retry", "--", text) for text in NAMES),
    *(("task", "dead", "retry", "--", text) for text in NAMES),
    *(("worker", "drain", "--timeout", "0", "--", f"{text[:90]}!") for text in NAMES),
]

MANY = """
import json, sys
from click.testing import CliRunner
from orbiter.cli import main
for line in sys.stdin:
    done = CliRunner().invoke(main, json.loads(line), prog_name="orbiter")
    print(json.dumps([done.exit_code, done.stdout, done.stderr, repr(done.exception) if done.exception else ""]))
"""


def run_many(url: str, commands: list[tuple[str, ...]], cwd: Path) -> list[tuple[int, str, str, str]]:
    """Run commands, one after another in one process; return exit code, output, errors, exception of each."""
    asked = "".join(f"{json.dumps(command)}\n" for command in commands)
    done = subprocess.run(
        [sys.executable, "-c", MANY],
        input=asked,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment(ORBITER_REDIS_URL=url, PYTHONPATH=str(WORKER_DIRECTORY / "src")),
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def odd_characters(text: str, keep: str = "\n") -> set[str]:
    return {char for char in text if not char.isprintable() and char not in keep}


async def test_no_command_prints_what_acts_on_a_terminal(fleet: Fleet, tmp_path: Path) -> None:
    await hostile_fleet(fleet)
    for command, (code, out, err, exception) in zip(
        COMMANDS + REFUSED, run_many(fleet.url, COMMANDS + REFUSED, tmp_path), strict=True
    ):
        said = command[:3], ascii(out[-300:]), ascii(err[-300:]), exception
        # The answer of a model is shown with its lines and tabs.
        keep = "\n\t" if command[:2] == ("task", "events") else "\n"
        assert odd_characters(out, keep) == set(), said
        assert odd_characters(err) == set(), said
        assert not exception or "SystemExit" in exception, said
        expected = {0, 1} if command in REFUSED or command[0] == "alerts" else {0}
        assert code in expected, said
        assert len(out) < 900_000 or command[:2] == ("task", "events"), said
    assert not (tmp_path / "owned").exists()


async def test_no_line_of_a_listing_is_one_that_a_text_has_made(fleet: Fleet, tmp_path: Path) -> None:
    await hostile_fleet(fleet)
    for _, out, err, _ in run_many(
        fleet.url, [("task", "list"), ("worker", "list"), ("task", "dead", "list")], tmp_path
    ):
        assert err == ""
        assert [line for line in out.splitlines()[3:] if line[:1] not in {"│", "├", "└", "┌"}] == []


async def test_json_is_exact_and_in_ascii(fleet: Fleet, tmp_path: Path) -> None:
    await hostile_fleet(fleet)
    await fleet.client.hset(
        keys.task("numbers"), mapping={"status": "completed", "result": '{"output": NaN, "x": [1e999]}'}
    )
    await fleet.client.hset(keys.task("deep"), mapping={"status": "completed", "result": "[" * 150 + "]" * 150})
    await fleet.client.hset(keys.task("deeper"), mapping={"status": "completed", "result": "[" * 90_000})
    await fleet.client.zadd(keys.tagged(QUEUE, "delayed"), {"x": float("inf")})
    event = '{"type":"tool_result","tool_name":"t","tool_call_id":"1","duration_ms":NaN,"arguments":{"x":[NaN]}}'
    await fleet.client.xadd(keys.stream("t-c1"), {"event": event})
    listings = [c for c in COMMANDS if c[:2] in {("task", "list"), ("worker", "list")}]
    commands = [(*c, "--json") for c in listings] + [
        ("task", "dead", "list", "--json"),
        ("queue", "info", "--json"),
        *(("task", "status", "--json", task_id) for task_id in ("numbers", "deep", "deeper", "no hash", "t-clears")),
        *(
            ("task", "dead", "show", "--json", "--", text)
            for name, text in TEXTS.items()
            if name not in {"nul", "long"}
        ),
    ]
    answers = {}
    for command, (code, out, err, _) in zip(commands, run_many(fleet.url, commands, tmp_path), strict=True):
        assert (code, err) == (0, ""), command
        assert out.isascii()
        answers[command] = json.loads(out, parse_constant=pytest.fail)
    tasks = {task["task_id"]: task for task in answers["task", "list", "--json"]}
    assert {name: tasks[f"t-{name}"]["agent_name"] for name in TEXTS} == TEXTS
    assert {text[:200] for text in TEXTS.values()} <= set(tasks)
    workers = {worker["worker_id"]: worker for worker in answers["worker", "list", "--json"]}
    assert {name: workers[f"w-{name}"]["problem"] for name in TEXTS} == TEXTS
    letters = answers["task", "dead", "list", "--json"]
    assert {letter["reason"] for letter in letters} == set(TEXTS.values())
    assert answers["task", "status", "--json", "numbers"]["result"] == {"output": "NaN", "x": [None]}
    [(code, out, _, _)] = run_many(fleet.url, [("task", "events", "--json", "t-c1")], tmp_path)
    rows = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    assert rows[0]["text"] == TEXTS["c1"]


async def test_a_record_that_cannot_be_read_is_listed_as_such_and_hides_no_other(fleet: Fleet, tmp_path: Path) -> None:
    await hostile_fleet(fleet)
    tasks = {task.task_id: task for task in await fleet.store.list_tasks()}
    assert {name for name in UNREADABLE if tasks[name].unreadable} == set(UNREADABLE)
    wrong = {
        name: [part.partition(":")[0] for part in (tasks[name].unreadable or "").split("; ")] for name in UNREADABLE
    }
    assert wrong == {
        "odd number": ["retries"],
        "odd time": ["started_at", "completed_at"],
        "odd status": ["status"],
        "long number": ["attempt"],
        "no hash": ["the record is no hash in Redis"],
    }
    assert {name: tasks[name].status.value for name in UNREADABLE} == {
        "odd number": "running",
        "odd time": "running",
        "odd status": "pending",
        "long number": "running",
        "no hash": "unreadable",
    }
    assert (tasks["honest"].status, tasks["honest"].unreadable) == (TaskStatus.COMPLETED, None)
    listed = {task.task_id for task in await fleet.store.list_tasks(status=TaskStatus.UNREADABLE)}
    assert listed == set(UNREADABLE)
    [(_, table, _, _), (_, page, _, _), (_, workers, _, _)] = run_many(
        fleet.url, [("task", "list"), ("task", "status", "odd number"), ("worker", "list")], tmp_path
    )
    rows = {line.split("│")[1].strip(): line for line in table.splitlines() if line.count("│") > 2}
    assert [name for name in UNREADABLE if "unreadable" not in rows[name]] == []
    assert "unreadable" not in rows["honest"]
    assert "retries: 'abc'" in page
    states = {line.split("│")[1].strip(): line.split("│")[2] for line in workers.splitlines() if line.count("│") > 2}
    assert "unreadable" in states["no-hash"]
    assert "unreadable" in states["w-tab"]
    assert "unreadable" not in states["honest"]


async def test_who_waits_for_a_task_whose_record_is_none_is_told(fleet: Fleet) -> None:
    await fleet.client.sadd(keys.task("t"), "x")
    async with Client(fleet.url) as client:
        with pytest.raises(RuntimeError, match="cannot be read"):
            await client.task("t").result()


async def test_a_terminal_is_not_steered(fleet: Fleet, tmp_path: Path) -> None:
    await hostile_fleet(fleet)
    for command in (
        ("task", "list"),
        ("worker", "list"),
        ("task", "status", "t-clears"),
        ("task", "events", "t-clears"),
    ):
        here, there = pty.openpty()
        os.set_inheritable(there, True)
        process = subprocess.Popen(
            [sys.executable, "-m", "orbiter.cli", *command],
            stdout=there,
            stderr=there,
            env=environment(ORBITER_REDIS_URL=fleet.url, TERM="xterm-256color", COLUMNS="200"),
            cwd=WORKER_DIRECTORY,
        )
        os.close(there)
        said = b""
        while True:
            try:
                piece = os.read(here, 65536)
            except OSError:
                break
            if not piece:
                break
            said += piece
        os.close(here)
        assert process.wait(60) == 0
        shown = said.decode()
        assert b"\x1b[" in said, "no colours: not shown as on a terminal"
        assert [bad for bad in ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\x00", "\u202e", "\u2028") if bad in shown] == []


# -- shells -----------------------------------------------------------------------------------------------------------

ASK_BASH = """
source <(orbiter completion bash)
COMP_WORDS=(orbiter {words} "")
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_orbiter_completion orbiter
for word in "${{COMPREPLY[@]}}"; do printf '%s\\0' "$word"; done
# As a person who accepts each of them.
for word in "${{COMPREPLY[@]}}"; do eval "true $word"; done
"""


@pytest.mark.parametrize("words", ["task status", "task dead drop", "worker drain"])
async def test_bash_is_offered_harmless_ids_only(fleet: Fleet, tmp_path: Path, words: str) -> None:
    (tmp_path / "here").touch()
    await hostile_fleet(fleet)
    for key in (keys.BY_TIME, keys.FLEET):
        await fleet.client.zadd(key, {"honest-1": 3, "plain,touch owned": 3, "a b": 3, "~root": 3, "dir,/": 3})
    done = subprocess.run(
        ["bash", "-c", ASK_BASH.format(words=words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env=environment(ORBITER_REDIS_URL=fleet.url, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}"),
    )
    offered = [word for word in done.stdout.split("\0") if word]
    assert done.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]
    harmless = {name for name in offered if name.replace("-", "").replace("x", "").isalnum() or set(name) == {"x"}}
    assert harmless == set(offered)
    assert words == "task dead drop" or "honest-1" in offered
    assert "here" not in offered
    assert "--all" not in offered
