"""EventPublisher: events of runs, in order, many a round trip; those of any thread become the loop's."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from orbiter.distributed.broker.events import (
    FLUSH_BYTES,
    FLUSH_EVENTS,
    MERGE_WINDOW,
    RESEND_AFTER,
    ROW_BYTES,
    EventLog,
    EventPublisher,
)
from orbiter.distributed.broker.records import Batch
from orbiter.distributed.models import ErrorEvent, StatusEvent, TextEvent, event_from_json, is_final


class Sent:
    """What a publisher has sent."""

    def __init__(self, *, max_event_bytes: int = 1_000_000) -> None:
        self.batches: list[Batch] = []
        self.calls: list[list[Batch]] = []
        self.sent_at: list[float] = []
        self.faults: list[Exception] = []
        self.publisher = EventPublisher(self._say, max_event_bytes=max_event_bytes)

    async def _say(self, batches: Sequence[Batch]) -> None:
        self.calls.append(list(batches))
        self.sent_at.append(asyncio.get_running_loop().time())
        if self.faults:
            raise self.faults.pop()
        self.batches.extend(batches)

    @property
    def events(self):
        return [event_from_json(text) for batch in self.batches for text in batch.events]


@pytest.mark.parametrize("own_loop", [False, True], ids=["a thread", "a thread with a loop of its own"])
async def test_event_of_a_thread_is_left_to_the_publishers_loop(own_loop: bool) -> None:
    """The thread runs while the loop does nothing: whatever it appended by itself would be there already."""
    sent = Sent()
    log = sent.publisher.log("t", 1)

    async def emits() -> None:
        log.emit("one ")
        await asyncio.sleep(0)
        log.emit("two")

    def plain() -> None:
        log.emit("one ")
        log.emit("two")

    thread = threading.Thread(target=(lambda: asyncio.run(emits())) if own_loop else plain)
    thread.start()
    thread.join()
    await sent.publisher.flush()
    assert sent.batches == []
    await asyncio.sleep(0)
    await sent.publisher.flush()
    assert "".join(event.text for event in sent.events) == "one two"


def error(text: str = "e") -> ErrorEvent:
    return ErrorEvent(error=text, error_type="E", recoverable=True)


async def test_events_of_a_run_are_numbered_without_gaps() -> None:
    sent = Sent()
    log = sent.publisher.log("t", 3)
    for number in range(3):
        log.emit(error(str(number)))
    await sent.publisher.flush()
    log.emit(error("3"))
    await sent.publisher.flush()
    assert [(batch.seq, batch.attempt, len(batch.events)) for batch in sent.batches] == [(1, 3, 3), (4, 3, 1)]
    assert [event.seq for event in sent.events] == [1, 2, 3, 4]


async def test_text_of_one_agent_that_gathers_becomes_one_event() -> None:
    sent = Sent()
    log, other = sent.publisher.log("t", 1), sent.publisher.log("u", 1)
    for event in ("a", "b", TextEvent(text="c", agent_name="x"), TextEvent(text="d", agent_name="x")):
        log.emit(event)
    other.emit("e")
    log.emit("f")
    await sent.publisher.flush()
    texts = {batch.task_id: [json.loads(text)["text"] for text in batch.events] for batch in sent.batches}
    assert texts == {"t": ["ab", "cd", "f"], "u": ["e"]}


@pytest.mark.parametrize(
    ("emitted", "left"),
    [
        (["a\ud83d", "\ude80b"], ["a", "\U0001f680b"]),
        (["\ud83d", "\ude80", "\ud83d"], ["\U0001f680", "\ufffd"]),
        (["\ud83d", TextEvent(text="\ude80", agent_name="other")], ["\ufffd", "\ufffd"]),
        (["\ud83d", StatusEvent(status="running", agent_name="", message=""), "\ude80"], ["\ufffd", None, "\ufffd"]),
        (["", "a"], ["", "a"]),
    ],
    ids=["across", "alone", "of another agent", "something between", "empty"],
)
async def test_halves_of_a_character_leave_as_one(emitted, left) -> None:
    """Each event leaves before the next is emitted, so that nothing is merged as it waits."""
    sent = Sent()
    log = sent.publisher.log("t", 1)
    for event in emitted:
        log.emit(event)
        await sent.publisher.flush()
    log.close()
    await sent.publisher.flush()
    assert [getattr(event, "text", None) for event in sent.events] == left
    assert log.backlog == 0


async def test_half_of_a_character_of_a_lost_claim_is_told_as_gone() -> None:
    sent, gone = Sent(), []
    log = sent.publisher.log("t", 1)
    log.on_sent = gone.append
    log.emit("\ud83d")
    log.close(discard=True)
    await sent.publisher.flush()
    assert (sent.events, gone) == ([], [1])


async def test_text_that_is_too_long_is_sent_in_pieces() -> None:
    sent = Sent(max_event_bytes=1600)
    log = sent.publisher.log("t", 1)
    log.emit("x" * 250)
    log.emit("y" * 99)
    await sent.publisher.flush()
    assert [len(event.text) for event in sent.events] == [100, 100, 50, 99]


@pytest.mark.parametrize("what", ["large", "no json"])
async def test_event_that_cannot_be_sent_is_replaced_by_an_error(what: str) -> None:
    sent = Sent(max_event_bytes=500)
    log = sent.publisher.log("t", 1)
    odd = error("x" * 1000)
    if what == "no json":
        odd = error().model_copy(update={"error": object()})
    log.emit(odd)
    log.emit(error("fine"))
    await sent.publisher.flush()
    replaced, fine = sent.events
    assert (replaced.type, replaced.seq, fine.seq) == ("error", 1, 2)
    assert (replaced.error_type == "EventTooLargeError") is (what == "large")
    assert fine.error == "fine"


async def test_log_refuses_what_is_no_event() -> None:
    with pytest.raises(TypeError):
        Sent().publisher.log("t", 1).emit(7)  # type: ignore[arg-type]


async def test_log_leaves_the_final_event_to_the_worker() -> None:
    sent = Sent()
    log = sent.publisher.log("t", 1)
    log.emit(StatusEvent(status="completed", agent_name="a"))
    await sent.publisher.flush()
    assert sent.calls == []
    log.emit("x")
    await sent.publisher.flush()
    number, text = log.last("completed", "a", 'said "so"')
    assert (number, text) == log.last("completed", "a", 'said "so"')
    final = event_from_json(text)
    assert is_final(final)
    assert (final.seq, final.attempt, final.message) == (2, 1, 'said "so"')


async def test_closed_log_takes_nothing_more() -> None:
    sent = Sent()
    log = sent.publisher.log("t", 1)
    log.emit("before")
    log.close()
    log.emit("behind")
    sent.publisher.add(log, error())
    await sent.publisher.flush()
    assert [event.text for event in sent.events] == ["before"]


async def test_lost_claim_drops_what_was_not_sent() -> None:
    sent = Sent()
    lost, ours = sent.publisher.log("t", 1), sent.publisher.log("u", 1)
    lost.emit("numbered")
    sent.faults.append(RedisConnectionError("gone"))
    with pytest.raises(RedisConnectionError):
        await sent.publisher.flush()
    lost.emit("gathered")
    ours.emit("kept")
    lost.close(discard=True)
    await sent.publisher.flush()
    assert [event.text for event in sent.events] == ["kept"]


async def test_flush_that_failed_sends_the_same_numbers_again() -> None:
    sent = Sent()
    log = sent.publisher.log("t", 1)
    log.emit(error("0"))
    sent.faults.append(RedisConnectionError("gone"))
    with pytest.raises(RedisConnectionError):
        await sent.publisher.flush()
    log.emit(error("1"))
    await sent.publisher.flush()
    first, again, then = sent.calls
    assert first == again
    assert [batch.seq for batch in then] == [2]


async def test_flush_sends_so_many_events_a_call() -> None:
    sent = Sent()
    log = sent.publisher.log("t", 1)
    for _ in range(FLUSH_EVENTS + 1):
        log.emit(error())
    await sent.publisher.flush()
    assert [len(batch.events) for batch in sent.batches] == [FLUSH_EVENTS, 1]


async def test_lone_event_leaves_at_once_and_what_follows_gathers_behind_it() -> None:
    sent = Sent()
    log, began = sent.publisher.log("t", 1), asyncio.get_running_loop().time()
    running = asyncio.create_task(sent.publisher.run())
    log.emit("a")
    await asyncio.sleep(MERGE_WINDOW / 2)
    log.emit("b")
    await asyncio.sleep(MERGE_WINDOW / 4)
    log.emit("c")
    await asyncio.sleep(MERGE_WINDOW)
    assert [event.text for event in sent.events] == ["a", "bc"]
    assert sent.sent_at == [pytest.approx(began + at) for at in (0, MERGE_WINDOW)]
    await asyncio.sleep(1)
    log.emit("d")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sent.sent_at[-1] == asyncio.get_running_loop().time()
    running.cancel()


async def test_event_that_comes_late_delays_only_the_next_one() -> None:
    """Tokens at the rate of the windows would otherwise all wait for as long as the latest of them was late."""
    sent = Sent()
    log, began = sent.publisher.log("t", 1), asyncio.get_running_loop().time()
    running = asyncio.create_task(sent.publisher.run())
    late = {3: 0.01}
    for number in range(8):
        at = began + number * MERGE_WINDOW + late.get(number, 0.0)
        await asyncio.sleep(at - asyncio.get_running_loop().time())
        log.emit(f"{number}")
    await asyncio.sleep(MERGE_WINDOW)
    running.cancel()
    waited = [at - began - number * MERGE_WINDOW for number, at in enumerate(sent.sent_at)]
    assert waited == [pytest.approx(0.01 if number in (3, 4) else 0.0, abs=0.003) for number in range(8)]


async def test_text_of_many_runs_that_stream_at_once_merges_in_each() -> None:
    sent = Sent()
    logs = [sent.publisher.log(f"t{number}", 1) for number in range(16)]
    running = asyncio.create_task(sent.publisher.run())
    for word in range(200):
        for log in logs:
            log.emit(f"{word} ")
        await asyncio.sleep(0.001)
    await asyncio.sleep(MERGE_WINDOW)
    running.cancel()
    for log in logs:
        texts = [
            json.loads(text)["text"] for batch in sent.batches if batch.task_id == log.task_id for text in batch.events
        ]
        assert "".join(texts) == "".join(f"{word} " for word in range(200))
        # One a window, not one a delta.
        assert len(texts) <= 0.2 / MERGE_WINDOW + 2


async def test_run_that_says_much_keeps_no_other_waiting() -> None:
    sent = Sent()
    much, little = sent.publisher.log("much", 1), sent.publisher.log("little", 1)
    for _ in range(3 * FLUSH_EVENTS):
        much.emit(error())
    little.emit("x")
    await sent.publisher.flush()
    assert [[batch.task_id for batch in call] for call in sent.calls][:2] == [["much"], ["little", "much"]]


async def test_publisher_sends_again_after_an_error() -> None:
    sent = Sent()
    log, began = sent.publisher.log("t", 1), asyncio.get_running_loop().time()
    sent.faults += [RedisConnectionError("gone"), OSError()]
    running = asyncio.create_task(sent.publisher.run())
    log.emit("a")
    await asyncio.sleep(2)
    assert [event.text for event in sent.events] == ["a"]
    steps = [at * RESEND_AFTER for at in range(3)]
    assert sent.sent_at == [pytest.approx(began + step) for step in steps]
    running.cancel()


async def test_flush_waits_for_one_that_is_under_way() -> None:
    sent = Sent()
    answer = asyncio.get_running_loop().create_future()
    ended: list[str] = []

    async def hangs(batches: Sequence[Batch]) -> None:
        await answer

    publisher = EventPublisher(hangs)
    publisher.log("t", 1).emit("a")

    async def flush(name: str) -> None:
        await publisher.flush()
        ended.append(name)

    both = [asyncio.create_task(flush(name)) for name in ("first", "second")]
    await asyncio.sleep(5)
    assert ended == []
    answer.set_result(None)
    await asyncio.gather(*both)
    assert ended == ["first", "second"]
    assert sent.calls == []


class Waits(Sent):
    """A publisher whose log may have so much waiting, with what its logs were told of their events' sizes."""

    def __init__(self, *, backlog: int = 10 * ROW_BYTES, in_all: int = 1_000_000) -> None:
        super().__init__()
        self.publisher = EventPublisher(self._say, max_backlog=backlog, max_total_backlog=in_all)
        self.sizes: dict[str, list[int]] = {}

    def log(self, task_id: str = "t") -> EventLog:
        log = self.publisher.log(task_id, 1)
        log.on_sent = self.sizes.setdefault(task_id, []).append
        return log

    def of(self, task_id: str) -> list[str]:
        """Return what was sent of a log, with an error as its type; it is numbered without gaps."""
        events = [event_from_json(text) for batch in self.batches if batch.task_id == task_id for text in batch.events]
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        return [event.text if event.type == "text" else event.error_type for event in events]


