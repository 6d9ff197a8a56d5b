"""Printed: lines of user code, with the task that wrote each."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from orbiter.distributed.execution.processes.printed import (
    FIELD,
    MARK,
    TASK_ID,
    PrintedLines,
    RecordHandler,
    TaggedStream,
)

Line = tuple[str | int, ...]


class Reading:
    """What a supervisor reads, with a clock of its own."""

    def __init__(self, rate: int = 1000) -> None:
        self.lines: list[Line] = []
        self.now = 1.0
        self.printed = PrintedLines(lambda *line: self.lines.append(line), rate=rate, clock=lambda: self.now)

    @property
    def texts(self) -> list[str]:
        return [text for *_, text in self.lines]


class Pipe:
    """A pipe, and a reader of all that was written to it."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)

    def lines(self) -> list[Line]:
        reading = Reading()
        try:
            while data := os.read(self.reading, 65536):
                reading.printed.feed(data)
        except BlockingIOError:
            pass
        reading.printed.end()
        return reading.lines


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.reading)
    os.close(pipe.writing)


def logger(name: str, pipe: Pipe) -> logging.Logger:
    """Return a logger that writes to a pipe only, and is nobody else's."""
    log = logging.Logger(name)  # noqa: LOG001
    log.addHandler(RecordHandler(pipe.writing))
    return log


def test_stream_writes_whole_lines_with_their_task(pipe: Pipe) -> None:
    stream = TaggedStream(pipe.writing)
    TASK_ID.set("t1")
    print("one\ntwo", file=stream)
    print("three", end="", file=stream)
    stream.flush()
    assert pipe.lines() == [("t1", logging.INFO, "", "one"), ("t1", logging.INFO, "", "two")]
    print(" and more", file=stream)
    assert pipe.lines() == [("t1", logging.INFO, "", "three and more")]


async def test_two_tasks_that_print_at_once_keep_their_lines(pipe: Pipe) -> None:
    stream = TaggedStream(pipe.writing)

    async def prints(task_id: str) -> None:
        TASK_ID.set(task_id)
        for number in range(20):
            stream.write(f"{task_id} ")
            await asyncio.sleep(0)
            stream.write(f"{number}\n")

    await asyncio.gather(*(asyncio.create_task(prints(task_id)) for task_id in ("a", "b")))
    found = pipe.lines()
    for task_id in ("a", "b"):
        assert [text for who, _, _, text in found if who == task_id] == [f"{task_id} {number}" for number in range(20)]
    assert len(found) == 40


