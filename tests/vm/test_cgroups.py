"""What a cgroup of version 2 gives to executor processes, under the unit that the role makes."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fleet import wait_until

if TYPE_CHECKING:
    from conftest import VirtualHost

WITHIN = 600.0
SEARCH = Path(__file__).parents[2] / "worker/tests/integration/search_jobs.py"
# The inventory's 200 MB, and what the kernel leaves above that.
WATCHED, HARD = "200 MB", "328 MB"


def sleeping(vm: VirtualHost, number: str) -> list[str]:
    """Return the processes ``sleep NUMBER``, wherever they are."""
    return vm.run(f"pgrep --exact --full 'sleep {number}' || true").split()


def some_number() -> str:
    """Return seconds to sleep that no other test uses."""
    return str(70_000 + secrets.randbelow(9000))


def output(task: dict[str, str]) -> str:
    """Return what a task has answered."""
    assert task["status"] == "completed", task
    return json.loads(task["result"])["output"]  # type: ignore[no-any-return]


def check_unharmed(tasks: list[dict[str, str]]) -> None:
    """Check that tasks completed and were charged nothing."""
    assert [(task["status"], int(task.get("crashes") or 0)) for task in tasks] == [("completed", 0)] * len(tasks)


def check_out_of_memory(task: dict[str, str], *words: str) -> None:
    """Check that a task failed for its memory, and says so."""
    assert (task["status"], task["error_type"]) == ("failed", "MemoryLimitError"), task
    assert [word for word in ("out of memory", *words) if word not in task["error"]] == [], task["error"]


def test_each_process_has_a_cgroup_with_limits_before_it_runs_a_task(vm: VirtualHost) -> None:
    found = vm.cgroups()
    assert found.pop("") == []
    assert found.pop("supervisor") == [int(vm.show("MainPID"))]
    assert [name.partition("-")[0] for name in found] == ["executor"]
    (task,) = vm.ended(vm.named("cgroup"))
    path, *limits = output(task).splitlines()
    assert path.startswith(vm.show("ControlGroup") + "/executor-")
    # Whole pages of 200 MB and 128 MB; a quarter of the unit's TasksMax.
    assert dict(line.split(" ", 1) for line in limits) == {
        "memory.max": str(328_000_000 // 4096 * 4096),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "250",
    }


def test_task_that_grows_ends_alone_and_is_named(vm: VirtualHost) -> None:
    # Longer than it is from one heartbeat to the next.
    beside = vm.named("innocent", number=15, seconds=100)
    vm.until_running(beside)
    (grower,) = vm.ended(vm.named("grows"))
    check_out_of_memory(grower, WATCHED)
    # What it has left stays where it is until those beside it have ended.
    wait_until(lambda: vm.listed()["rss_bytes"] > 200_000_000, within=WITHIN, what=lambda: str(vm.listed()))
    ended = vm.ended(beside)
    check_unharmed(ended)
    assert {task["attempt"] for task in ended} == {"1"}
    wait_until(lambda: vm.listed()["rss_bytes"] < 200_000_000, within=WITHIN, what=lambda: str(vm.listed()))


def test_task_that_is_faster_than_watching_is_ended_by_the_kernel_and_named(vm: VirtualHost) -> None:
    ready = f"/var/lib/orbiter/{some_number()}"
    ids = vm.named("leaps", ready=ready)
    wait_until(lambda: vm.run(f"ls {ready} || true") == ready, within=WITHIN, what=vm.log)
    # Who watches is stopped: it would keep up with an emulated processor.
    vm.run(f"kill -STOP {vm.show('MainPID')} && rm {ready}")
    killed = f"grep --files-with-matches 'oom_kill [1-9]' '{vm.directory()}'/executor-*/memory.events.local || true"
    wait_until(lambda: vm.run(killed) != "", within=WITHIN, what=lambda: str(vm.cgroups()))
    vm.run(f"kill -CONT {vm.show('MainPID')}")
    (task,) = vm.ended(ids)
    check_out_of_memory(task, "kernel", HARD)


def test_memory_of_a_daemon_counts_and_it_ends_with_its_task(vm: VirtualHost) -> None:
    mark = some_number()
    beside = vm.named("innocent", seconds=20)
    vm.until_running(beside)
    (task,) = vm.ended(vm.named("daemon_grows", mark=mark))
    check_out_of_memory(task)
    check_unharmed(vm.ended(beside))
    assert vm.run(f"pgrep --full '^/usr/bin/python3 .* {mark}$' || true") == ""


def test_daemon_that_a_task_has_left_ends_with_its_process(vm: VirtualHost) -> None:
    number = some_number()
    (task,) = vm.ended(vm.named("daemon", sleep=number))
    assert output(task) == "left"
    assert len(sleeping(vm, number)) == 1
    # Replaces all executor processes.
    vm.run("systemctl kill --signal=HUP --kill-whom=main orbiter-worker@1.service")
    wait_until(lambda: sleeping(vm, number) == [], within=WITHIN, what=vm.log)


def test_fork_bomb_ends_at_its_limit_and_harms_nobody(vm: VirtualHost) -> None:
    number = some_number()
    beside = vm.named("innocent", number=3, seconds=20)
    vm.until_running(beside)
    (bomb,) = vm.ended(vm.named("bombs", sleep=number, seconds=5))
    assert 100 < int(output(bomb)) < 250
    # Its process is replaced, and all that it has started goes with it.
    check_unharmed(vm.ended(beside))
    wait_until(lambda: sleeping(vm, number) == [], within=WITHIN, what=vm.log)


def test_no_cgroup_is_left_of_processes_that_were_replaced(vm: VirtualHost) -> None:
    before = vm.executors()
    # The inventory's worker_max_tasks_per_process is 20; 15 more may run in a process when that is reached.
    check_unharmed(vm.ended(vm.named("innocent", number=100, seconds=0)))

    def settled() -> bool:
        found = vm.cgroups()
        names = [name for name in found if name.startswith("executor-")]
        return [len(found[name]) for name in names] == [1]

    wait_until(settled, within=WITHIN, what=lambda: f"{vm.cgroups()}\n{vm.log()}")
    after = vm.executors()
    newest = [max(int(name.partition("-")[2]) for name in names) for names in (before, after)]
    assert newest[1] >= newest[0] + 2


def test_task_that_searches_all_it_can_read_finds_no_credential(vm: VirtualHost) -> None:
    password = urlsplit(vm.run('. /etc/orbiter/worker.env; echo "$ORBITER_REDIS_URL"')).password or ""
    assert password.startswith("secret-")
    wanted = {"sha256": hashlib.sha256(password.encode()).hexdigest(), "others": []}
    file = f"/var/lib/orbiter/{some_number()}.py"
    vm.run(f"cat > {file}", SEARCH.read_text())
    (task,) = vm.ended(vm.named("runs_file", file=file, function="searches", **wanted))
    said = json.loads(output(task))
    assert {"environment", "proc", "etc"} <= set(said["read"]), said
    assert (said["found"], said["supervisor"], said["may"]) == ([], {}, 0)
    # Root finds it, which shows that the search is one.
    program = "import json, runpy, sys, types; file, text = sys.argv[1:]; run = runpy.run_path(file)['searches']; "
    program += "print(json.dumps(run(types.SimpleNamespace(metadata=json.loads(text)))['found']))"
    found = json.loads(vm.run(f"python3 - {file} '{json.dumps(wanted)}'", program))
    process = f"/proc/{vm.show('MainPID')}"
    assert set(found) >= {"/etc/orbiter/worker.env", f"{process}/environ", f"{process}/mem"}


def test_supervisor_that_is_killed_leaves_nothing(running_vm: VirtualHost) -> None:
    vm, number = running_vm, some_number()
    vm.ended(vm.named("daemon", sleep=number))
    assert len(sleeping(vm, number)) == 1
    old = vm.show("MainPID")
    vm.run(f"kill -KILL {old}")
    wait_until(lambda: vm.show("MainPID") not in {old, "0"}, within=WITHIN, what=vm.log)
    began = time.time()
    check_unharmed(vm.ended(vm.named("innocent", number=2, seconds=0)))
    assert time.time() - began < WITHIN
    found = vm.cgroups()
    assert sorted(name.partition("-")[0] for name in found) == ["", "executor", "supervisor"]
    assert sleeping(vm, number) == []
