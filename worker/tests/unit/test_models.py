"""The wire format, byte for byte where 0.1 has it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbiter.distributed.broker.store import decode
from orbiter.distributed.models import (
    InvalidPayloadError,
    StatusEvent,
    TaskPayload,
    TextEvent,
    ToolResultEvent,
    event_from_json,
    is_final,
)
from orbiter.distributed.settings import SettingsError, WorkerSettings

KEYS = [
    "task_id",
    "agent_config",
    "input",
    "messages",
    "model",
    "detailed",
    "metadata",
    "created_at",
    "timeout_seconds",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_payload_keys_are_in_the_order_of_the_wire() -> None:
    assert list(json.loads(TaskPayload().to_json())) == KEYS


def test_payload_survives_the_wire() -> None:
    task = TaskPayload(input="ü", metadata={"a": [1]}, created_at=12.5)
    assert TaskPayload.from_json(task.to_json()) == task


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("\ud800", "\ud800"),
        ("ü", "ü"),
        (TextEvent(text="t"), {"type": "text", "text": "t", "agent_name": ""}),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        (["\ud800", datetime(2026, 1, 2, tzinfo=UTC)], ["\ud800", "2026-01-02T00:00:00Z"]),
    ],
    ids=["half a pair", "not ASCII", "a model", "a datetime", "half a pair beside a datetime"],
)
def test_a_payload_is_ascii_whatever_is_in_it(value: Any, read: Any) -> None:
    text = TaskPayload(metadata={"a": value}).to_json()
    assert text.isascii()
    assert json.loads(text)["metadata"] == {"a": read}


def test_what_is_no_json_is_refused_with_the_name_of_the_task() -> None:
    with pytest.raises(InvalidPayloadError, match="task t: not JSON: Unable to serialize unknown type"):
        TaskPayload(task_id="t", metadata={"a": object()}).to_json()


def test_unknown_keys_are_ignored() -> None:
    assert TaskPayload.from_json('{"task_id": "a", "novel": 1}').task_id == "a"


@given(st.binary() | st.text() | JSON.map(json.dumps) | st.dictionaries(st.sampled_from(KEYS), JSON).map(json.dumps))
def test_anything_is_either_a_task_or_an_invalid_payload(text: Any) -> None:
    try:
        task = TaskPayload.from_json(text)
    except InvalidPayloadError as error:
        assert str(error)
    else:
        assert TaskPayload.from_json(task.to_json()).task_id == task.task_id


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"name": "a"}, "a"),
        ({"agents": [{"name": "x"}, {"name": "y"}]}, "swarm(x...)"),
        ({"agents": []}, "swarm(?...)"),
        ({"runtime": "callable", "target": "m:f"}, "m:f"),
        ({}, ""),
    ],
)
def test_agent_name(config: dict[str, Any], name: str) -> None:
    assert TaskPayload(agent_config=config).agent_name == name


def test_events_begin_with_their_type_and_end_with_our_numbers() -> None:
    event = TextEvent(text="t", agent_name="a", seq=3, attempt=2)
    assert event.to_json() == '{"type": "text", "text": "t", "agent_name": "a", "seq": 3, "attempt": 2}'
    assert event_from_json(event.to_json()) == event


def test_events_of_the_old_system_are_read() -> None:
    event = event_from_json('{"type": "tool_result", "tool_name": "t", "tool_call_id": "1", "arguments": {}}')
    assert event == ToolResultEvent(tool_name="t", tool_call_id="1")


@pytest.mark.parametrize("status", ["starting", "running", "waiting_for_tool", "completed", "cancelled", "error"])
def test_three_statuses_are_final(status: Any) -> None:
    assert is_final(StatusEvent(status=status)) == (status in {"completed", "cancelled", "error"})


def test_a_task_hash_of_the_old_system_is_read() -> None:
    task = decode({"status": "completed", "error": "", "retries": "1", "result": '{"output": "x"}', "odd": "1"})
    assert (task.status, task.error, task.retries, task.result) == ("completed", None, 1, {"output": "x"})
    assert decode({"status": "novel"}).status == "pending"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("concurrency", 0),
        ("concurrency", "many"),
        ("heartbeat_ttl", 0),
        ("drain_timeout", -1),
        ("drain_timeout", float("nan")),
        ("queue", "two words"),
        ("worker_id", "a/b"),
        ("executor", "magic"),
        ("unknown", 1),
    ],
)
def test_a_wrong_setting_is_named(setting: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=setting):
        WorkerSettings.of(**{setting: value})


def test_settings_of_nothing_are_the_defaults_of_the_guide() -> None:
    settings = WorkerSettings.of(worker_id=None)
    assert (settings.concurrency, settings.queue, settings.heartbeat_ttl) == (1, "orbiter:tasks", 30)
    assert settings.worker_id != WorkerSettings.of().worker_id


def test_import_prefixes_may_be_separated_by_commas() -> None:
    assert WorkerSettings.of(allow_import="a, b,").allow_import == ("a", "b")
    assert WorkerSettings.of(allow_import=("a,b", "c")).allow_import == ("a", "b", "c")
