"""Inert: a text of somebody else's as a terminal, a log, a label or a person may be shown it."""

from __future__ import annotations


def inert(text: object, *, keep: str = "", limit: int | None = None) -> str:
    r"""Return a text with everything escaped that is not a printable character: ``\n``, ``\x1b``, ``\u202e``.

    So it stays one line, moves no cursor, begins no second record and turns no direction of writing around.

    Args:
        text: What to show.
        keep: Characters that stay as they are all the same, such as line ends.
        limit: Characters after which it is cut, with its length behind; ``None`` for none.
    """
    found = str(text)
    rest = ""
    if limit is not None and len(found) > limit:
        found, rest = found[:limit], f"... ({len(found)} characters)"
    if not found.isprintable():
        found = "".join(
            char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in found
        )
    return found + rest
