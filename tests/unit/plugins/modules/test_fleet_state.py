"""The release to go back to is told from what a host remembers; looking changes nothing there."""

from __future__ import annotations

import pytest
from ansible_collections.orbiter.fleet.plugins.module_utils import _history, _systemd


@pytest.fixture
def host(monkeypatch):
    """Return a function that says what a host remembers: the releases installed, in use, and well before."""

    def remembers(installed=(), current="", past=(), good=None):
        monkeypatch.setattr(_systemd, "release", lambda: current)
        monkeypatch.setattr(_history, "installed", lambda: sorted(installed))
        monkeypatch.setattr(_history, "past", lambda: list(past))
        monkeypatch.setattr(_history, "good", lambda: good)

    # What would change a host is not there.
    for name in ("bring_back", "restart", "wait", "keep"):
        monkeypatch.delattr(_systemd, name)
    return remembers


@pytest.mark.parametrize(
    ("past", "previous"),
    [(["1", "2"], "1"), (["2", "1", "2"], "1"), (["1", "3", "2"], "1"), (["2", "1", "0", "2"], "0")],
)
def test_the_release_to_go_back_to_was_well_last_and_is_still_installed(module, host, past, previous):
    host(installed=["0", "1", "2"], current="2", past=past)
    told = module("fleet_state")
    assert (told["changed"], told["release"], told["previous"]) == (False, "2", previous)


def test_a_wanted_release_needs_to_be_installed_and_not_to_have_been_well(module, host):
    host(installed=["1", "2"], current="2", past=["2"])
    assert module("fleet_state", release="1")["previous"] == "1"
    refused = module("fleet_state", release="3")
    assert refused["failed"]
    assert "1, 2" in refused["msg"]


def test_with_nothing_to_go_back_to_it_says_what_is_installed(module, host):
    host(installed=["2"], current="2", past=["1", "2"])
    refused = module("fleet_state")
    assert refused["failed"]
    assert "Installed: 2" in refused["msg"]


@pytest.mark.parametrize(
    ("good", "release"), [({"release": "1", "instances": ["orbiter-worker@1.service"]}, "1"), (None, "-")]
)
def test_check_tells_what_would_come_back(module, host, good, release):
    host(current="2", good=good)
    told = module("fleet_state", state="good", check=True)
    assert told["changed"]
    assert told["diff"] == {"before": "release 2\n", "after": f"release {release}\n"}
    assert told["instances"] == (good or {"instances": []})["instances"]
