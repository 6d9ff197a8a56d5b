"""The page of a fleet's state has the last deploys."""

from __future__ import annotations

from ansible_collections.orbiter.fleet.plugins.filter.fleet_page import DEPLOYS, fleet_page

DEPLOY = {"began": 1771324215.9, "ended": 1771324300.0, "playbook": "orbiter.fleet.site", "user": "alice"}
DEPLOY |= {"controller": "laptop", "release": "0.2.0-1f2e3d4c", "outcome": "ended"}


def test_deploys_are_on_the_page():
    open_end = DEPLOY | {"ended": None, "outcome": "", "release": "", "playbook": "rolling_update"}
    found = fleet_page({}, deploys=[open_end, DEPLOY])
    at = next(number for number, line in enumerate(found["page"]) if line.startswith("DEPLOY "))
    assert found["page"][at : at + 4] == [
        "DEPLOY         BEGAN            RELEASE        BY           OUTCOME",
        "rolling_update 2026-02-17 10:30 -              alice@laptop no end yet",
        "site           2026-02-17 10:30 0.2.0-1f2e3d4c alice@laptop ended",
        "",
    ]
    assert found["state"]["deploys"] == [open_end, DEPLOY]


def test_the_page_has_the_newest_ones_only():
    page = fleet_page({}, deploys=[DEPLOY] * 20)["page"]
    assert sum(line.startswith("site ") for line in page) == DEPLOYS


def test_a_page_without_deploys_says_nothing_of_them():
    assert not [line for line in fleet_page({})["page"] if "DEPLOY" in line]


def test_what_somebody_wrote_into_a_deploy_is_printable():
    page = fleet_page({}, deploys=[DEPLOY | {"user": "a\x1b[2J: b"}])["page"]
    assert [line for line in page if not line.isprintable()] == []
