"""What a person is told of a Redis that cannot be reached or refuses: where, what, and what mends it."""

from __future__ import annotations

from redis.exceptions import AuthenticationError, NoPermissionError

# By RESP3, by RESP2.
_WANTS_LOGIN = ("HELLO must be called", "NOAUTH")
_LOOK_THERE = "Check host and port in the URL, and that Redis runs there and lets this machine in."


def explained(error: Exception, place: str, *, password: bool) -> str:
    """Return an error of connecting in words, once: what has been explained stays as it is.

    Args:
        error: What Redis, or the way to it, says.
        place: The URL, masked.
        password: Whether the URL has a password.
    """
    text = str(error) or "no answer"
    if f"Redis at {place}" in text:
        return text
    if not isinstance(error, AuthenticationError):
        return f"Cannot reach Redis at {place}: {text.removesuffix('.')}. {_LOOK_THERE}"
    if not password and any(words in text for words in _WANTS_LOGIN):
        scheme, _, hosts = place.removesuffix("/***").partition("://")
        return (
            f"Redis at {place} refused the login: it wants a password, and the URL has none. Write"
            f" {scheme}://USER:PASSWORD@{hosts}, or {scheme}://:PASSWORD@{hosts} for the default user."
        )
    return (
        f"Redis at {place} refused the login: {text.removesuffix('.')}. Check user and password in the URL; there,"
        " @ : / ? # of a password are written %40 %3A %2F %3F %23."
    )


ANOTHER_USER = (
    "Run it on a worker's host, where it has the worker's user, or give it the URL of a user that may:"
    " docs/redis-users.md"
)
# What Redis says of a command inside a script, which is no NOPERM.
_IN_A_SCRIPT = "The user executing the script can't"


def lacks_right(error: Exception) -> bool:
    """Tell whether Redis refuses something because its user has no right to it."""
    return isinstance(error, NoPermissionError) or _IN_A_SCRIPT in str(error)


def not_allowed(error: Exception, what: str, user: str) -> str:
    """Return Redis' refusal for want of a right in words: what was to be done, which user may not do it, who may.

    Args:
        error: What Redis says.
        what: What was to be done, such as ``orbiter queue info``.
        user: The user of Redis.
    """
    text = str(error).removesuffix(".")
    return f"{what}: the user {user!r} of Redis may not do this: {text}. {ANOTHER_USER}."


def apart(text: str) -> tuple[str, str]:
    """Return what is wrong, and what mends it, of a text of :func:`explained`: Redis' own words have points, too."""
    at = max(text.rfind(f". {word} ") for word in ("Check", "Write"))
    return (text, _LOOK_THERE) if at < 0 else (text[:at], text[at + 2 :])
