"""What a client refuses before anything is sent, and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from orbiter.distributed.client.payloads import describe
from orbiter.distributed.client.task import TaskHandle
from orbiter.distributed.models import InvalidPayloadError
from orbiter.distributed.names import InvalidNameError

AGENT = {"name": "a", "model": "test"}
TURN = {"role": "user", "content": "Hello"}


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"messages": "Hello"}, f"messages: must be a list of turns such as {TURN}, not str"),
        ({"messages": TURN}, f"messages: must be a list of turns such as {TURN}, not dict"),
        ({"messages": 3}, f"messages: must be a list of turns such as {TURN}, not int"),
        ({"messages": [TURN, "Hello"]}, f"messages.1: must be a dict such as {TURN}, not str"),
        ({"messages": [TURN, {"role": "user"}]}, "messages.1.content: must be a text"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages.0.role: 'bot' is not user or assistant or system"),
        ({"metadata": "docs"}, "metadata: must be a dict such as {'team': 'docs'}, not str"),
        ({"metadata": ["docs"]}, "metadata: must be a dict such as {'team': 'docs'}, not list"),
    ],
    ids=str,
)
def test_a_wrong_keyword_is_named_with_its_rule(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidPayloadError) as caught:
        describe(AGENT, "x", **keywords)
    assert str(caught.value) == message


def test_a_time_that_is_a_text_is_answered_with_what_to_write() -> None:
    with pytest.raises(ValueError, match=r"not_before: '2h' is a text; write timedelta"):
        describe(AGENT, "x", not_before="2h")  # type: ignore[arg-type]


def test_turns_are_any_iterable_and_a_callable_has_turns_of_its_own() -> None:
    assert describe(AGENT, "x", messages=iter([TURN])).messages == [TURN]  # type: ignore[arg-type]
    own = [{"speaker": "me"}]
    assert describe({"runtime": "callable", "target": "a:b"}, "x", messages=own).messages == own


@pytest.mark.parametrize(
    "after", ["abc", "", "$", "(1-1", 5, "1-2-3", f"{2**64}-0", "a" * 32, "1771324215900-0 "], ids=repr
)
def test_a_stream_goes_on_behind_an_event_and_nothing_else(after: Any) -> None:
    with pytest.raises(InvalidNameError, match=r"no entry id of an event: use event\.entry_id"):
        TaskHandle("t", None).stream(after=after)  # type: ignore[arg-type]
