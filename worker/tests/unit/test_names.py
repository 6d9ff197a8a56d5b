"""What queues, workers and tasks may be called: one rule, whichever way a name comes in."""

from __future__ import annotations

from pathlib import Path

import pytest

from orbiter.distributed import Client, EventSubscriber, SyncClient, distributed, get_worker_fleet_status
from orbiter.distributed.alerts import read_queue
from orbiter.distributed.broker.dead_letters import DeadLetters
from orbiter.distributed.broker.queue_info import get_queue_info
from orbiter.distributed.broker.store import TaskStore
from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.client.control import WorkerControl
from orbiter.distributed.client.sync import SyncTaskHandle
from orbiter.distributed.models import TaskPayload
from orbiter.distributed.names import (
    InvalidNameError,
    check_namespace,
    check_queue_name,
    check_task_id,
    check_whole_queue_name,
    check_worker_id,
)
from orbiter.distributed.settings import SettingsError, WorkerSettings
from tests.unit.cli.test_bad_input import URL, invoke, one_line

GOOD = ["q", "orbiter:tasks", "q:1", "A-b_c.d@e", "0", "x" * 128]
BAD = ["", "q q", "{q}", "q*", "ü", "q\n", "x" * 129, "a/b", "\x00", "\udcff"]
BAD_NAMESPACES = ["a b", "a:b", "{a", "a}", "{}", "{{a}}", "{a}:b", "a*", "ü", "x" * 65, "a@b", "\udcff"]
BAD_TASK_IDS = ["", "index", "by_time", "ended", "x" * 201, "\udcff"]


@pytest.mark.parametrize("name", GOOD)
def test_a_good_name_is_taken_as_it_is(name: str) -> None:
    assert check_queue_name(name) == check_worker_id(name) == name
    assert (WorkerSettings.of(queue=name).queue, WorkerSettings.of(worker_id=name).worker_id) == (name, name)


@pytest.mark.parametrize("name", BAD)
async def test_no_door_takes_a_queue_name_that_no_worker_can_read(name: str) -> None:
    with pytest.raises(SettingsError):
        WorkerSettings.of(queue=name)
    doors = [
        distributed({"name": "a", "model": "test"}, "hi", redis_url=URL, queue=name),
        TaskBroker(URL, queue_name=name).connect(),
        TaskBroker(URL, queue_name=name).submit(TaskPayload()),
        TaskBroker(URL, queue_name=name).submit_many([TaskPayload()]),
        get_queue_info(URL, name),
        read_queue(URL, name),
    ]
    for door in doors:
        with pytest.raises(InvalidNameError) as caught:
            await door
        assert ascii(name)[:20] in str(caught.value)
        assert len(str(caught.value)) < 300
    with pytest.raises(InvalidNameError):
        SyncTaskHandle("x", redis_url=URL, queue=name)


@pytest.mark.parametrize("name", ["", "q q", "{q}", "q*", "ü", "x" * 129])
@pytest.mark.parametrize(
    "command",
    [
        ("start", "worker"),
        ("task", "submit", "hi", "--agent", "-"),
        ("task", "list"),
        ("task", "status", "x"),
        ("task", "cancel", "x"),
        ("task", "events", "x"),
        ("task", "retry", "x"),
        ("task", "dead", "list"),
        ("task", "dead", "drop", "x"),
        ("queue", "info"),
        ("worker", "list"),
        ("worker", "drain", "--all"),
        ("alerts", "check"),
        ("dev",),
    ],
    ids=" ".join,
)
def test_no_command_takes_a_queue_name_that_no_worker_can_read(command: tuple[str, ...], name: str) -> None:
    at = () if command == ("dev",) else ("--redis-url", URL)
    result = invoke(*command, *at, "--queue", name, stdin='{"name": "a", "model": "test"}')
    line = one_line(result)
    assert result.exit_code == 2
    assert "queue" in line
    assert ascii(name)[:20] in line
    assert len(line) < 300


def test_variable_and_file_are_held_to_the_same_rule(tmp_path: Path) -> None:
    submit = ("task", "submit", "hi", "--agent", "-", "--redis-url", URL)
    result = invoke(*submit, stdin='{"name": "a", "model": "test"}', ORBITER_QUEUE="q q")
    assert (result.exit_code, "ORBITER_QUEUE" in one_line(result)) == (2, True)
    file = tmp_path / "orbiter.toml"
    file.write_text('queue = "q q"\n')
    result = invoke(*submit, stdin='{"name": "a", "model": "test"}', ORBITER_CONFIG=str(file))
    assert (result.exit_code, str(file) in one_line(result)) == (2, True)


@pytest.mark.parametrize("task_id", BAD_TASK_IDS)
async def test_no_door_takes_an_id_that_no_task_can_have(task_id: str) -> None:
    with pytest.raises(InvalidNameError):
        check_task_id(task_id)
    with pytest.raises(ValueError, match="task_id"):
        TaskPayload(task_id=task_id)
    with pytest.raises(ValueError, match="task_id"):
        await distributed({"name": "a", "model": "test"}, "hi", redis_url=URL, task_id=task_id)
    with pytest.raises(InvalidNameError):
        await TaskBroker(URL).cancel(task_id)
    with pytest.raises(InvalidNameError):
        await TaskStore(URL).get_status(task_id)
    with pytest.raises(InvalidNameError):
        SyncTaskHandle(task_id, redis_url=URL)


