"""Set what Redis wants of the kernel, now and for every start of the host, and tell what this host does not allow.

Usage: kernel.py [--check]
A container shares the kernel of its host and may not change it: that is reported, and no error. With --check nothing is
changed. Prints {"changed": [names], "refused": ["name is VALUE, VALUE is better: why"]}.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Setting:
    """One value of the kernel, which of its values are fine, and what is set otherwise."""

    path: Path
    wanted: str
    fine: frozenset[str]
    why: str
    at_least: int = 0
    file: Path = Path("/etc/sysctl.d/60-orbiter-redis.conf")
    line: str = ""

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
        Path("/proc/sys/vm/overcommit_memory"),
        "1",
        frozenset({"1"}),
        "Redis forks to write its files, and the fork can be refused while most memory is free",
        line="vm.overcommit_memory = 1",
    ),
    Setting(
        Path("/proc/sys/net/core/somaxconn"),
        "1024",
        frozenset(),
        "connections that wait to be accepted are cut off there, whatever tcp-backlog says",
        at_least=1024,
        line="net.core.somaxconn = 1024",
    ),
    Setting(
        Path("/sys/kernel/mm/transparent_hugepage/enabled"),
        "madvise",
        frozenset({"madvise", "never"}),
        "huge pages make Redis slow and large while it writes its files",
        file=Path("/etc/tmpfiles.d/orbiter-redis.conf"),
        line="w- /sys/kernel/mm/transparent_hugepage/enabled - - - - madvise",
    ),
)


def persist(*, check: bool) -> list[str]:
    """Write what the next start of the host sets, where it may; return the files that were different."""
    changed = []
    for file in sorted({setting.file for setting in SETTINGS}):
        wanted = [setting.line for setting in SETTINGS if setting.file == file and setting.writable()]
        text = "\n".join(["# Made by the role orbiter.fleet.redis", *wanted, ""])
        if not wanted or (file.exists() and file.read_text() == text):
            continue
        changed.append(str(file))
        if not check:
            file.write_text(text)
    return changed


def main() -> None:
    """Look, set, tell."""
    check = sys.argv[1:] == ["--check"]
    os.umask(0o022)
    changed = persist(check=check)
    refused = []
    for setting in SETTINGS:
        if setting.good():
            continue
        name = str(setting.path)
        try:
            if not setting.writable():
                raise PermissionError("read-only here")
            if not check:
                setting.path.write_text(setting.wanted)
            changed.append(name)
        except OSError as error:
            refused.append(f"{name} is {setting.value()}, {setting.wanted} is better ({setting.why}): {error}")
    print(json.dumps({"changed": changed, "refused": refused}))


main()
