"""ChildLog: events of a run, as many as there is credit for."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from orbiter.distributed.execution.processes.child_log import CREDIT, KEPT, ChildLog
from orbiter.distributed.execution.processes.frames import Kind
from orbiter.distributed.limits import MERGED_TEXT
from orbiter.distributed.models import ErrorEvent, StatusEvent, TextEvent, ToolCallEvent, ToolResultEvent
from tests.unit.execution.processes.support import until

PIECE = 10_000


class Sending:
    """A log whose channel keeps what was sent."""

    def __init__(self, largest: int = 1_000_000) -> None:
        self.frames: list[tuple[int, int, bytes]] = []
        self.log = ChildLog(self, 5, largest, asyncio.get_running_loop())  # type: ignore[arg-type]

    def send(self, kind: int, run: int = 0, body: bytes = b"") -> None:
        self.frames.append((kind, run, body))

    @property
    def events(self) -> list[dict[str, Any]]:
        assert all(kind == Kind.EVENTS and run == 5 for kind, run, _ in self.frames)
        return [json.loads(body) for *_, body in self.frames]

    @property
    def size(self) -> int:
        return sum(len(body) for *_, body in self.frames)

    @property
    def text(self) -> str:
        return "".join(event["text"] for event in self.events if event["type"] == "text")


def named(number: int) -> TextEvent:
    """Text that merges with none beside it."""
    return TextEvent(text=f"{number:05}" + "x" * (PIECE - 5), agent_name=str(number % 2))


async def test_log_sends_text_of_one_turn_as_one_event() -> None:
    sending = Sending()
    for word in ("a", "b", TextEvent(text="c")):
        sending.log.emit(word)
    assert sending.frames == []
    await asyncio.sleep(0)
    assert [event["text"] for event in sending.events] == ["abc"]
    sending.log.emit("d")
    await asyncio.sleep(0)
    assert [event["text"] for event in sending.events] == ["abc", "d"]


async def test_log_merges_neither_two_agents_nor_across_another_event() -> None:
    sending = Sending()
    sending.log.emit(TextEvent(text="a", agent_name="one"))
    sending.log.emit(TextEvent(text="b", agent_name="two"))
    sending.log.emit(ToolCallEvent(tool_call_id="c1", tool_name="look"))
    sending.log.emit(TextEvent(text="c", agent_name="two"))
    await asyncio.sleep(0)
    assert [event.get("text", event["type"]) for event in sending.events] == ["a", "b", "tool_call", "c"]


async def test_log_cuts_text_that_is_long() -> None:
    sending = Sending(largest=2_000_000)
    text = "".join(chr(ord("a") + at % 26) for at in range(MERGED_TEXT * 2 + 7))
    sending.log.emit(text)
    await asyncio.sleep(0)
    assert [len(event["text"]) for event in sending.events] == [MERGED_TEXT, MERGED_TEXT, 7]
    assert sending.text == text


@pytest.mark.parametrize("letter", ["x", "ü", "\U0001f680", "\x00"])
async def test_log_leaves_out_no_text_where_events_must_be_small(letter: str) -> None:
    sending = Sending(largest=10_000)
    text = letter * 25_000
    for at in range(0, len(text), 100):
        sending.log.emit(text[at : at + 100])
    sending.log.emit(text)
    await asyncio.sleep(0)
    assert sending.text == text * 2
    assert max(len(body) for *_, body in sending.frames) <= 10_000


async def test_log_takes_neither_other_things_nor_a_final_status() -> None:
    sending = Sending()
    with pytest.raises(TypeError, match="emitted int"):
        sending.log.emit(7)  # type: ignore[arg-type]
    sending.log.emit(StatusEvent(status="completed", agent_name="a", message=""))
    await asyncio.sleep(0)
    assert sending.frames == []


async def test_log_sends_no_more_than_it_has_credit_for() -> None:
    sending = Sending()
    for number in range(CREDIT // PIECE * 2):
        sending.log.emit(named(number))
    await asyncio.sleep(0)
    sent = sending.size
    assert CREDIT <= sent < CREDIT + PIECE * 2
    sending.log.give(PIECE * 3)
    assert sent < sending.size <= sent + PIECE * 4
    # What is given back twice is no more than there was.
    sending.log.give(CREDIT * 100)
    sending.log.give(CREDIT * 100)
    assert sending.log._credit == CREDIT
    assert [int(event["text"][:5]) for event in sending.events] == list(range(CREDIT // PIECE * 2))


async def test_log_leaves_out_what_nobody_can_keep_and_says_so_behind_the_rest() -> None:
    sending = Sending()
    number = KEPT // PIECE + 30
    for at in range(number):
        sending.log.emit(named(at))
    await asyncio.sleep(0)
    assert sending.size < CREDIT + PIECE * 2
    while sending.log._events:
        sending.log.give(CREDIT)
    sending.log.give(CREDIT)
    *texts, last = sending.events
    assert [int(event["text"][:5]) for event in texts] == list(range(number - 30))
    assert (last["error_type"], last["recoverable"]) == ("EventsLeftOutError", True)
    assert last["error"].startswith(f"30 events of {30 * PIECE} bytes were left out")
    sending.log.emit("again")
    await asyncio.sleep(0)
    assert sending.events[-1]["text"] == "again"


async def test_event_is_left_out_for_whatever_makes_it_too_large() -> None:
    sending = Sending(50_000)
    sending.log.emit(TextEvent(text="x", agent_name="x" * 50_000))
    await asyncio.sleep(0)
    [event] = sending.events
    assert event["error_type"] == "EventTooLargeError"


async def test_thread_that_emits_beyond_the_credit_waits_for_more() -> None:
    sending = Sending()
    number = CREDIT * 3 // PIECE
    emitted: list[int] = []

    def emit() -> None:
        for at in range(number):
            sending.log.emit(named(at))
            emitted.append(at)

    thread = threading.Thread(target=emit)
    thread.start()
    await until(lambda: not sending.log._may_emit.is_set())
    await asyncio.sleep(0.05)
    assert thread.is_alive()
    # What was sent and what is kept: one event beyond the credit at most.
    assert len(emitted) * PIECE <= CREDIT * 2 + PIECE * 2
    while thread.is_alive():
        sending.log.give(CREDIT)
        await asyncio.sleep(0.001)
    sending.log.give(CREDIT)
    await until(lambda: len(sending.events) == number)
    assert [int(event["text"][:5]) for event in sending.events] == list(range(number))


async def test_thread_that_waits_is_let_go_when_the_run_ends() -> None:
    sending = Sending()
    thread = threading.Thread(target=lambda: [sending.log.emit(named(at)) for at in range(400)])
    thread.start()
    await until(lambda: not sending.log._may_emit.is_set())
    sending.log.close()
    await until(lambda: not thread.is_alive())


async def test_pace_waits_while_there_is_no_credit() -> None:
    sending = Sending()
    for at in range(CREDIT * 2 // PIECE + 1):
        sending.log.emit(named(at))
    await asyncio.sleep(0)
    assert not sending.log._may_emit.is_set() or sending.log._size <= sending.log._credit
    for at in range(20):
        sending.log.emit(named(at))
    paced = asyncio.create_task(sending.log.pace())
    await asyncio.sleep(0.05)
    assert not paced.done()
    for _ in range(3):
        sending.log.give(CREDIT)
    await asyncio.wait_for(paced, 60)


async def test_pace_lets_others_have_their_turn_now_and_then() -> None:
    sending = Sending()
    turned = False

    async def other() -> None:
        nonlocal turned
        turned = True

    task = asyncio.create_task(other())
    sending.log._turned -= 1
    await sending.log.pace()
    assert turned
    await task


async def test_close_sends_all_and_takes_no_more() -> None:
    sending = Sending()
    for number in range(200):
        sending.log.emit(named(number))
    sending.log.close()
    assert [int(event["text"][:5]) for event in sending.events] == list(range(200))
    sending.log.emit("late")
    await asyncio.sleep(0)
    assert len(sending.events) == 200
    await sending.log.pace()


async def test_event_that_is_too_large_or_no_json_is_named_in_its_place() -> None:
    sending = Sending(largest=1000)
    sending.log.emit(ToolResultEvent(tool_call_id="c1", tool_name="large", arguments={"x": "y" * 2000}))
    sending.log.emit(ErrorEvent(error="fine", error_type="E", recoverable=True))
    sending.log.emit(ToolResultEvent(tool_call_id="c1", tool_name="odd", arguments={"x": object()}))
    await asyncio.sleep(0)
    large, fine, odd = sending.events
    assert (large["error_type"], fine["error"]) == ("EventTooLargeError", "fine")
    assert "--max-event-bytes" in large["error"]
    assert "an event of type 'tool_result' is not JSON" in odd["error"]


async def test_log_sends_usage_from_any_thread_whatever_the_credit() -> None:
    sending = Sending()
    sending.log._credit = 0
    sending.log.spend("p:m", "a", 3, 4)
    thread = threading.Thread(target=sending.log.spend, args=("p:" + "m" * 500, "b", 5, 6))
    thread.start()
    await until(lambda: len(sending.frames) == 2)
    thread.join()
    assert [(kind, run) for kind, run, _ in sending.frames] == [(Kind.SPENT, 5)] * 2
    first, second = (json.loads(body) for *_, body in sending.frames)
    assert first == ["p:m", "a", 3, 4]
    assert (len(second[0]), second[1:]) == (100, ["b", 5, 6])