@pytest.mark.parametrize("task_id", ["index", "by_time", "ended", "x" * 201, ""])
@pytest.mark.parametrize("command", ["status", "cancel", "events", "retry"])
def test_no_command_asks_for_an_id_that_no_task_can_have(command: str, task_id: str) -> None:
    # orbiter:task:index is a set: to read it as a task was an error of Redis' own.
    result = invoke("task", command, "--redis-url", URL, "--", task_id)
    assert (result.exit_code, "no task id" in one_line(result)) == (2, True)


@pytest.mark.parametrize("task_id", ["a b", "{x}", "*", "ü", "a\nb", "../x", "x" * 200])
def test_any_other_text_is_a_task_id_as_clients_of_0_1_use_it(task_id: str) -> None:
    assert TaskPayload(task_id=task_id).task_id == check_task_id(task_id) == task_id


@pytest.mark.parametrize("name", ["orbiter", "acme", "{acme}", "A-b_c.1", "x" * 64, "{" + "x" * 64 + "}"])
def test_a_good_namespace_is_taken_as_it_is(name: str) -> None:
    assert check_namespace(name) == WorkerSettings.of(namespace=name).namespace == name


@pytest.mark.parametrize("name", BAD_NAMESPACES)
async def test_no_door_takes_a_namespace_that_breaks_its_rule(name: str) -> None:
    with pytest.raises(SettingsError, match="namespace"):
        WorkerSettings.of(namespace=name)
    calls = [
        distributed({"name": "a", "model": "test"}, "hi", redis_url=URL, namespace=name),
        get_worker_fleet_status(URL, namespace=name),
        get_queue_info(URL, namespace=name),
        read_queue(URL, namespace=name),
    ]
    for call in calls:
        with pytest.raises(InvalidNameError, match="namespace") as caught:
            await call
        assert ascii(name)[:20] in str(caught.value)
    for made in (Client, SyncClient, TaskBroker, TaskStore, EventSubscriber, DeadLetters, WorkerControl):
        with pytest.raises(InvalidNameError, match="namespace"):
            made(URL, namespace=name)
    with pytest.raises(InvalidNameError, match="namespace"):
        SyncTaskHandle("x", redis_url=URL, namespace=name)


@pytest.mark.parametrize(
    "command",
    [
        ("start", "worker"),
        ("task", "submit", "hi", "--agent", "-"),
        ("task", "list"),
        ("task", "status", "x"),
        ("task", "cancel", "x"),
        ("task", "events", "x"),
        ("task", "retry", "x"),
        ("task", "dead", "list"),
        ("task", "dead", "show", "x"),
        ("task", "dead", "retry", "x"),
        ("task", "dead", "drop", "x"),
        ("queue", "info"),
        ("worker", "list"),
        ("worker", "drain", "--all"),
        ("worker", "quiet", "--all"),
        ("worker", "resume", "--all"),
        ("alerts", "check"),
        ("alerts", "export"),
        ("dev",),
    ],
    ids=" ".join,
)
def test_no_command_takes_a_namespace_that_breaks_its_rule(command: tuple[str, ...]) -> None:
    at = () if command in {("dev",), ("alerts", "export")} else ("--redis-url", URL)
    for words, variables in ((("--namespace", "a:b"), {}), ((), {"ORBITER_NAMESPACE": "a:b"})):
        result = invoke(*command, *at, *words, stdin='{"name": "a", "model": "test"}', **variables)
        line = one_line(result)
        assert (result.exit_code, "'a:b'" in line, "namespace" in line.lower()) == (2, True, True)


@pytest.mark.parametrize("name", ["fleet", "deploy", "task:index", "stream:x", "workers:w1", "acme:fleet"])
def test_a_queue_is_not_called_like_another_key_of_the_fleet(name: str) -> None:
    with pytest.raises(InvalidNameError, match="queue"):
        check_queue_name(name, "acme")
    with pytest.raises(SettingsError, match="queue"):
        WorkerSettings.of(queue=name, namespace="acme")
    # Without the prefix it is a key of its own.
    assert check_queue_name(name) == name
    with pytest.raises(InvalidNameError):
        check_queue_name("orbiter:fleet")


def test_a_queue_s_name_gets_the_namespace() -> None:
    assert WorkerSettings.of(namespace="acme").queue == "acme:tasks"
    assert WorkerSettings.of(namespace="acme", queue="mail").queue == "acme:mail"
    assert WorkerSettings.of(namespace="{acme}", queue="{acme}:mail").queue == "{acme}:mail"
    assert WorkerSettings.of(queue="mail").queue == "mail"
    for name in ("{acme}:mail", "{other}:mail"):
        with pytest.raises(InvalidNameError):
            check_queue_name(name, "acme")


@pytest.mark.parametrize("name", ["mail", "acme:mail", "{acme}:mail", "a:b:c", "acme:" + "x" * 128])
def test_a_whole_name_of_any_namespace_is_one(name: str) -> None:
    assert check_whole_queue_name(name) == name


@pytest.mark.parametrize("name", ["{mail}", "{a b}:mail", "{}:mail", "a b", "", "{acme}:", "{acme}:{mail}"])
def test_what_no_namespace_can_have_is_no_whole_name(name: str) -> None:
    with pytest.raises(InvalidNameError):
        check_whole_queue_name(name)
