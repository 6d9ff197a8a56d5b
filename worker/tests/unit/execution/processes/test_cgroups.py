"""Cgroups of executor processes: found or refused, as /proc and the kernel's files say; limits, ends, what is left.

These files are a directory's; what a kernel does with its own is tested on a virtual host (``make test-vm``).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orbiter.distributed.execution.processes import cgroups
from orbiter.distributed.execution.processes.cgroups import (
    Cgroup,
    Cgroups,
    OutOfMemory,
    UnavailableError,
    hard_limit,
    own_cgroup,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no cgroups")

UNIT = "/system.slice/system-orbiter\\x2dworker.slice/orbiter-worker@1.service"
V2 = "29 23 0:26 {root} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "30 23 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:5 - cgroup cgroup rw,memory\n"


def process(folder: Path, cgroup: str, mounts: str) -> Path:
    """Return a directory with what /proc says of a process."""
    (folder / "cgroup").write_text(cgroup)
    (folder / "mountinfo").write_text(mounts)
    return folder


@pytest.mark.parametrize(
    ("root", "mount", "cgroup", "found"),
    [
        ("/", "/sys/fs/cgroup", UNIT, "/sys/fs/cgroup" + UNIT),
        ("/", "/sys/fs/cgroup", "/", "/sys/fs/cgroup"),
        ("/docker/1f", "/sys/fs/cgroup", "/docker/1f/init", "/sys/fs/cgroup/init"),
        ("/", "/mnt/of\\040mine", "/a", "/mnt/of mine/a"),
        # Version 1 beside it: no memory is limited there, but it is found.
        ("/", "/sys/fs/cgroup/unified", "/a", "/sys/fs/cgroup/unified/a"),
    ],
)
def test_own_cgroup_is_found_where_it_is_mounted(
    tmp_path: Path, root: str, mount: str, cgroup: str, found: str
) -> None:
    said = process(tmp_path, f"4:memory:/elsewhere\n0::{cgroup}\n", V1 + V2.format(root=root, mount=mount))
    assert own_cgroup(said) == Path(found)


@pytest.mark.parametrize(
    ("cgroup", "mounts"),
    [
        ("4:memory:/a\n1:name=systemd:/a\n", V1),
        ("0::/a\n", V1),
        ("0::/docker/2e\n", V2.format(root="/docker/1f", mount="/sys/fs/cgroup")),
        ("0::/docker/1fe\n", V2.format(root="/docker/1f", mount="/sys/fs/cgroup")),
        ("0::/../outside\n", V2.format(root="/", mount="/sys/fs/cgroup")),
    ],
)
def test_own_cgroup_is_not_guessed(tmp_path: Path, cgroup: str, mounts: str) -> None:
    with pytest.raises(UnavailableError):
        own_cgroup(process(tmp_path, cgroup, mounts))


def test_a_host_without_proc_has_no_cgroups(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cgroup"):
        own_cgroup(tmp_path / "none")


def test_supervisor_moves_out_of_the_way_and_asks_for_limits(tree: Callable[..., Path]) -> None:
    directory = tree()
    Cgroups(directory)
    assert (directory / "supervisor/cgroup.procs").read_text() == str(os.getpid())
    assert (directory / "cgroup.subtree_control").read_text() == "+memory +pids"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"controllers": "cpu pids"}, "no memory controller"),
        ({"controllers": "cpu"}, "no memory and no pids controller"),
        ({"procs": f"{os.getpid()}\n1\n"}, "other processes"),
    ],
)
def test_cgroup_that_will_not_do_is_left_as_it_is(
    tree: Callable[..., Path], fields: dict[str, str], reason: str
) -> None:
    directory = tree(**fields)
    before = sorted(directory.iterdir())
    with pytest.raises(UnavailableError, match=reason):
        Cgroups(directory)
    assert sorted(directory.iterdir()) == before


def test_kernel_that_cannot_kill_a_cgroup_gets_none(tree: Callable[..., Path]) -> None:
    directory = tree()
    (directory / "cgroup.kill").unlink()
    with pytest.raises(UnavailableError, match=r"cgroup\.kill"):
        Cgroups(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may write everywhere")
def test_root_takes_no_cgroup_that_was_not_given_to_it(tree: Callable[..., Path]) -> None:
    with pytest.raises(UnavailableError, match="delegated"):
        Cgroups(tree(delegated=False))


def test_what_may_not_be_written_to_is_not_used(tree: Callable[..., Path]) -> None:
    directory = tree()
    # As in a container whose cgroups are mounted for reading: nothing can be made there.
    (directory / "supervisor").write_text("")
    with pytest.raises(OSError, match="supervisor"):
        Cgroups(directory)


def test_process_without_cgroups_is_told_so_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def find() -> Path:
        asked.append(1)
        return own_cgroup(tmp_path)

    monkeypatch.setattr(cgroups, "own_cgroup", find)
    cgroups.cgroups_of_this_process.cache_clear()
    try:
        assert cgroups.cgroups_of_this_process() is None
        assert cgroups.cgroups_of_this_process() is None
    finally:
        cgroups.cgroups_of_this_process.cache_clear()
    assert asked == [1]


def test_processes_have_limits_of_their_own(tree: Callable[..., Path]) -> None:
    directory = tree()
    made = Cgroups(directory)
    one, two = made.create(memory=300_000_000, slots=4), made.create(memory=0, slots=200)
    assert one is not None
    assert two is not None
    assert one.directory != two.directory
    limits = [[(each.directory / name).read_text() for name in ("memory.max", "pids.max")] for each in (one, two)]
    assert limits == [["300000000", "1024"], ["max", "3200"]]
    assert (one.directory / "memory.oom.group").read_text() == "1"
    # Not every kernel counts swap.
    assert not (one.directory / "memory.swap.max").exists()
    one.add(4711)
    assert (one.directory / "cgroup.procs").read_text() == "4711"


def test_one_process_takes_a_quarter_of_what_its_worker_may_start(tree: Callable[..., Path]) -> None:
    made = Cgroups(tree(pids_max="1000\n"))
    cgroup = made.create(memory=0, slots=4)
    assert cgroup is not None
    assert (cgroup.directory / "pids.max").read_text() == "250"


def test_cgroup_that_cannot_be_made_is_done_without(
    tree: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    directory = tree()
    made = Cgroups(directory)
    shutil.rmtree(directory)
    assert made.create(memory=0, slots=1) is None
    assert "no cgroup" in caplog.text


@pytest.mark.parametrize(("limit", "hard"), [(0, 0), (50_000_000, 178_000_000), (350_000_000, 525_000_000)])
def test_kernel_leaves_room_for_what_is_asked_to_stop(limit: int, hard: int) -> None:
    assert hard_limit(limit) == hard


def test_weight_leaves_out_the_page_cache(tmp_path: Path) -> None:
    (tmp_path / "memory.current").write_text("250000000\n")
    stat = "anon 90\nfile 180000000\nshmem 20000000\ninactive_anon 90\ninactive_file 100000000\nactive_file 60000000\n"
    (tmp_path / "memory.stat").write_text(stat)
    assert Cgroup(tmp_path).weigh() == 90_000_000
    assert Cgroup(tmp_path / "gone").weigh() == 0


@pytest.mark.parametrize(
    ("events", "whose"),
    [
        ("low 0\nhigh 0\nmax 31\noom 1\noom_kill 2\noom_group_kill 1\n", OutOfMemory.OWN),
        ("low 0\nhigh 0\nmax 0\noom 0\noom_kill 1\noom_group_kill 0\n", OutOfMemory.OUTER),
        # Its limit was reached, and what the kernel took back was enough.
        ("low 0\nhigh 0\nmax 31\noom 0\noom_kill 0\noom_group_kill 0\n", None),
        ("", None),
    ],
)
def test_end_for_want_of_memory_is_told_with_whose_limit(tmp_path: Path, events: str, whose: OutOfMemory) -> None:
    (tmp_path / "memory.events.local").write_text(events)
    assert Cgroup(tmp_path).out_of_memory() is whose


@pytest.mark.parametrize(("events", "refused"), [("max 0\n", False), ("max 12\n", True), ("rubbish\n", False)])
def test_refused_processes_are_seen(tmp_path: Path, events: str, refused: bool) -> None:
    (tmp_path / "pids.events").write_text(events)
    assert Cgroup(tmp_path).refused_processes() is refused


def test_whole_cgroup_is_killed_by_who_may_only_write_to_its_switch(tmp_path: Path) -> None:
    switch = tmp_path / "cgroup.kill"
    switch.write_text("")
    # As the kernel has it. Root may read all the same: others show that nobody has to.
    switch.chmod(0o200)
    Cgroup(tmp_path).kill()
    switch.chmod(0o600)
    assert switch.read_text() == "1"


def test_what_an_earlier_supervisor_has_left_is_removed(tree: Callable[..., Path]) -> None:
    directory = tree()
    (directory / "executor-1/made-by-a-task").mkdir(parents=True)
    (directory / "executor-7").mkdir()
    (directory / "others").mkdir()
    # What cannot be removed yet is in nobody's way.
    (directory / "executor-2").mkdir()
    (directory / "executor-2/cgroup.procs").write_text("")
    made = Cgroups(directory)
    assert {path.name for path in directory.iterdir() if path.is_dir()} == {"supervisor", "others", "executor-2"}
    assert not made.sweep()
    first, second = made.create(memory=0, slots=1), made.create(memory=0, slots=1)
    assert [each.directory.name for each in (first, second) if each] == ["executor-1", "executor-3"]
    (directory / "executor-2/cgroup.procs").unlink()
    assert made.sweep()
    assert not (directory / "executor-2").exists()
