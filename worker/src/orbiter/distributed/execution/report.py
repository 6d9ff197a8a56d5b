"""ErrorReport: how a run failed, in what crosses a process border: text, type, and what the retry policy asks for."""

from __future__ import annotations

from pydantic_core import from_json, to_json

from orbiter.distributed.errors import RunError, TransientError, describe
from orbiter.distributed.execution.retry import never_again

_NAME_CAP = 200


def packed(error: BaseException) -> bytes:
    """Return an error as bytes."""
    asked = error.retry_after if isinstance(error, TransientError) else None
    asked = float(asked) if isinstance(asked, int | float) else None
    return to_json([describe(error), type(error).__name__[:_NAME_CAP], never_again(error), asked], inf_nan_mode="null")


def unpacked(data: bytes) -> RunError:
    """Return the error that :func:`packed` was given.

    Raises:
        ValueError: These are no such bytes.
    """
    text, kind, final, asked = from_json(data)
    if not (isinstance(text, str) and isinstance(kind, str) and isinstance(final, bool)):
        raise ValueError("not the report of an error")  # noqa: TRY004 - as from_json has it
    asked = float(asked) if isinstance(asked, int | float) and not isinstance(asked, bool) else None
    return RunError(text, kind[:_NAME_CAP], final=final, retry_after=asked)
