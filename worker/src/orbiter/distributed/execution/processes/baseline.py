"""Baseline: what all tasks of an executor process share with the system, and one of them may have spoiled."""

from __future__ import annotations

import contextlib
import os
import resource
import signal

_LIMITS = {"open files": resource.RLIMIT_NOFILE, "address space": resource.RLIMIT_AS, "data": resource.RLIMIT_DATA}


class Baseline:
    """Knows how a process was when it started."""

    def __init__(self) -> None:
        self._limits = {which: resource.getrlimit(which) for which in _LIMITS.values()}
        self._names = {which: name for name, which in _LIMITS.items()}
        self._most = self._limits[resource.RLIMIT_NOFILE][0] // 2

    def spoiled(self) -> str:
        """Return what is not as it was, ``""`` where all is; what can be put back is. Costs less than a microsecond."""
        found = ""
        for which, at_first in self._limits.items():
            now = resource.getrlimit(which)
            if now[0] < at_first[0] if at_first[0] >= 0 and now[0] >= 0 else now[0] != at_first[0]:
                found = f"a task has limited {self._names[which]} to {now[0]} (setrlimit)"
                # Where the hard limit was lowered, too, it stays so.
                with contextlib.suppress(OSError, ValueError):
                    resource.setrlimit(which, (at_first[0], now[1]))
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            found = "a task has had SIGCHLD ignored, so that no child of a process can be waited for"
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return found

    def crowded(self) -> str:
        """Return what there is too much of, ``""`` where nothing is."""
        try:
            # The lowest number that is free.
            os.close(number := os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            number = self._most
        if 0 < self._most <= number:
            return f"its tasks keep {number} files open and more"
        return ""
