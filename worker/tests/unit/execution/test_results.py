"""Results: what a run may return."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orbiter.distributed.errors import ConfigurationError, ResultTooLargeError
from orbiter.distributed.execution.results import result_text


@pytest.mark.parametrize("result", [None, {"output": "x", "n": [1, None]}])
def test_result_is_kept_as_json(result: dict[str, Any] | None) -> None:
    assert json.loads(result_text(result, 100)) == result


@pytest.mark.parametrize("result", ["text", [1], {"output": object()}], ids=lambda value: type(value).__name__)
def test_result_is_refused_where_it_is_no_object_of_json(result: Any) -> None:
    with pytest.raises(ConfigurationError):
        result_text(result, 100)


def test_result_is_refused_above_the_limit() -> None:
    exact = len(result_text({"output": "xxx"}, 100))
    assert result_text({"output": "xxx"}, exact)
    with pytest.raises(ResultTooLargeError):
        result_text({"output": "xxx"}, exact - 1)
