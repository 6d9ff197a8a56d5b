"""Spoilt data: which errors say that what is stored is not what it should be, and replies of pipelines without them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.exceptions import NoPermissionError, NoScriptError, OutOfMemoryError, ReadOnlyError, ResponseError

from orbiter.distributed.connection.patience import passes

if TYPE_CHECKING:
    from collections.abc import Sequence

# Errors of the server's state, of rights and of a group that is missing: no fault of an entry, a claim or a record.
_OF_THE_SERVER = (NoPermissionError, NoScriptError, OutOfMemoryError, ReadOnlyError)
_CODES = ("NOGROUP", "MISCONF", "NOREPLICAS", "CROSSSLOT", "CLUSTERDOWN", "the script can't run this command", "OOM ")


def is_spoilt(error: BaseException) -> bool:
    """Tell whether an error is one of stored data: a key of another type, a full stream, text that is no number.

    Values that cannot be sent to Redis at all, as half a surrogate pair, count too.
    """
    if isinstance(error, ResponseError):
        known = isinstance(error, _OF_THE_SERVER) or passes(error)
        return not known and not any(code in str(error) for code in _CODES)
    return isinstance(error, ValueError | TypeError | RecursionError)


def readable(rows: Sequence[Any], instead: list[Any]) -> list[Any]:
    """Return the replies of a pipeline, with ``instead`` in the place of keys that are of another type.

    Raises:
        RedisError: The server refused.
    """
    for row in rows:
        if isinstance(row, Exception) and not is_spoilt(row):
            raise row
    return [instead if isinstance(row, Exception) else row for row in rows]
