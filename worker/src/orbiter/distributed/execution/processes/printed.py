"""Printed: what user code prints and logs leaves an executor process by lines, each with the task that wrote it.

A line of ours begins with a mark that text does not hold: mark, task id, end of field; a log record has two more fields
(level, logger) behind the task id, and its traceback, if any, behind the message. A line without the mark comes from a
C library or from a child of a tool.
"""

from __future__ import annotations

import io
import logging
import os
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MARK, FIELD, BREAK = "\x1e", "\x1f", "\x1d"
# The task that runs here, in asyncio tasks and threads that it has started, too.
TASK_ID: ContextVar[str] = ContextVar("orbiter_task_id", default="")
_LONGEST = 4000
# Logger of what tasks print.
PRINTED = "orbiter.tasks"


class TaggedStream(io.TextIOWrapper):
    """Stands in for ``sys.stdout`` and ``sys.stderr``: writes whole lines, each under its task's id.

    Args:
        descriptor: Where lines go.
    """

    def __init__(self, descriptor: int) -> None:
        raw = io.FileIO(descriptor, "wb", closefd=False)
        super().__init__(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", write_through=True)
        self._descriptor = descriptor
        self._partial: dict[str, str] = {}
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Write the lines that are whole now."""
        task_id = TASK_ID.get()
        with self._lock:
            *lines, rest = (self._partial.pop(task_id, "") + text).split("\n")
            while len(rest) > _LONGEST:
                lines.append(rest[:_LONGEST])
                rest = rest[_LONGEST:]
            if rest:
                self._partial[task_id] = rest
        if lines:
            head = f"{MARK}{task_id}{FIELD}"
            _write(self._descriptor, "".join(f"{head}{line}\n" for line in lines if line))
        return len(text)

    def flush(self) -> None:
        """Do nothing: whole lines are written at once."""

    def close(self) -> None:
        """Do nothing: it is not one task's to close."""


class RecordHandler(logging.Handler):
    """Sends log records to the supervisor, whose log they are part of."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as one line."""
        try:
            task_id = getattr(record, "task_id", None) or TASK_ID.get()
            fields = [task_id, str(record.levelno), record.name, record.getMessage()[: _LONGEST * 2]]
            if record.exc_info:
                # Its end tells more than its beginning.
                fields.append(logging.Formatter().formatException(record.exc_info)[-_LONGEST * 2 :])
            line = FIELD.join(field.replace(FIELD, " ").replace("\n", BREAK) for field in fields)
            _write(self._descriptor, f"{MARK}{line}\n")
        except Exception:  # noqa: BLE001 - as logging has it
            self.handleError(record)


def _write(descriptor: int, text: str) -> None:
    data = text.encode("utf-8", "backslashreplace")
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        pass  # nobody reads any more: the supervisor has ended


class PrintedLines:
    """Reads what an executor process prints, on the supervisor's side; never makes it wait.

    Args:
        log: Given each line: task id, level, logger's name (``""``: printed), text, and a record's traceback if any.
        rate: Lines a second that are logged; of more only the number.
        clock: Monotonic seconds.
    """

    BYTES_A_LINE = 1000

    def __init__(self, log: Callable[..., None], *, rate: int, clock: Callable[[], float]) -> None:
        self._log = log
        self._rate = rate
        self._clock = clock
        self._rest = b""
        self._second = 0.0
        self._left = rate
        self._bytes_left = rate * self.BYTES_A_LINE
        self._dropped = 0

    def feed(self, data: bytes) -> None:
        """Take some output."""
        now = self._clock()
        if now - self._second >= 1:
            self._log_dropped()
            self._second, self._left, self._bytes_left = now, self._rate, self._rate * self.BYTES_A_LINE
        if self._left <= 0 or self._bytes_left <= 0:
            # Cheap: a flood costs a count of line ends.
            self._dropped += data.count(b"\n")
            self._rest = b""
            return
        self._bytes_left -= len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST * 5:
            lines, self._rest = [*lines, self._rest], b""
        for number, line in enumerate(lines):
            if self._left <= 0:
                self._dropped += len(lines) - number
                break
            if line:
                self._left -= 1
                self._line(line.decode("utf-8", "replace"))

    def end(self) -> None:
        """Log the last line, which has no line end."""
        if self._rest and self._left > 0:
            self._line(self._rest.decode("utf-8", "replace"))
        self._rest = b""
        self._log_dropped()

    def _log_dropped(self) -> None:
        if self._dropped:
            self._log("", logging.WARNING, "", f"{self._dropped} printed lines were left out: too many at once")
            self._dropped = 0

    def _line(self, line: str) -> None:
        if not line.startswith(MARK):
            self._log("", logging.INFO, "", line[: _LONGEST * 5])
            return
        fields = line[1:].split(FIELD, 4)
        if len(fields) >= 4 and fields[1].isdecimal():
            task_id, level, name, *texts = fields
            texts = [text.replace(BREAK, "\n") for text in texts]
            self._log(task_id, min(int(level[:3]), logging.CRITICAL), name, *texts)
        elif len(fields) > 1:
            self._log(fields[0], logging.INFO, "", FIELD.join(fields[1:]))
