"""Files of a host in one step."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.orbiter.fleet.plugins.module_utils import _host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that holds a file, a folder with a file in it, and a link to what is elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("stays")
    (tmp_path / "folder/old").mkdir(parents=True)
    (tmp_path / "folder/old/key").write_text("s3cret")
    (tmp_path / "folder/new").write_text("here")
    (tmp_path / "folder/link").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "folder"


@pytest.fixture
def keep(module: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Return a function that lets a folder hold these names only."""

    def only(folder: Path, *names: str, check: bool = False) -> dict[str, Any]:
        return module("host_files", check=check, files=[{"path": str(folder), "mode": "0700", "only": list(names)}])

    return only


def test_folder_holds_only_what_it_may(keep, folder):
    said = keep(folder, "new")
    assert said["paths"] == [str(folder)]
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert (folder.parent / "elsewhere/file").read_text() == "stays"
    assert "s3cret" not in str(said)
    assert not keep(folder, "new")["changed"]


def test_check_tells_what_a_folder_may_not_hold_and_removes_nothing(keep, folder):
    said = keep(folder, "new", check=True)
    assert said["changed"]
    assert "old" in str(said["diff"])
    assert len(list(folder.iterdir())) == 3


def test_folder_that_is_not_there_holds_nothing_too_much(keep, tmp_path):
    assert not keep(tmp_path / "none")["changed"]
    assert not (tmp_path / "none").exists()


def test_a_diff_of_secrets_shows_what_it_may_and_that_others_changed(module, tmp_path):
    path = str(tmp_path / "worker.env")
    person, group = tmp_path.owner(), tmp_path.group()

    def write(content: str, *shown: str) -> str:
        entry = {"path": path, "owner": person, "group": group, "mode": "0600", "shown": list(shown)}
        said = module("host_files", diff=True, files=[entry], secrets={path: content})
        return json.dumps(said["diff"])

    write('SLOTS="1"\nTOKEN="s3cret-one"\nKEY="s3cret-key"\nPEM="a\n#s3cret-b\ns3cret-line="\n')
    said = write('SLOTS="2"\nTOKEN="s3cret-two"\nKEY="s3cret-key"\nPEM="a\n#s3cret-c\ns3cret-line="\n', "SLOTS")
    assert 'SLOTS=\\"1\\"' in said
    assert 'SLOTS=\\"2\\"' in said
    assert "TOKEN=(hidden, and not the same)" in said
    assert "KEY=(hidden)" in said
    assert "s3cret-" not in said


@pytest.mark.parametrize(
    ("shown", "runs"),
    [
        ({"ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}, True),
        ({"ActiveState": "failed", "UnitFileState": "enabled", "NeedDaemonReload": "no"}, False),
        ({"ActiveState": "active", "UnitFileState": "disabled", "NeedDaemonReload": "no"}, False),
        ({"ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "yes"}, False),
        ({}, False),  # as on a host without systemd
    ],
    ids=["all is well", "it failed", "it would not start with the host", "its file is newer", "no systemd"],
)
def test_a_unit_needs_nothing_only_where_it_runs_from_its_file(module, monkeypatch, shown, runs):
    monkeypatch.setattr(_host, "show", lambda *_: shown)
    assert module("host_files", files=[], units=["some.service"])["units"] == {"some.service": runs}
