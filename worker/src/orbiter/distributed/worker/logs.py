"""Log output: lines for people, or one JSON object a line on demand; both with the fields given as ``extra``."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import IO, TYPE_CHECKING, Any

from orbiter.distributed.execution.processes.printed import PRINTED
from orbiter.distributed.inert import inert
from orbiter.distributed.secrecy import hide

if TYPE_CHECKING:
    from collections.abc import Mapping

LOG_FORMATS = ("human", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
# A line is shorter than what the journal takes as one (48 KB), in bytes of UTF-8 too: it would begin another one with
# the rest, whose beginning may look like a level and a sender.
_LONGEST_LINE = 10_000
_LONGEST_MESSAGE = 8_000
_LONGEST_FIELD = 1_000
_LONGEST_TRACEBACK = 20_000
# What one character may be as JSON in ASCII.
_ESCAPED = 12
# Libraries that tell of every request at INFO: their news is noise in a worker's log.
_TALKATIVE = ("httpx", "httpcore", "asyncio", "openai", "anthropic")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# The levels of sd-daemon(3), which the journal reads from the beginning of a line.
_JOURNAL_PRIORITIES = (
    (logging.CRITICAL, "<2>"),
    (logging.ERROR, "<3>"),
    (logging.WARNING, "<4>"),
    (logging.INFO, "<6>"),
)


def setup_logging(
    log_format: str = "human", level: str = "info", *, stream: IO[str] | None = None, **fields: str
) -> None:
    """Send every log record of ``level`` and above to stderr, or to ``stream``, in the given format.

    ``fields`` are part of every JSON record: who speaks.
    """
    output = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(output)
    journal = _is_journal(output)
    handler.setFormatter(JsonFormatter(fields) if log_format == "json" else HumanFormatter(journal=journal))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # What tasks print is asked for, whatever the level.
    logging.getLogger(PRINTED).setLevel(logging.DEBUG)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(capture=True)


def _is_journal(output: IO[str]) -> bool:
    """Tell whether this stream is the journal's, by the device and inode that systemd tells its services."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(output.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD and value is not None}


class _Formatter(logging.Formatter):
    def traceback(self, record: logging.LogRecord) -> str:
        """Return a record's traceback; one that comes from an executor process is text already."""
        return self.formatException(record.exc_info) if record.exc_info else record.exc_text or ""


class JsonFormatter(_Formatter):
    """One JSON object a record: time, level, logger, message, the record's extra fields, and the traceback if any."""

    def __init__(self, fields: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._shared = dict(fields or {})

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON, without secrets."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= self._shared
        line |= {name: value for name, value in _fields(record).items() if name not in line}
        if traceback := self.traceback(record):
            line["traceback"] = traceback
        line = {name: hide(value) if isinstance(value, str) else value for name, value in line.items()}
        # Again behind it: what is in a list, or an object of somebody's.
        text = hide(json.dumps(line, default=str))
        if len(text) > 4 * _LONGEST_LINE:
            share = 4 * _LONGEST_LINE // _ESCAPED // len(line)
            text = json.dumps({name: _cut(value, share) for name, value in line.items()}, default=str)
        return text


def _cut(value: object, limit: int) -> object:
    text = value if isinstance(value, str) else hide(json.dumps(value, default=str))
    return value if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


class HumanFormatter(_Formatter):
    """Time, level, message, extra fields as ``name=value``; the journal gets its mark of the level only.

    Whatever is in it, no line looks as if it were another record: a traceback is indented, and what is not printable is
    escaped, secrets are hidden. What tasks print has the task's id behind it.
    """

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, followed by the traceback if any."""
        message = inert(hide(record.getMessage()), keep="\t", limit=_LONGEST_MESSAGE)
        fields = "".join(f" {name}={_word(value)}" for name, value in _fields(record).items())
        mark = ""
        if self._journal:
            mark = next((mark for level, mark in _JOURNAL_PRIORITIES if record.levelno >= level), "<7>")
            line = f"{mark}{message}{fields}"
        elif record.name == PRINTED:
            line = f"{message}{fields}"
        else:
            moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.created))
            line = f"{moment}.{int(record.msecs):03d}Z {record.levelname:<7} {message}{fields}"
        lines = [line[:_LONGEST_LINE]]
        if traceback := self.traceback(record):
            rows = hide(traceback)[-_LONGEST_TRACEBACK:].split("\n")
            shown = (inert(row, keep="\t", limit=_LONGEST_MESSAGE)[:_LONGEST_LINE] for row in rows)
            lines += [f"{mark}    {row}" for row in shown]
        return "\n".join(lines)


def _word(value: object) -> str:
    """Return the value so that it stays one word: quoted as JSON when it holds anything else."""
    text = hide(str(value))
    if len(text) > _LONGEST_FIELD:
        text = f"{text[:_LONGEST_FIELD]}... ({len(text)} characters)"
    return text if text and text.isprintable() and not set(text) & set(' "=') else json.dumps(text)
