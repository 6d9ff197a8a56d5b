"""Retry policy: whether a failed attempt is run again, and after what delay."""

from __future__ import annotations

import math
import random

from orbiter.distributed.errors import ConfigurationError, RunError, TransientError
from orbiter.distributed.models import InvalidPayloadError, NotAnEventError

BACKOFF_CAP = 60.0
LONGEST_ASKED = 3600.0


def delay_before_retry(error: BaseException, retries: int, backoff: float) -> float:
    """Return full jitter below an exponential cap, and no less than the far side asked for, seconds."""
    asked = error.retry_after if isinstance(error, TransientError | RunError) else None
    # A tool raises this, with whatever it was told.
    known = isinstance(asked, int | float) and math.isfinite(asked)
    asked = min(float(asked), LONGEST_ASKED) if asked is not None and known else 0.0
    return max(asked, random.uniform(0, min(BACKOFF_CAP, backoff * 2.0 ** min(retries, 64))))  # noqa: S311 - jitter


def never_again(error: BaseException) -> bool:
    """Tell whether another run would end in the same error."""
    final = ConfigurationError | InvalidPayloadError | NotAnEventError
    return isinstance(error, final) or (isinstance(error, RunError) and error.final)


def worth_another_run(error: BaseException, retries: int, own_limit: int | None, limit: int) -> bool:
    """Tell whether a failed task runs again.

    Args:
        error: What its run ended in.
        retries: How many runs had ended in an error before.
        own_limit: The task's own ``max_retries``, where it has one.
        limit: The worker's.
    """
    return not never_again(error) and retries < (limit if own_limit is None else own_limit)
