"""The first thing that the command does: a worker's signals must not kill it while the rest is imported."""

from __future__ import annotations

import os
import sys


def is_worker_command() -> bool:
    """Tell whether this process was started as ``orbiter start worker``; a child of it by multiprocessing was not."""
    arguments = sys.argv[1:]
    program = os.path.basename(sys.argv[0]) if sys.argv else ""  # noqa: PTH119 - pathlib takes time to import
    return (
        arguments[:2] == ["start", "worker"]
        # While Python looks for `-m orbiter.cli` that is the program's name.
        and program in {"orbiter", "-m"}
        and sys.orig_argv[-len(arguments) :] == arguments
    )


if is_worker_command():
    from orbiter.distributed import signals

    signals.hold()