def said(agent: str, text: str) -> TextEvent:
    """Return text that merges with no other agent's."""
    return TextEvent(text=text, agent_name=agent)


async def test_backlog_is_what_was_emitted_and_not_sent() -> None:
    sent = Waits()
    log = sent.log()
    log.emit("four")
    log.emit("five!")
    one = error().to_json(seq=10**10 - 1, attempt=1)
    log.emit(error())
    assert log.backlog == 9 + len(one)
    sent.faults.append(RedisConnectionError("gone"))
    with pytest.raises(RedisConnectionError):
        await sent.publisher.flush()
    assert (log.backlog, sent.sizes["t"]) == (9 + len(one), [])
    await sent.publisher.flush()
    assert (log.backlog, sent.sizes["t"]) == (0, [9 + len(one)])


async def test_events_beyond_the_backlog_are_left_out_and_one_event_says_so() -> None:
    sent = Waits(backlog=4 * (ROW_BYTES + 1))
    log = sent.log()
    for number in range(7):
        log.emit(said(str(number), str(number)))
    assert log.backlog == 4
    await sent.publisher.flush()
    log.emit("behind")
    await sent.publisher.flush()
    assert sent.of("t") == ["0", "1", "2", "3", "EventsLeftOutError", "behind"]
    told = sent.events[4]
    assert told.recoverable
    assert told.error.startswith("3 events (3 bytes) were left out")
    assert (log.backlog, sum(sent.sizes["t"])) == (0, 7 + len("behind"))


