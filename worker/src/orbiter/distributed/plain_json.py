"""Values of user code as JSON: what has no form there is one clear error, which another run would only repeat."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic_core import to_jsonable_python

from orbiter.distributed.errors import ConfigurationError, describe

_JSON = json.JSONEncoder(allow_nan=False)
# In JSON of ASCII: an escaped backslash, a pair of surrogates, half of one.
_ESCAPES = re.compile(r"\\\\|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|\\ud[89a-f][0-9a-f]{2}", re.IGNORECASE)


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
        return whole(_JSON.encode(value))
    except BaseException as error:  # noqa: BLE001 - as above: a runtime may give an object of any class
        raise ConfigurationError(f"{what} is not JSON: {describe(error)}") from None
