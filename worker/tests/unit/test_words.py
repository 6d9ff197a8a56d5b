"""Words that this code does not use, as the field has others for them; see CONTRIBUTING.md.

A word of `NEVER` stands nowhere below src, in names or in text. A word of `LOOKED_AT` is common and may mean something
that has no other word: the files are listed in which somebody has looked at it. A word of `NOT_IN_NAMES` is fine in
a sentence, but names nothing.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
# What is called otherwise: a worker, a claim, a lease, to settle, to reconnect, to append, to journal, to delegate …
NEVER = (
    *("guardian", "keeper of runs", "board", "boarded", "landed", "reborn", "proven", "bury", "buried", "introduce"),
    *("introduction", "surroundings", "wish", "wishes", "remember", "remembers", "remembered", "remembering", "recall"),
    *("recalled", "transfer", "transferred", "transferring", "pass on", "passes on", "job", "jobs"),
)
LOOKED_AT = {
    # Redis', and a process's.
    "memory": {
        "distributed/broker/spoilt.py",
        "cli/queue.py",
        "cli/top/rows.py",
        "cli/worker.py",
        "distributed/alerts/evaluation.py",
        "distributed/alerts/export.py",
        "distributed/alerts/rules.py",
        "distributed/broker/queue_info.py",
        "distributed/broker/storage.py",
        "distributed/broker/worker_health.py",
        "distributed/execution/in_process.py",
        "distributed/execution/interface.py",
        "distributed/execution/processes/cgroups.py",
        "distributed/execution/processes/child.py",
        "distributed/execution/processes/executor_process.py",
        "distributed/execution/processes/memory.py",
        "distributed/execution/processes/keeper.py",
        "distributed/execution/processes/losses.py",
        "distributed/execution/processes/pool.py",
        "distributed/execution/processes/watch.py",
        "distributed/settings.py",
        "distributed/telemetry/instruments.py",
        "distributed/telemetry/metrics.py",
        "distributed/worker/incarnation.py",
        "distributed/worker/redis_watch.py",
        "distributed/worker/status.py",
    },
    # What tells one process from others under a worker id, as the heartbeat's field is called; the life of a task.
    "life": {
        "distributed/broker/announcements.py",
        "distributed/broker/calls/cluster.py",
        "distributed/broker/calls/core.py",
        "distributed/broker/cluster_broker.py",
        "distributed/broker/lua/cluster/heartbeat.lua",
        "distributed/broker/lua/core/deregister.lua",
        "distributed/broker/lua/core/heartbeat.lua",
        "distributed/broker/lua/core/recover.lua",
        "distributed/broker/lua/lib/write_heartbeat.lua",
        "distributed/broker/task_broker.py",
        "distributed/errors.py",
        "distributed/models.py",
        "distributed/worker/incarnation.py",
        "distributed/worker/lease.py",
        "distributed/worker/listener.py",
        "distributed/worker/registration.py",
        "distributed/worker/worker.py",
    },
    # Of a conversation, of an event loop; of the one among the workers that sweeps; to turn into.
    "turn": {
        "distributed/client/payloads.py",
        "distributed/runtimes/submitted.py",
        "distributed/broker/housekeeping.py",
        "distributed/broker/task_broker.py",
        "cli/application.py",
        "distributed/broker/calls/core.py",
        "distributed/broker/events.py",
        "distributed/broker/lua/core/take_turn.lua",
        "distributed/connection/wire.py",
        "distributed/execution/interface.py",
        "distributed/execution/loop_lag.py",
        "distributed/execution/processes/child_log.py",
        "distributed/execution/processes/frames.py",
        "distributed/execution/processes/pool.py",
        "distributed/runtimes/agent_steps.py",
        "distributed/runtimes/function.py",
        "distributed/runtimes/user_code.py",
        "distributed/worker/fetcher.py",
        "distributed/worker/reconciler.py",
        "distributed/worker/sweeper.py",
        "distributed/worker/watchdog.py",
    },
    "room": set(),
    # As the heartbeat's field is called; what somebody asked for.
    "wanted": {
        "cli/submit.py",
        "cli/task.py",
        "distributed/broker/lua/core/command.lua",
        "distributed/broker/lua/lib/take_command.lua",
        "distributed/execution/endings.py",
        "distributed/execution/processes/demand.py",
        "distributed/execution/processes/fitness.py",
        "distributed/execution/processes/keeper.py",
        "distributed/execution/processes/watch.py",
        "distributed/telemetry/otel.py",
        "distributed/temporal/runs.py",
        "distributed/worker/commands.py",
        "distributed/worker/wiring.py",
        "distributed/worker/worker.py",
    },
}
NOT_IN_NAMES = ("given", "say", "says", "said", "tell", "told", "leave", "introduce", "land", "life", "room")
# A run that was given up; the heartbeat's field.
NAMES_LOOKED_AT = {"given_up", "life", "new_life"}


def spaced(text: str) -> str:
    """Return the words of a text in small letters, with those of a name apart: ``_TurnOver`` is ``turn over``."""
    return re.sub(r"[_\W]+", " ", re.sub(r"([a-z])([A-Z])", r"\1 \2", text)).lower()


FILES = {
    str(path.relative_to(SOURCE / "orbiter")): spaced(path.read_text())
    for path in sorted(SOURCE.rglob("*"))
    if path.suffix in {".py", ".lua"}
}


def names(path: Path) -> set[str]:
    """Return the names that a module gives: of functions, classes, arguments, variables and attributes."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                found.add(name)
    return found


@pytest.mark.parametrize("word", NEVER)
def test_source_never_says(word: str) -> None:
    assert [name for name, text in FILES.items() if re.search(rf"\b{word}\b", text)] == []


@pytest.mark.parametrize("word", LOOKED_AT)
def test_common_word_stands_only_where_it_was_looked_at(word: str) -> None:
    found = {name for name, text in FILES.items() if re.search(rf"\b{word}\b", text)}
    assert sorted(found - LOOKED_AT[word]) == []
    assert sorted(LOOKED_AT[word] - found) == [], "needed no longer"


@pytest.mark.parametrize("word", NOT_IN_NAMES)
def test_common_word_names_nothing(word: str) -> None:
    found = {
        f"{path.relative_to(SOURCE)}: {name}"
        for path in SOURCE.rglob("*.py")
        for name in names(path) - NAMES_LOOKED_AT
        if word in spaced(name).split()
    }
    assert sorted(found) == []