async def test_events_are_left_out_until_half_of_the_backlog_is_free() -> None:
    """Otherwise every small event that just fits would be followed by one that says what did not."""
    sent = Waits(backlog=1_500_000)
    log = sent.log()
    log.emit("x" * 1_400_000)
    log.emit(said("a", "y" * 200_000))
    log.emit(said("b", "small"))
    assert log.left_out == 2
    held = sent.publisher.flush()
    sent.faults.append(RedisConnectionError("gone"))
    with pytest.raises(RedisConnectionError):
        await held
    log.emit(said("b", "small"))
    assert log.left_out == 3
    await sent.publisher.flush()
    assert sent.of("t")[-1] == "EventsLeftOutError"
    assert sum(len(text) for text in sent.of("t")[:-1]) == 1_400_000


async def test_text_that_would_be_merged_counts_too() -> None:
    sent = Waits(backlog=ROW_BYTES + 10)
    log = sent.log()
    for _ in range(5):
        log.emit("four")
    log.close()
    await sent.publisher.flush()
    assert sent.of("t") == ["fourfour", "EventsLeftOutError"]
    assert sum(sent.sizes["t"]) == 20


async def test_event_larger_than_the_backlog_is_taken_when_nothing_else_waits() -> None:
    sent = Waits()
    log = sent.log()
    log.emit("x" * 200_000)
    log.emit("y")
    await sent.publisher.flush()
    assert sent.of("t") == ["x" * 62_500] * 3 + ["x" * 12_500, "EventsLeftOutError"]
    assert sum(sent.sizes["t"]) == 200_001


