"""A host that shuts down or reboots in the middle of the work loses none of it; its workers come back by themselves."""

from __future__ import annotations

import subprocess
import time

import pytest

from fleet import Load, wait_until

STOP_TIMEOUT = 11  # of this scenario's inventory: 6 s for a drain and 5 s more
LONG = 20  # seconds: longer than a drain may take


def journal(host, invocation):
    """Return what an instance and systemd wrote of one of its runs."""
    ours, its = f"_SYSTEMD_INVOCATION_ID={invocation}", f"INVOCATION_ID={invocation}"
    return str(host.check_output(f"journalctl --no-pager --output=cat {its} + {ours}"))


def engine(*words):
    """Ask the container engine, which stands for the power switch of a host."""
    return subprocess.run(["docker", *words], check=True, text=True, capture_output=True).stdout.strip()


def stop_the_container(container):
    """Stop the container, which makes its systemd shut down, and start it again."""
    engine("stop", "--time=120", container)
    yield
    engine("start", container)


def reboot(container):
    """Let systemd reboot; the container ends with it, and is started as a machine would be."""
    engine("exec", container, "systemctl", "reboot")
    engine("wait", container)
    yield
    engine("start", container)


def isolate(container):
    """Go to a target that has little in it, and back to the one of a start."""
    # The jobs are waited for here, as the command itself is in nothing that would stop.
    engine("exec", container, "systemctl", "isolate", "rescue.target")
    yield
    engine("exec", container, "systemctl", "isolate", "default.target")


# A reboot is a shutdown, too.
WAYS = [stop_the_container, pytest.param(reboot, marks=pytest.mark.nightly), isolate]


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: way.__name__)
def stopped(request, fleet, workers, runner):
    """Stop all that runs on worker1 under load, in each way, and start it again."""
    for host in workers.values():
        host.check_output("systemctl start orbiter-workers.target")
    wait_until(lambda: len(fleet.instances()) == 4, within=60, what=lambda: str(fleet.instances()))
    host = workers["worker1"]
    # So that what is written while it shuts down is there when it is up again.
    host.check_output("mkdir --parents /var/log/journal && systemctl restart systemd-journald && journalctl --flush")
    invocation = "systemctl show --property=InvocationID --value orbiter-worker@{}"
    runs = [host.check_output(invocation.format(number)) for number in (1, 2)]
    way = request.param(f"{runner.get_variables('worker1')['testhost_network']}-worker1")
    with Load(fleet) as load:
        long = fleet.submit([LONG] * 9)  # one more than the other host has slots
        wait_until(
            lambda: "worker1" in {host for host, _ in fleet.running(long)}, within=60, what=lambda: str(fleet.workers())
        )
        began = time.monotonic()
        next(way)
        took = time.monotonic() - began
        away = fleet.instances()
        for _ in way:
            pass
        wait_until(lambda: len(fleet.instances()) == 4, within=90, what=lambda: str(fleet.instances()))
    ids = load.ids + long
    fleet.wait_until_done(ids, within=120)
    return {"took": took, "away": away, "ids": ids, "long": long, "runs": runs}


def test_every_task_completes_once(stopped, fleet):
    assert len(stopped["ids"]) > len(stopped["long"])
    fleet.assert_nothing_lost(stopped["ids"])


def test_what_outlives_the_drain_is_handed_back(stopped, fleet):
    assert sum(int(task.get("handoffs") or 0) for task in fleet.tasks(stopped["long"])) > 0


def test_nobody_of_the_host_is_left_in_the_listing(stopped):
    assert stopped["away"] == {("worker2", "1"), ("worker2", "2")}


def test_workers_end_by_themselves_in_time(stopped, workers):
    assert stopped["took"] < STOP_TIMEOUT + 20  # the rest of the host takes its time, too
    for run in stopped["runs"]:
        shown = journal(workers["worker1"], run)
        assert "drained in" in shown
        assert "Deactivated successfully" in shown
        assert "timed out" not in shown


def test_workers_come_back_with_their_host(stopped, fleet, workers):
    assert {("worker1", "1"), ("worker1", "2")} <= fleet.instances()
    assert workers["worker1"].check_output("systemctl is-enabled orbiter-worker@1 orbiter-worker@2").split() == (
        ["enabled"] * 2
    )
