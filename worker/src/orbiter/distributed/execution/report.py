"""ErrorReport: how a run failed, in what crosses a process border: text, type, and what the retry policy asks for."""

from __future__ import annotations

from pydantic_core import from_json, to_json

from orbiter.distributed.errors import NAME_CAP, RunError, TransientError, describe, kind_of
from orbiter.distributed.execution.retry import never_again


def packed(error: BaseException) -> bytes:
    """Return an error as bytes."""
    asked = error.retry_after if isinstance(error, TransientError) else None
    asked = float(asked) if isinstance(asked, int | float) else None
    return to_json([describe(error), kind_of(error), never_again(error), asked], inf_nan_mode="null")


def unpacked(data: bytes) -> RunError:
    """Return the error that :func:`packed` was given.

    Raises:
        ValueError: These are no such bytes.
    """
    text, kind, final, asked = from_json(data)
    if not (isinstance(text, str) and isinstance(kind, str) and isinstance(final, bool)):
        raise ValueError("not the report of an error")  # noqa: TRY004 - as from_json has it
    asked = float(asked) if isinstance(asked, int | float) and not isinstance(asked, bool) else None
    return RunError(text, kind[:NAME_CAP], final=final, retry_after=asked)
