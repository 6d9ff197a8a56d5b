# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Redis wants of the kernel, now and for every start of the host."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SYSCTL = Path("/etc/sysctl.d/60-orbiter-redis.conf")
TMPFILES = Path("/etc/tmpfiles.d/orbiter-redis.conf")
HEAD = "# Made by the role orbiter.fleet.redis"


@dataclass
class Setting:
    """One value of the kernel, which of its values are fine, and what is set otherwise."""

    path: Path
    wanted: str
    fine: frozenset[str]
    why: str
    file: Path
    line: str
    at_least: int = 0

    def value(self) -> str:
        """Return the value; of a choice, the one in [brackets]. Empty where the kernel has no such setting."""
        try:
            text = self.path.read_text().strip()
        except OSError:
            return ""
        return text.partition("[")[2].partition("]")[0] or text

    def good(self) -> bool:
        """Whether Redis can live with the value."""
        value = self.value()
        return not value or value in self.fine or (self.at_least > 0 and int(value) >= self.at_least)

    def writable(self) -> bool:
        """Whether this host may change it."""
        return os.access(self.path, os.W_OK)


SETTINGS = (
    Setting(
        path=Path("/proc/sys/vm/overcommit_memory"),
        wanted="1",
        fine=frozenset({"1"}),
        why="Redis forks to write its files, and the fork can be refused while most memory is free",
        file=SYSCTL,
        line="vm.overcommit_memory = 1",
    ),
    Setting(
        path=Path("/proc/sys/net/core/somaxconn"),
        wanted="1024",
        fine=frozenset(),
        why="connections that wait to be accepted are cut off there, whatever tcp-backlog says",
        file=SYSCTL,
        line="net.core.somaxconn = 1024",
        at_least=1024,
    ),
    Setting(
        path=Path("/sys/kernel/mm/transparent_hugepage/enabled"),
        wanted="madvise",
        fine=frozenset({"madvise", "never"}),
        why="huge pages make Redis slow and large while it writes its files",
        file=TMPFILES,
        line="w- /sys/kernel/mm/transparent_hugepage/enabled - - - - madvise",
    ),
)


def bring(*, check):
    """Set what differs, and write what the next start of the host sets.

    Returns:
        (what was changed, each with what it was and what it is; what this host does not allow, with the value and why).
    """
    changed, refused = _persist(check=check), []
    for setting in SETTINGS:
        if setting.good():
            continue
        before = setting.value()
        try:
            if not setting.writable():
                raise PermissionError("read-only here")
            if not check:
                setting.path.write_text(setting.wanted)
            changed.append((str(setting.path), before + "\n", setting.wanted + "\n"))
        except OSError as error:
            reason = f"{setting.wanted} is better ({setting.why}): {error}"
            refused.append(f"{setting.path} is {before}, {reason}")
    return changed, refused


def _persist(*, check):
    """Write what the next start of the host sets, where it may; return the files that were different."""
    changed = []
    for file in sorted({setting.file for setting in SETTINGS}):
        wanted = [setting.line for setting in SETTINGS if setting.file == file and setting.writable()]
        text = "\n".join([HEAD, *wanted, ""])
        before = file.read_text() if file.exists() else ""
        if not wanted or before == text:
            continue
        changed.append((str(file), before, text))
        if not check:
            file.write_text(text)
    return changed
