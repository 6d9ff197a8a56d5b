"""The kernel is set for Redis where the host may do that; where it may not, that is told and nothing fails."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.orbiter.fleet.plugins.module_utils import _redis_kernel


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Return the settings of a kernel of files, by their last word."""
    settings = []
    values = {"overcommit_memory": "0", "somaxconn": "128", "enabled": "[always] madvise never"}
    for setting in _redis_kernel.SETTINGS:
        path, file = tmp_path / setting.path.name, tmp_path / setting.file.parent.name
        path.write_text(values[setting.path.name] + "\n")
        settings.append(dataclasses.replace(setting, path=path, file=file))
    monkeypatch.setattr(_redis_kernel, "SETTINGS", tuple(settings))
    return tmp_path


def read_only(monkeypatch, *names):
    """Make some of the settings such that nobody may write them, as those of a container are."""
    real = _redis_kernel.Setting.writable

    def writable(setting):
        return setting.path.name not in names and real(setting)

    monkeypatch.setattr(_redis_kernel.Setting, "writable", writable)


def test_what_differs_is_set_now_and_for_every_start(kernel, module):
    answer = module("redis_kernel")
    assert answer["changed"] is True
    assert answer["refused"] == []
    values = {name: (kernel / name).read_text() for name in ("overcommit_memory", "somaxconn", "enabled")}
    assert values == {"overcommit_memory": "1", "somaxconn": "1024", "enabled": "madvise"}
    assert "vm.overcommit_memory = 1\nnet.core.somaxconn = 1024\n" in (kernel / "sysctl.d").read_text()
    assert "transparent_hugepage" in (kernel / "tmpfiles.d").read_text()
    again = module("redis_kernel")
    assert (again["changed"], again["paths"], again["diff"]) == (False, [], [])


def test_a_value_that_is_better_stays(kernel, module):
    (kernel / "somaxconn").write_text("4096\n")
    (kernel / "enabled").write_text("always madvise [never]\n")
    paths = module("redis_kernel")["paths"]
    assert str(kernel / "overcommit_memory") in paths
    assert (kernel / "somaxconn").read_text() == "4096\n"
    assert (kernel / "enabled").read_text() == "always madvise [never]\n"


def test_check_mode_shows_the_same_and_changes_nothing(kernel, module):
    before = {path.name: path.read_text() for path in kernel.iterdir()}
    would = module("redis_kernel", check=True)
    assert {path.name: path.read_text() for path in kernel.iterdir()} == before
    done = module("redis_kernel")
    assert (would["changed"], would["paths"], would["diff"]) == (True, done["paths"], done["diff"])
    shown = {one["after_header"]: (one["before"], one["after"]) for one in done["diff"]}
    assert shown[str(kernel / "somaxconn")] == ("128\n", "1024\n")


@pytest.mark.parametrize("check", [False, True])
def test_what_a_container_may_not_set_is_told_and_not_written(kernel, module, monkeypatch, check):
    read_only(monkeypatch, "overcommit_memory", "enabled")
    answer = module("redis_kernel", check=check)
    assert "failed" not in answer
    assert [line.partition(",")[0] for line in answer["refused"]] == [
        f"{kernel}/overcommit_memory is 0",
        f"{kernel}/enabled is always",
    ]
    assert answer["paths"] == [str(kernel / "sysctl.d"), str(kernel / "somaxconn")]
    assert not (kernel / "tmpfiles.d").exists()
    if not check:
        assert "overcommit" not in (kernel / "sysctl.d").read_text()


def test_a_kernel_without_such_a_setting_is_fine(kernel, module):
    (kernel / "enabled").unlink()
    answer = module("redis_kernel")
    assert answer["refused"] == []
    assert str(kernel / "enabled") not in answer["paths"]