def test_threads_that_print_at_once_never_mix_their_lines(pipe: Pipe) -> None:
    stream = TaggedStream(pipe.writing)

    def prints(task_id: str) -> None:
        TASK_ID.set(task_id)
        for number in range(100):
            print(task_id * 20, number, file=stream)

    threads = [threading.Thread(target=prints, args=(task_id,)) for task_id in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = pipe.lines()
    for task_id in "abc":
        wrote = [text for who, _, _, text in found if who == task_id]
        assert wrote == [f"{task_id * 20} {number}" for number in range(100)]


def test_line_without_an_end_leaves_in_pieces(pipe: Pipe) -> None:
    stream = TaggedStream(pipe.writing)
    stream.write("x" * 9000)
    assert [len(text) for *_, text in pipe.lines()] == [4000, 4000]
    stream.write("\n")
    assert [len(text) for *_, text in pipe.lines()] == [1000]


def test_stream_is_not_one_tasks_to_close(pipe: Pipe) -> None:
    stream = TaggedStream(pipe.writing)
    stream.close()
    stream.write("half a pair: \ud83d\n")
    [(_, _, _, text)] = pipe.lines()
    assert text == "half a pair: \\ud83d"
    assert stream.fileno() == pipe.writing


def test_stream_that_nobody_reads_fails_no_task() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    TaggedStream(writing).write("anybody?\n")
    os.close(writing)


def test_log_record_keeps_level_logger_task_and_traceback(pipe: Pipe) -> None:
    log = logger("tool.deep", pipe)
    TASK_ID.set("t7")
    try:
        int("boom")
    except ValueError:
        log.exception("it %s\nagain", "broke")
    log.warning("of another", extra={"task_id": "t8"})
    (first, second) = pipe.lines()
    assert first[:4] == ("t7", logging.ERROR, "tool.deep", "it broke\nagain")
    assert first[4].startswith("Traceback")
    assert first[4].endswith("ValueError: invalid literal for int() with base 10: 'boom'")
    assert second == ("t8", logging.WARNING, "tool.deep", "of another")


def test_long_record_keeps_its_message_s_beginning_and_its_traceback_s_end(pipe: Pipe) -> None:
    log = logger("tool", pipe)
    log.error("begin%s", "x" * 20_000, exc_info=ValueError("y" * 20_000 + "end"))
    log.error("one%stwo", FIELD)
    (cut, whole) = pipe.lines()
    assert (cut[3][:5], cut[4][-3:], len(cut[3]), len(cut[4])) == ("begin", "end", 8000, 8000)
    assert whole[3:] == ("one two",)


def test_record_that_cannot_be_formatted_is_reported_and_no_error(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = logger("tool", pipe)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    log.warning("%d", "no number")
    assert pipe.lines() == []
    assert "TypeError" in capsys.readouterr().err


def test_line_without_a_mark_is_nobodys() -> None:
    reading = Reading()
    reading.printed.feed(b"malloc(): corrupted\n\xff\xfe\n\n")
    assert reading.lines == [("", logging.INFO, "", "malloc(): corrupted"), ("", logging.INFO, "", "\ufffd\ufffd")]


def test_line_that_is_cut_anywhere_is_read_once() -> None:
    data = f"{MARK}t1{FIELD}one\n{MARK}t2{FIELD}40{FIELD}tool{FIELD}two\nraw\n".encode()
    expected = [("t1", logging.INFO, "", "one"), ("t2", logging.ERROR, "tool", "two"), ("", logging.INFO, "", "raw")]
    for at in range(len(data) + 1):
        reading = Reading()
        reading.printed.feed(data[:at])
        reading.printed.feed(data[at:])
        assert reading.lines == expected


def test_last_words_need_no_line_end() -> None:
    reading = Reading()
    reading.printed.feed(b"Fatal Python error: Segmentation fault")
    assert reading.lines == []
    reading.printed.end()
    reading.printed.end()
    assert reading.texts == ["Fatal Python error: Segmentation fault"]


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (f"{MARK}t1", []),
        (f"{MARK}{FIELD}no task", [("", logging.INFO, "", "no task")]),
        (f"{MARK}t1{FIELD}a{FIELD}b", [("t1", logging.INFO, "", f"a{FIELD}b")]),
        (f"{MARK}t1{FIELD}high{FIELD}x{FIELD}y", [("t1", logging.INFO, "", f"high{FIELD}x{FIELD}y")]),
        (f"{MARK}t1{FIELD}999999{FIELD}x{FIELD}y", [("t1", logging.CRITICAL, "x", "y")]),
    ],
)
def test_line_that_user_code_forges_is_only_a_line(line: str, read: list[Line]) -> None:
    reading = Reading()
    reading.printed.feed(f"{line}\n".encode())
    assert reading.lines == read


def test_flood_is_counted_and_the_next_second_is_read_again() -> None:
    reading = Reading(rate=10)
    reading.printed.feed(b"line\n" * 25)
    reading.printed.feed(b"line\n" * 1000 + b"half")
    assert len(reading.lines) == 10
    reading.now += 1
    reading.printed.feed(b" rest\nnext\n")
    assert reading.texts[10] == "1015 printed lines were left out: too many at once"
    assert reading.lines[10][1] == logging.WARNING
    assert reading.texts[-1] == "next"


def test_flood_without_a_line_end_is_bounded() -> None:
    reading = Reading(rate=100)
    for _ in range(100):
        reading.printed.feed(b"x" * 10_000)
    assert len(reading.printed._rest) <= 20_000
    assert sum(map(len, reading.texts)) <= 100 * PrintedLines.BYTES_A_LINE + 10_000


def test_number_of_left_out_lines_is_told_at_the_end() -> None:
    reading = Reading(rate=1)
    reading.printed.feed(b"a\nb\nc\n")
    reading.printed.end()
    assert reading.texts == ["a", "2 printed lines were left out: too many at once"]