async def test_backlog_of_all_logs_is_limited_and_a_log_alone_goes_on_when_others_have_left() -> None:
    sent = Waits(in_all=4 * ROW_BYTES)
    first, second = sent.log("t"), sent.log("u")
    for number in range(3):
        first.emit(said(str(number), "x" * 60))
    second.emit("y")
    assert (second.left_out, second.backlog) == (1, 0)
    first.close(discard=True)
    assert second.left_out == 0, "it is told at once, not with the log's next event"
    second.emit("z")
    await sent.publisher.flush()
    assert sent.of("u") == ["EventsLeftOutError", "z"]
    assert sum(sent.sizes["t"]) == 180, "what was discarded does not wait any more"


async def test_what_was_left_out_is_said_before_the_log_is_closed_and_the_last_word_is_kept() -> None:
    sent = Waits()
    log = sent.log()
    log.emit("x" * 5000)
    log.emit(said("a", "left out"))
    log.close(error("the run failed"))
    await sent.publisher.flush()
    assert sent.of("t") == ["x" * 5000, "EventsLeftOutError", "E"]
    assert log.last("completed", "", "")[0] == 4


async def test_left_out_log_that_is_discarded_says_nothing() -> None:
    sent = Waits()
    log = sent.log()
    log.emit("x" * 5000)
    log.emit(said("a", "left out"))
    log.close(discard=True)
    await sent.publisher.flush()
    assert (sent.of("t"), log.backlog, sum(sent.sizes["t"])) == ([], 0, 5000 + len("left out"))


