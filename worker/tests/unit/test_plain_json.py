from __future__ import annotations

import json

import pytest

from orbiter.distributed.errors import ConfigurationError, TransientError
from orbiter.distributed.execution.results import result_text
from orbiter.distributed.execution.retry import delay_before_retry
from orbiter.distributed.plain_json import (
    DEEPEST,
    check_depth,
    check_numbers,
    json_text,
    read_json,
    whole,
    whole_string,
)


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


@pytest.mark.parametrize("before", [0, 1, 4300, 4301, 9000])
def test_a_number_is_as_long_as_python_reads_wherever_it_stands(before: int) -> None:
    text = '["' + "x" * before + '", %s]'
    check_numbers(text % ("1" * 4300), length=True)
    check_numbers(text % ('"' + "1" * 9000 + '"'), length=True)
    with pytest.raises(ValueError, match="4300"):
        check_numbers(text % ("1" * 4301), length=True)


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_none_is_read_as_its_name_and_not_written(name: str) -> None:
    assert read_json(f'{{"a": [{name}, "{name}"]}}') == {"a": [name, name]}
    check_numbers(f'["{name}"]')
    for text in (f"[{name}]", f"[{name}]".encode()):
        with pytest.raises(ValueError, match=name):
            check_numbers(text)


def test_depth_is_counted_of_values_and_not_of_brackets_in_texts() -> None:
    flat = ["[" * 1000, [{"a": 1}] * 1000]
    check_depth(flat, json.dumps(flat))
    assert read_json("[" * DEEPEST + "]" * DEEPEST)
    for depth in (DEEPEST + 1, 100_000):
        with pytest.raises(ValueError, match=f"more than {DEEPEST} deep"):
            read_json("[" * depth + "]" * depth)
