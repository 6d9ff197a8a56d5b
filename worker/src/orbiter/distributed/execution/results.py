"""Results: what a run may return, as JSON."""

from __future__ import annotations

from typing import Any

from orbiter.distributed.errors import ConfigurationError, ResultTooLargeError
from orbiter.distributed.plain_json import json_text


def result_text(result: dict[str, Any] | None, limit: int) -> str:
    """Return a result as JSON.

    Raises:
        ConfigurationError: It is not an object of JSON, or longer than ``limit``.
    """
    if result is not None and not isinstance(result, dict):
        raise ConfigurationError(f"result: a {type(result).__name__} is not an object with a key 'output'")
    text = json_text(result, "the result")
    if len(text) > limit:
        raise ResultTooLargeError(
            f"result: {len(text)} bytes as JSON are more than the {limit} of"
            " --max-result-bytes (ORBITER_MAX_RESULT_BYTES); store it elsewhere and return where"
        )
    return text
