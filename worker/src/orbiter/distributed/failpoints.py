"""Fault points: places at which a test kills the process, named by ``ORBITER_FAULT``.

``ORBITER_FAULT="after fetch"`` ends the process with SIGKILL, as the kernel would, when it first comes there;
``"after fetch:3"`` the third time. Without the variable this costs one comparison.
"""

from __future__ import annotations

import os
import signal

_NAME, _, _TIMES = os.environ.get("ORBITER_FAULT", "").partition(":")
_left = int(_TIMES or 1)


def reach(name: str) -> None:
    """Die here, where ``ORBITER_FAULT`` names this point."""
    global _left  # noqa: PLW0603 - counts down in a process that is about to end
    if name != _NAME:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
