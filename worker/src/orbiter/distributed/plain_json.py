"""Values of user code as JSON: what has no form there is one clear error, which another run would only repeat."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from orbiter.distributed.errors import ConfigurationError, describe

if TYPE_CHECKING:
    from collections.abc import Iterable

# pydantic reads twice as deep, and writes a little deeper than that.
DEEPEST = 100
# Digits that Python and pydantic read.
LONGEST_NUMBER = 4300
_DIGITS = "0123456789"
_JSON = json.JSONEncoder(allow_nan=False)
# In JSON of ASCII: an escaped backslash, a pair of surrogates, half of one.
_ESCAPES = re.compile(r"\\\\|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|\\ud[89a-f][0-9a-f]{2}", re.IGNORECASE)


def check_depth(value: object, text: str) -> None:
    """Check that a value, which is ``text`` as JSON, is nested no deeper than every reader of ours can follow.

    Raises:
        ValueError: It is.
    """
    # Few texts hold as many brackets, and counting them costs nothing.
    if text.count("[") + text.count("{") <= DEEPEST:
        return
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEEPEST} deep")


def quoted_size(text: str) -> int:
    """Return how many bytes a text has as a string within JSON of ASCII, as Temporal is given it."""
    return len(json.dumps(text))


def _inner(value: object) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple | set | frozenset) else ()


def check_numbers(text: str | bytes, *, length: bool = False) -> None:
    """Check that JSON, as Python or pydantic has written it, holds no number that is none.

    Raises:
        ValueError: It does: NaN or an infinity, which JSON has not; or, where ``length`` is asked for, an integer of
            more digits than Python reads.
    """
    nan, infinity = ("NaN", "Infinity") if isinstance(text, str) else (b"NaN", b"Infinity")
    if nan in text or infinity in text:  # type: ignore[operator]
        json.loads(text, parse_constant=_no_constant)
    elif length and _may_hold_a_long_number(str(text)):
        json.loads(text)


def _may_hold_a_long_number(text: str) -> bool:
    """Look for more digits in a row than are read; wherever these begin, they cross one of the places looked at."""
    for at in range(LONGEST_NUMBER, len(text), LONGEST_NUMBER + 1):
        if text[at] in _DIGITS:
            before, behind = text[at - LONGEST_NUMBER : at], text[at : at + LONGEST_NUMBER + 1]
            digits = len(before) - len(before.rstrip(_DIGITS)) + len(behind) - len(behind.lstrip(_DIGITS))
            if digits > LONGEST_NUMBER:
                return True
    return False


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def read_json(text: str) -> Any:
    """Return what a text of somebody else's holds; a number that is none (``NaN``) is its name.

    Raises:
        ValueError: It is not JSON, or nested too deep.
    """
    try:
        value = json.loads(text, parse_constant=str)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from None
    check_depth(value, text)
    return value


def whole(text: str) -> str:
    r"""Return JSON text with the replacement character for each half of a surrogate pair.

    Half a pair, such as ``\ud83d``, is no character: strict readers refuse the whole text over it.
    """
    if "\\ud" not in text and "\\uD" not in text:
        return text
    return _ESCAPES.sub(lambda found: "\\ufffd" if len(found[0]) == 6 else found[0], text)


def whole_string(text: str) -> str:
    """Return a string with the replacement character for each half of a surrogate pair; halves that meet are one."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def jsonable(value: object, what: str) -> Any:
    """Return a value as what JSON has: objects as pydantic writes them, a datetime by ISO 8601.

    Args:
        value: What user code gave.
        what: Its name, with which the error begins.

    Raises:
        ConfigurationError: It has no form in JSON: bytes that are no text, an object that contains itself, and so on.
    """
    try:
        try:
            return to_jsonable_python(value)
        except UnicodeEncodeError:
            # Half a surrogate pair in a key, which Python's own module can write.
            return json.loads(whole(json.dumps(value, default=to_jsonable_python)))
    except BaseException as error:  # noqa: BLE001 - writing an object is its author's code
        raise ConfigurationError(f"{what} is not JSON: {describe(error)}") from None


def json_text(value: object, what: str) -> str:
    """Return a value that :func:`jsonable` gave, or a runtime, as JSON in ASCII.

    Raises:
        ConfigurationError: It has no form in JSON: a number that is none or too long, something nested too deep.
    """
    try:
        text = whole(_JSON.encode(value))
        check_depth(value, text)
    except BaseException as error:  # noqa: BLE001 - as above: a runtime may give an object of any class
        raise ConfigurationError(f"{what} is not JSON: {describe(error)}") from None
    return text
