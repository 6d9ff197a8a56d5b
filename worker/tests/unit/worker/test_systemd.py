"""What systemd is told, and what it wants to hear."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from orbiter.distributed.worker.systemd import notify, unit, watchdog_interval


def test_notify_reaches_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"orbiter-unit-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify("READY=1", "STATUS=x")
        assert manager.recv(1000) == b"READY=1\nSTATUS=x"


def test_notify_does_nothing_without_a_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")


@pytest.mark.parametrize(
    ("microseconds", "pid", "interval"),
    [("3000000", None, 3.0), ("3000000", "own", 3.0), ("3000000", "1", None), ("", None, None), ("soon", None, None)],
)
def test_watchdog_interval_is_for_this_process_only(
    microseconds: str, pid: str | None, interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert watchdog_interval() == interval


@pytest.mark.parametrize(
    ("groups", "known"),
    [
        (
            "0::/system.slice/system-orbiter\\x2dworker.slice/orbiter-worker@1.service/main\n",
            "orbiter-worker@1.service",
        ),
        (
            "5:memory:/other.service\n1:name=systemd:/system.slice/orbiter-worker@2.service\n",
            "orbiter-worker@2.service",
        ),
        ("0::/user.slice/user-0.slice/session-1.scope\n", ""),
        ("0::/\n", ""),
    ],
)
def test_unit_is_the_service_of_the_processs_cgroup(groups: str, known: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: groups)
    assert unit.__wrapped__() == known
