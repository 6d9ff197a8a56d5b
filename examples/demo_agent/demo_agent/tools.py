"""Two tools. The docstring is what the model reads; the type hints become the schema of the arguments."""

from __future__ import annotations

import re


def word_count(text: str) -> int:
    """Count the words of a text.

    Args:
        text: The text to count in.
    """
    return len(text.split())


def slugify(title: str) -> str:
    """Turn a title into the last part of a web address.

    Args:
        title: The title, in any spelling.
    """
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
