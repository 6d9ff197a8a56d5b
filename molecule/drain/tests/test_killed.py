"""What does not drain: an instance that is killed."""

from __future__ import annotations

import pytest

from fleet import wait_until


@pytest.mark.guide("Process manager (systemd)", "`Restart=always`, `RestartSec=5`")
def test_instance_that_is_killed_starts_again_by_itself(workers):
    """The guide's unit: Restart=always, RestartSec=5."""
    host = workers["worker1"]
    host.check_output("systemctl start orbiter-workers.target")

    def shown() -> dict[str, str]:
        names = "ActiveState,MainPID,NRestarts,RestartUSec"
        output = host.check_output(f"systemctl show --property={names} orbiter-worker@1")
        return dict(line.split("=", 1) for line in output.splitlines())

    wait_until(lambda: shown()["ActiveState"] == "active", within=30, what=lambda: str(shown()))
    before = shown()
    host.check_output(f"kill -KILL {before['MainPID']}")

    def again() -> bool:
        now = shown()
        return now["ActiveState"] == "active" and now["MainPID"] not in (before["MainPID"], "0")

    wait_until(again, within=60, what=lambda: str(shown()))
    assert int(shown()["NRestarts"]) == int(before["NRestarts"]) + 1
    assert before["RestartUSec"] == "5s"
