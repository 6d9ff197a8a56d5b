"""What a person is told of a file that this process may not read: on a fleet's host, root's command is another user's.

The wrapper ``/usr/local/bin/orbiter`` hands root's command to a user who may not read root's files.
"""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

REMEDY = "make it readable to that user"


def may_read(path: str | Path) -> bool:
    """Tell whether this process may read what is there; true where nothing is."""
    try:
        os.stat(path)  # noqa: PTH116 - Path.exists hides what is asked for here
    except PermissionError:
        return False
    except (OSError, ValueError):
        return True
    return os.access(path, os.R_OK, effective_ids=True)


def not_for_this_user(path: str | Path) -> str:
    """Return that this process may not read a file, and as which user it runs; :data:`REMEDY` mends it."""
    return f"{path}: may not be read by {this_user()}, which this command runs as"


def this_user() -> str:
    """Return the user of this process, in words."""
    number = os.geteuid()
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"
