from __future__ import annotations

import json

import pytest

from orbiter.distributed.errors import ConfigurationError, TransientError
from orbiter.distributed.execution.results import result_text
from orbiter.distributed.execution.retry import delay_before_retry
from orbiter.distributed.plain_json import json_text, whole, whole_string


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a\ud83d", "a\ufffd"),
        ("\ude80b", "\ufffdb"),
        ("\ud83d\ud83d\ude80\ude80", "\ufffd\U0001f680\ufffd"),
        ("\U0001f680", "\U0001f680"),
        ("\\ud83d", "\\ud83d"),
        ("\\\ud83d", "\\\ufffd"),
        ("ü", "ü"),
    ],
    ids=["high", "low", "a pair between", "a pair", "a backslash before", "a backslash and half", "none"],
)
def test_half_a_surrogate_pair_is_replaced_and_nothing_else(text: str, read: str) -> None:
    assert json.loads(whole(json.dumps(text))) == read
    assert json.loads(whole(json.dumps(text).upper().replace("\\U", "\\u"))) == json.loads(
        json.dumps(read).upper().replace("\\U", "\\u")
    )
    assert whole_string(text) == read


def test_a_result_that_is_no_object_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="a list is not an object"):
        result_text([1], 100)  # type: ignore[arg-type]


def test_text_of_what_is_not_json_names_what_it_was() -> None:
    with pytest.raises(ConfigurationError, match=r"^the answer is not JSON: "):
        json_text(float("nan"), "the answer")


@pytest.mark.parametrize("asked", ["soon", float("nan"), object(), -5, None])
def test_an_odd_retry_after_is_none(asked: object) -> None:
    assert 0 <= delay_before_retry(TransientError("x", retry_after=asked), 0, 0) <= 0  # type: ignore[arg-type]
