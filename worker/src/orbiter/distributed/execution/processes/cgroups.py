"""Cgroups: one for each executor process, where a cgroup of version 2 is delegated to this worker.

Such a cgroup holds whatever a process' tasks have started, in whatever session. It is weighed, limited and killed as
one. ::

    orbiter-worker@1.service      delegated (systemd's Delegate=yes); no process is left in it
     ├─ supervisor                this process
     └─ executor-1                an executor process, and what its tasks have started
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import re
from functools import cache
from itertools import count
from pathlib import Path, PurePosixPath

logger = logging.getLogger(__name__)

SUPERVISOR, EXECUTOR = "supervisor", "executor-"
NEEDED = frozenset({"memory", "pids"})
# Above the watched limit by half of it, and by so many bytes at least: a task that grows by 50 MB a second has its time
# to stop by itself before the kernel ends its process.
LEAST_ABOVE = 128_000_000
# Processes and threads that a process and its tasks may have: far more than tasks need, for each that may run at once.
PIDS, PIDS_A_SLOT = 1024, 16


def hard_limit(limit: int) -> int:
    """Return the bytes at which the kernel ends a process that is watched to stay below a limit; 0 where none is."""
    return limit + max(limit // 2, LEAST_ABOVE) if limit else 0


class UnavailableError(Exception):
    """There are no cgroups to be had here; the text says why."""


class OutOfMemory(enum.Enum):
    """Whose limit the kernel has ended a process at."""

    OWN = "own"
    OUTER = "outer"


class Cgroup:
    """The cgroup of an executor process.

    Args:
        directory: Where the kernel shows it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.memory = 0

    def limit_memory(self, size: int) -> None:
        """Have the kernel end all of it beyond so many bytes; 0 is no limit.

        Raises:
            OSError: The kernel refused.
        """
        self.memory = size
        _write(self.directory / "memory.max", str(size) if size else "max")

    def add(self, pid: int) -> None:
        """Move a process here; what it starts later is here, too.

        Raises:
            OSError: It is gone, or may not be moved.
        """
        _write(self.directory / "cgroup.procs", str(pid))

    def weigh(self) -> int:
        """Return the bytes that it holds and that the kernel could not take back at once, 0 where they are not known.

        Files in the page cache count for the kernel as well; it drops them before it ends anybody.
        """
        try:
            current = int((self.directory / "memory.current").read_bytes())
            stat = (self.directory / "memory.stat").read_bytes()
            cached = sum(int(size) for size in re.findall(rb"^(?:in)?active_file (\d+)$", stat, re.MULTILINE))
        except (OSError, ValueError):
            return 0
        return max(0, current - cached)

    def out_of_memory(self) -> OutOfMemory | None:
        """Return whether the kernel has ended what is in here for want of memory, and at whose limit."""
        # Of this cgroup alone: tasks may have made others below it.
        events = self._events("memory.events.local")
        if not events.get("oom_kill") and not events.get("oom_group_kill"):
            return None
        return OutOfMemory.OWN if events.get("oom") else OutOfMemory.OUTER

    def refused_processes(self) -> bool:
        """Tell whether the kernel has refused it a process or a thread."""
        return self._events("pids.events").get("max", 0) > 0

    def kill(self) -> None:
        """Kill every process in it, and in cgroups that tasks have made below it."""
        with contextlib.suppress(OSError):
            # For writing only, as its mode is; and what is not there is not to be made.
            descriptor = os.open(self.directory / "cgroup.kill", os.O_WRONLY)
            try:
                os.write(descriptor, b"1")
            finally:
                os.close(descriptor)

    def remove(self) -> bool:
        """Remove it, and what is below it; tell whether it is gone. Not before all processes in it are."""
        for directory, _, _ in os.walk(self.directory, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
        return not self.directory.exists()

    def _events(self, name: str) -> dict[str, int]:
        try:
            fields = (self.directory / name).read_text().split()
            return dict(zip(fields[::2], map(int, fields[1::2]), strict=True))
        except (OSError, ValueError):
            return {}


class Cgroups:
    """Makes cgroups below one that is delegated to this process, which moves into one of them itself.

    Args:
        directory: The delegated one.

    Raises:
        UnavailableError: It cannot be used.
        OSError: It may not be.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = count(1)
        self._leaving: list[Cgroup] = []
        _check(directory)
        supervisor = directory / SUPERVISOR
        supervisor.mkdir(exist_ok=True)
        # The kernel wants it so: limits are for cgroups below one without processes.
        _write(supervisor / "cgroup.procs", str(os.getpid()))
        _write(directory / "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(NEEDED)))
        for leftover in directory.glob(f"{EXECUTOR}*"):
            # Of a supervisor before this one; there is one at a time.
            self.discard(Cgroup(leftover))

    def create(self, *, memory: int, slots: int) -> Cgroup | None:
        """Return the cgroup for a process, or ``None`` where the kernel refuses it.

        Args:
            memory: Bytes that it may hold; 0 is no limit.
            slots: How many tasks may run in it at once.
        """
        cgroup = Cgroup(self._free_directory())
        try:
            cgroup.directory.mkdir()
            cgroup.limit_memory(memory)
            _write(cgroup.directory / "memory.oom.group", "1")
            _write(cgroup.directory / "pids.max", str(self._pids(slots)))
            if (cgroup.directory / "memory.swap.max").exists():
                _write(cgroup.directory / "memory.swap.max", "0")
        except OSError as error:
            logger.warning("no cgroup for an executor process, its memory is watched only: %s", error)
            cgroup.remove()
            return None
        return cgroup

    def _free_directory(self) -> Path:
        """Return one that is not there: what a supervisor before this one has left may need its time to end."""
        paths = (self._directory / f"{EXECUTOR}{number}" for number in self._numbers)
        return next(path for path in paths if not path.exists())

    def _pids(self, slots: int) -> int:
        """Return how many processes and threads a cgroup may hold: not all that this worker may."""
        number = max(PIDS, PIDS_A_SLOT * slots)
        with contextlib.suppress(OSError, ValueError):
            # "max" is no number.
            return min(number, int((self._directory / "pids.max").read_text()) // 4)
        return number

    def discard(self, cgroup: Cgroup) -> None:
        """Kill what is in a cgroup, and remove it as soon as that is gone."""
        cgroup.kill()
        self._leaving.append(cgroup)
        self.sweep()

    def sweep(self) -> bool:
        """Remove what was discarded, as far as it is empty by now; tell whether all of it is gone."""
        self._leaving = [cgroup for cgroup in self._leaving if not cgroup.remove()]
        return not self._leaving


@cache
def cgroups_of_this_process() -> Cgroups | None:
    """Return them, or ``None`` where there are none; all workers of a process share them."""
    try:
        directory = own_cgroup()
        found = Cgroups(directory.parent if directory.name == SUPERVISOR else directory)
    except (OSError, UnavailableError) as error:
        logger.debug("executor processes have no cgroups, their memory is watched only: %s", error)
        return None
    logger.info("each executor process has a cgroup", extra={"cgroup": str(directory)})
    return found


def own_cgroup(process: Path = Path("/proc/self")) -> Path:
    """Return the directory of a process' cgroup of version 2.

    Args:
        process: Its directory in /proc.

    Raises:
        UnavailableError: It has none, or none that is visible here.
        OSError: There is no /proc.
    """
    lines = (process / "cgroup").read_text().splitlines()
    path = next((PurePosixPath(line[3:]) for line in lines if line.startswith("0::")), None)
    if path is None:
        raise UnavailableError("this process is in no cgroup of version 2")
    for line in (process / "mountinfo").read_text().splitlines():
        # Number, parent, device, root, mount point, options, …, a dash, the file system.
        fields, _, system = line.partition(" - ")
        if system.partition(" ")[0] != "cgroup2":
            continue
        root, mount = (_unescaped(field) for field in fields.split(" ")[3:5])
        if path.is_relative_to(root) and ".." not in path.parts:
            return Path(mount) / path.relative_to(root)
    raise UnavailableError(f"no cgroup2 file system that shows {path} is mounted")


def _check(directory: Path) -> None:
    """Check that a cgroup may be used for executor processes.

    Raises:
        UnavailableError: Not this one.
        OSError: It cannot be read.
    """
    missing = NEEDED - set((directory / "cgroup.controllers").read_text().split())
    if missing:
        raise UnavailableError(f"{directory} has no {' and no '.join(sorted(missing))} controller")
    if not (directory / "cgroup.kill").exists():
        raise UnavailableError(f"{directory} has no cgroup.kill: the kernel is older than 5.14")
    # Root may write to all of them: for systemd's own it is not to.
    if os.geteuid() == 0 and not _is_delegated(directory):
        raise UnavailableError(f"{directory} is not delegated")
    others = set((directory / "cgroup.procs").read_text().split()) - {str(os.getpid())}
    if others:
        raise UnavailableError(f"{directory} holds other processes, too: {', '.join(sorted(others)[:5])}")


def _is_delegated(directory: Path) -> bool:
    """Tell whether systemd says so."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            return os.getxattr(directory, name) == b"1"
    return False


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _write(path: Path, text: str) -> None:
    # At once: the kernel takes each write for a whole value.
    path.write_text(text)