async def test_event_too_large_to_send_counts_in_full_as_gone() -> None:
    sent = Waits(backlog=1_000_000)
    log = sent.log()
    log.emit(error("x" * 1_000_000))
    assert log.backlog < 1000
    size = len(error("x" * 1_000_000).to_json(seq=10**10 - 1, attempt=1))
    await sent.publisher.flush()
    assert sent.of("t") == ["EventTooLargeError"]
    assert sum(sent.sizes["t"]) == size


async def test_batches_are_limited_in_size_too() -> None:
    sent = Waits(backlog=10_000_000, in_all=10_000_000)
    log = sent.log()
    for number in range(5):
        log.emit(said(str(number), "x" * 300_000))
    await sent.publisher.flush()
    assert [sum(map(len, batch.events)) < 2 * FLUSH_BYTES for batch in sent.batches] == [True, True]
    assert len("".join(sent.of("t"))) == 1_500_000


@pytest.mark.parametrize("number", [10, 50_000], ids=["fits", "floods"])
async def test_threads_that_emit_fill_no_memory_while_the_loop_does_nothing(number: int) -> None:
    sent = Waits(backlog=1_000_000, in_all=2_000_000)
    log = sent.log()

    def emits() -> None:
        for at in range(number):
            log.emit(said(str(at), f"{at:08d}"))

    thread = threading.Thread(target=emits)
    thread.start()
    thread.join()
    assert log.backlog <= 1_000_000
    assert log.posted <= 1_000_000
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await sent.publisher.flush()
    log.emit("behind")
    log.close()
    await sent.publisher.flush()
    kept = [text for text in sent.of("t") if text not in {"EventsLeftOutError", "behind"}]
    assert kept == [f"{at:08d}" for at in range(len(kept))]
    assert sent.of("t")[len(kept) :] == (["behind"] if number == 10 else ["EventsLeftOutError", "behind"])
    assert (log.backlog, sum(sent.sizes["t"])) == (0, 8 * number + len("behind"))


async def test_event_of_a_thread_that_comes_after_the_close_is_told_as_gone() -> None:
    sent = Waits()
    log = sent.log()
    thread = threading.Thread(target=lambda: log.emit("late"))
    thread.start()
    thread.join()
    log.close()
    await asyncio.sleep(0)
    assert (sent.sizes["t"], log.backlog, sent.of("t")) == ([4], 0, [])


async def test_event_is_written_as_it_was_when_it_was_emitted() -> None:
    sent = Sent()
    log = sent.publisher.log("t", 1)
    event = error("before")
    log.emit(event)
    event.error = "after"
    await sent.publisher.flush()
    assert [event.error for event in sent.events] == ["before"]


class Own(ErrorEvent):
    """An event that is written by its own rule."""

    def to_json(self, *, seq: int | None = None, attempt: int | None = None) -> str:
        """Put the number first."""
        fields = {"seq": seq, "attempt": attempt, "type": "error", "error": self.error, "error_type": "Own"}
        return json.dumps(fields)


async def test_event_that_is_written_by_its_own_rule_has_its_number() -> None:
    sent = Sent()
    log = sent.publisher.log("t", 1)
    log.emit("first")
    log.emit(Own(error="e", error_type="Own"))
    await sent.publisher.flush()
    assert [(event.seq, event.attempt) for event in sent.events] == [(1, 1), (2, 1)]
