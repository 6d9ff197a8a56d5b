"""release_build builds what worker hosts install, by the role's own program."""

from __future__ import annotations

from pathlib import Path

PROGRAM = str(Path(__file__).parents[4] / "roles/release/files")


def test_check_tells_the_version_and_builds_nothing(module, tmp_path):
    options = {"program": PROGRAM, "targets": ["3.11-x86_64"], "cache": str(tmp_path / "cache")}
    found = module("release_build", check=True, diff=True, **options)
    assert found["changed"]
    assert found["archives"] == {"3.11-x86_64": f"{tmp_path}/cache/{found['version']}/3.11-x86_64.tar"}
    assert found["diff"] == {"before": "", "after": f"{found['version']}\n"}
    assert not (tmp_path / "cache").exists()


def test_what_is_in_the_cache_is_not_built_again(module, tmp_path):
    options = {"program": PROGRAM, "targets": ["3.11-x86_64"], "cache": str(tmp_path)}
    archive = Path(module("release_build", check=True, **options)["archives"]["3.11-x86_64"])
    archive.parent.mkdir()
    archive.touch()
    assert module("release_build", **options)["changed"] is False


def test_what_cannot_be_built_is_refused_in_a_check_too(module, tmp_path):
    options = {"program": PROGRAM, "cache": str(tmp_path)}
    for wrong in ({"targets": ["3.9-x86_64"]}, {"targets": ["3.11-x86_64"], "extras": ["no-such-extra"]}):
        answer = module("release_build", check=True, **options, **wrong)
        assert answer["failed"]
        assert next(iter(wrong.get("extras", ["Python 3.9"]))) in answer["msg"]
