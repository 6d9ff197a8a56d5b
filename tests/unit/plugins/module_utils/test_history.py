"""What a host remembers."""

from __future__ import annotations

from ansible_collections.orbiter.fleet.plugins.module_utils import _history as history


def test_what_was_kept_as_good_comes_back(tmp_path):
    settings, good = tmp_path / "worker.env", tmp_path / "good"
    settings.write_text("A=1")
    settings.chmod(0o600)
    assert history.good(good) is None
    assert not history.is_good([settings], good)
    history.keep({"release": "1"}, [settings], good)
    assert history.good(good) == {"release": "1"}
    assert history.is_good([settings], good)
    settings.write_text("A=2")
    settings.chmod(0o644)
    assert not history.is_good([settings], good)
    history.bring_back([settings], good)
    assert settings.read_text() == "A=1"
    assert settings.stat().st_mode & 0o777 == 0o600


def test_a_release_is_noted_once_until_another_is_well(tmp_path):
    file = tmp_path / "history"
    assert history.past(file) == []
    for release in ("1", "1", "2", "1"):
        history.note(release, file)
    assert history.past(file) == ["1", "2", "1"]


def test_no_more_is_remembered_than_anybody_asks_for(tmp_path):
    file = tmp_path / "history"
    for number in range(history.RECORDED + 5):
        history.note(str(number), file)
    assert history.past(file) == [str(number) for number in range(5, history.RECORDED + 5)]


def test_a_host_is_drained_where_it_says_so(tmp_path):
    assert history.drained(tmp_path / "drained") == ""
    (tmp_path / "drained").write_text("since 2026-01-01: new memory\n")
    assert history.drained(tmp_path / "drained") == "since 2026-01-01: new memory"
