"""A teardown takes the fleet's node exporters along. The last of all: no worker is left."""

from __future__ import annotations

import pytest
from test_1_node_exporter import FILE, OURS, assert_has_none, process


@pytest.fixture
def deployed(on):
    """Insist on node exporters of the fleet, and one that is not, which the tests before have left."""
    for name in OURS:
        assert on(name).file(FILE).exists
    assert process(on("worker2")) > 0


@pytest.mark.usefixtures("deployed")
def test_node_exporters_of_the_fleet_go_with_it_and_others_stay(on, play):
    before = process(on("worker2"))
    done = play("playbooks/teardown.yml", orbiter_teardown=True, orbiter_teardown_monitoring=True)
    assert done.returncode == 0
    for name in OURS:
        assert_has_none(on(name))
    assert process(on("worker2")) == before
