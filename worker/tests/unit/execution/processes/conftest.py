"""These tests run real processes, and so in real time. What the kernel shows of a cgroup is a directory here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], Any]]:
    return {"real": asyncio.SelectorEventLoop}


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes what the kernel shows of a cgroup."""

    def make(*, controllers: str = "cpu memory pids", delegated: bool = True, procs: str = "", **files: str) -> Path:
        directory = tmp_path / "orbiter-worker@1.service"
        directory.mkdir()
        if delegated and os.geteuid() == 0:
            try:
                os.setxattr(directory, "user.delegate", b"1")
            except OSError:
                pytest.skip("no extended attributes here, by which root knows what is delegated")
        for name, text in {
            "cgroup.controllers": controllers,
            "cgroup.kill": "",
            "cgroup.procs": procs or f"{os.getpid()}\n",
            "pids.max": "max\n",
            **{name.replace("_", "."): text for name, text in files.items()},
        }.items():
            (directory / name).write_text(text)
        return directory

    return make
