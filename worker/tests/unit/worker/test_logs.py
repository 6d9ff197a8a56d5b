"""The two forms of log lines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from orbiter.distributed.execution.processes.printed import PRINTED
from orbiter.distributed.worker.logs import setup_logging


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def test_json_lines_carry_the_extra_fields_and_the_traceback() -> None:
    output = io.StringIO()
    setup_logging("json", "info", stream=output)
    try:
        int("boom")
    except ValueError:
        logging.getLogger("orbiter.x").exception("failed\nbadly", extra={"task_id": "t", "attempt": 2, "queue": None})
    line = json.loads(output.getvalue())
    assert (line["level"], line["logger"], line["message"]) == ("error", "orbiter.x", "failed\nbadly")
    assert (line["task_id"], line["attempt"]) == ("t", 2)
    assert "queue" not in line
    assert "ValueError: invalid literal" in line["traceback"]


def test_human_lines_are_one_line_each_with_fields_behind() -> None:
    output = io.StringIO()
    setup_logging("human", "info", stream=output)
    logging.getLogger("orbiter.x").info("a\nb", extra={"task_id": "t", "reason": 'not "so"'})
    (line,) = output.getvalue().splitlines()
    assert line.endswith('Z INFO    a\\nb task_id=t reason="not \\"so\\""')


def test_the_journal_gets_levels_instead_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    monkeypatch.setattr("orbiter.distributed.worker.logs._is_journal", lambda _: True)
    setup_logging("human", "debug", stream=output)
    logging.getLogger("orbiter.x").warning("careful")
    logging.getLogger("orbiter.x").debug("detail")
    assert output.getvalue() == "<4>careful\n<7>detail\n"


def test_the_level_is_a_floor_and_talkative_libraries_are_kept_quiet() -> None:
    output = io.StringIO()
    setup_logging("human", "info", stream=output)
    logging.getLogger("orbiter.x").debug("no")
    logging.getLogger("httpx").info("no")
    assert output.getvalue() == ""


FORGED = "<0>kernel: out of memory"
HOSTILE = [f"x{char}{FORGED}" for char in "\n\r\x00\u2028"] + ["\x1b[2J", "\x9b2J", "\u202eabc", "a\ud83d"]


def _logged(log_format: str, where: str, text: str) -> str:
    output = io.StringIO()
    setup_logging(log_format, "info", stream=output)
    logger = logging.getLogger(PRINTED if where == "printed" else "orbiter.x")
    if where == "traceback":
        logger.error("failed", exc_info=RuntimeError(text))
    elif where == "traceback of a process":
        record = logger.makeRecord(logger.name, logging.ERROR, "", 0, "failed", (), None)
        record.exc_text = f"Traceback\n{text}"
        logger.handle(record)
    elif where == "field":
        logger.warning("failed", extra={"task_id": text})
    else:
        logger.warning("%s", text)
    return output.getvalue()


@pytest.mark.parametrize("where", ["message", "field", "traceback", "traceback of a process", "printed"])
@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_forges_a_line_of_the_journal(where: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orbiter.distributed.worker.logs._is_journal", lambda _: True)
    lines = _logged("human", where, text).removesuffix("\n").split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    assert {line[:3] for line in lines} <= {"<3>", "<4>"}
    # A level is read from the beginning of a line only; what comes behind it is indented, or of the first line.
    assert [line for line in lines[1:] if not line[3:].startswith("    ")] == []
    assert len(lines) == 1 or where.startswith("traceback")


@pytest.mark.parametrize("text", HOSTILE)
def test_lines_elsewhere_are_printable_and_begin_with_their_time_or_a_blank(text: str) -> None:
    for where in ("message", "field", "traceback", "traceback of a process"):
        lines = _logged("human", where, text).removesuffix("\n").split("\n")
        assert [line for line in lines if not line.isprintable()] == []
        assert [line for line in lines if not line.startswith(("20", "    "))] == []


@pytest.mark.parametrize("log_format", ["human", "json"])
@pytest.mark.parametrize("where", ["message", "field", "traceback", "traceback of a process", "printed"])
@pytest.mark.parametrize("letter", ["x", "\n", "\U0001f680", "\x1b"])
def test_every_line_is_shorter_than_the_journal_takes_as_one(log_format: str, where: str, letter: str) -> None:
    lines = _logged(log_format, where, letter * 900_000).removesuffix("\n").split("\n")
    assert max(len(line.encode()) for line in lines) < 48 * 1024
    assert len(lines) < 25_000
    if log_format == "json":
        assert json.loads(lines[0])["level"] in {"warning", "error"}
