"""The two forms of log lines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

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
