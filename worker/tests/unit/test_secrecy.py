"""Secrets are hidden in every text of an error or a log, in whatever form they stand there."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import pytest

from orbiter.distributed.connection.redis_url import check
from orbiter.distributed.errors import TEXT_CAP, describe
from orbiter.distributed.execution.report import packed, unpacked
from orbiter.distributed.temporal.connection import connect_options
from orbiter.distributed.worker.logs import setup_logging

# Two pieces that stand in no message by chance, and what may be between them.
SECRET = "qzjx/+ 1\"2'3\\4\u00fc%2Fwvkq"
FORMS = {
    "plain": SECRET,
    "percent-encoded": quote(SECRET),
    "percent-encoded whole": quote(SECRET, safe=""),
    "of a form": quote_plus(SECRET),
    "JSON": json.dumps(SECRET),
    "JSON in Unicode": json.dumps(SECRET, ensure_ascii=False),
    "Python": repr(SECRET),
}
NAMES = ["OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "pgpassword", "MY_SECRET", "TEMPORAL_API_KEY"]
PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDqzjxVwBCIEIN\nqzjxwvkqABCD\n-----END PRIVATE KEY-----\n"


def told(text: str) -> list[str]:
    return [piece for piece in ("qzjx", "wvkq") if piece in text]


@pytest.fixture(params=["human", "json"])
def log(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """What a worker logs."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    setup_logging(request.param, stream=stream)
    yield stream
    root.handlers[:], root.level = before, level
    logging.captureWarnings(capture=False)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_no_error_tells_a_secret_of_the_environment(name: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError(f"401: {form} was refused")
    assert told(describe(error))
    monkeypatch.setenv(name, SECRET)
    assert told(describe(error)) == []
    assert describe(error).startswith("401: ")
    assert describe(error).endswith(" was refused")
    # As an executor process reports it.
    assert told(str(unpacked(packed(error)))) == []


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_no_line_of_a_log_tells_a_secret(log: io.StringIO, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    logger = logging.getLogger("somebody")
    error = RuntimeError(f"refused: {form}")
    logger.error("failed: %s", error, exc_info=error, extra={"reason": form})
    logger.warning("with more: %s %s", form, "x" * 100_000, extra={"long": form * 1000})
    monkeypatch.setenv("OPENAI_API_KEY", "sk-qzjxwvkq")
    logger.warning("in a list", extra={"args_of": ["sk-qzjxwvkq", RuntimeError("sk-qzjxwvkq")]})
    logger.warning("in a long list", extra={"args_of": ["sk-qzjxwvkq"] * 10_000})
    assert "refused: " in log.getvalue()
    assert told(log.getvalue()) == []


def test_a_password_of_a_url_is_hidden_wherever_that_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("AUTH qzjx@wvkq failed; qzjx%40wvkq, too")
    assert told(describe(error))
    with monkeypatch.context() as environment:
        environment.setenv("DATABASE_URL", "postgres://me:qzjx%40wvkq@db/x?owner=a@b")
        assert told(describe(error)) == []
        environment.setenv("DATABASE_URL", "postgres://me:qzjx@wvkq@db/x")
        assert told(describe(error)) == []
    check("redis://me:qzjx%40wvkq@127.0.0.1:1/0")
    assert describe(error) == "AUTH *** failed; ***, too"


def test_credentials_of_temporal_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError(f"refused: qzjx-of-temporal, {PEM}, {PEM!r}, {json.dumps(PEM)}")
    monkeypatch.setenv("TEMPORAL_API_KEY", "qzjx-of-temporal")
    monkeypatch.setenv("TEMPORAL_TLS", "true")
    monkeypatch.setenv("TEMPORAL_TLS_CLIENT_CERT_DATA", "none")
    monkeypatch.setenv("TEMPORAL_TLS_CLIENT_KEY_DATA", PEM)
    connect_options()
    assert told(describe(error)) == []
    # Also where they come from a file of Temporal's: what a process was given it does not forget.
    for name in ("TEMPORAL_API_KEY", "TEMPORAL_TLS_CLIENT_KEY_DATA"):
        monkeypatch.delenv(name)
    assert told(describe(error)) == []


def test_a_secret_at_the_end_of_what_is_kept_of_an_error_is_hidden_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    for before in range(TEXT_CAP - len(SECRET), TEXT_CAP):
        assert told(describe(RuntimeError("x" * before + SECRET))) == []


def test_what_is_no_secret_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "/var/lib/orbiter")
    monkeypatch.setenv("SHORT_KEY", "redis")
    monkeypatch.setenv("EMPTY_KEY", "")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://models.example.net/v1")
    text = "cannot reach redis at https://models.example.net/v1 from /var/lib/orbiter"
    assert describe(RuntimeError(text)) == text
