"""The first host changes alone, and a bad release goes no further."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).parents[3]
BATCHES = {"site": "Workers", "rolling_update": "Update a batch", "move": "Move a batch of workers"}


@pytest.fixture
def batches(ansible, tmp_path):
    """Return a function that plays with the batches of a playbook; it gives those that were begun."""

    def run(playbook, *options, hosts=5, bad=""):
        plays = yaml.safe_load((CHECKOUT / f"playbooks/{playbook}.yml").read_text())
        play = next(one for one in plays if one["name"] == BATCHES[playbook])
        play["roles"] = [str(CHECKOUT / "playbooks/roles/derived")]
        task = {"debug": {"msg": "{{ inventory_hostname }}"}, "failed_when": f"inventory_hostname == '{bad}'"}
        (tmp_path / "batches.yml").write_text(yaml.safe_dump([play | {"become": False, "tasks": [task]}]))
        inventory = ["[workers]", *(f"w{number}" for number in range(hosts))]
        done = ansible(inventory, tmp_path / "batches.yml", *options)
        begun = done.stdout.partition("PLAY RECAP")[0].split("PLAY [")[1:]
        assert begun, done.stdout + done.stderr
        return [len(re.findall(r"^(?:ok|fatal): \[w", one, re.MULTILINE)) for one in begun]

    return run


@pytest.mark.parametrize(
    ("playbook", "options", "found"),
    [
        ("site", [], [1, 4]),
        ("site", ["--extra-vars=orbiter_canary=2"], [2, 3]),
        ("site", ["--extra-vars=orbiter_canary=0"], [5]),
        ("site", ["--extra-vars=orbiter_serial=50%"], [1, 2, 2]),
        ("rolling_update", [], [1, 1, 1, 1, 1]),
        ("rolling_update", ['--extra-vars={"orbiter_serial": [2, "100%"]}'], [1, 2, 2]),
        ("move", ["--extra-vars=orbiter_serial=4"], [1, 4]),
    ],
)
def test_first_host_changes_before_the_others(batches, playbook, options, found):
    assert batches(playbook, *options) == found


def test_in_a_fleet_of_two_nobody_goes_first(batches):
    assert batches("site", hosts=2) == [2]


@pytest.mark.parametrize("playbook", ["site", "rolling_update"])
def test_what_is_bad_stops_at_the_first_host(batches, playbook):
    assert batches(playbook, "--extra-vars=orbiter_serial=100%", bad="w0") == [1]


def test_a_number_that_is_none_is_refused(ansible):
    done = ansible(["[redis]", "r", "[workers]", "w"], CHECKOUT / "playbooks/prepare.yml", "-eorbiter_canary=one")
    assert "orbiter_canary is one; it must be a whole number" in done.stdout
