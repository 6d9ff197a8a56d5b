"""A deploy that changes nothing costs each host few round trips: that is what bounds how large a fleet can be.

The first of all, when nothing has changed since molecule deployed.
"""

from __future__ import annotations

import pytest

# Exchanges with a host; results of a host, skipped or not, as each costs the controller time; lines on the screen.
MOST, RESULTS, LINES = 4, 12, 60
# What runs once for all runs on the first host: it connects to Redis, is asked who works and what another queue holds.
ONCE = {"worker1": (2, 8)}


@pytest.fixture(scope="module")
def again(counted_play):
    """Deploy once more; return what Ansible said, and the tasks that ran on each host."""
    done, ran, ended = counted_play("site.yml")
    assert done.returncode == 0
    return done.stdout, ran, ended


def test_few_tasks_run_on_a_worker_host(again, workers):
    _, ran, ended = again
    for name in workers:
        print(name, len(ran[name]), *ran[name], len(ended[name]), *ended[name], sep="\n  ")
        more, besides = ONCE.get(name, (0, 0))
        assert 3 <= len(ran[name]) <= MOST + more  # it counts at all, and not too many
        assert len(ran[name]) < len(ended[name]) <= RESULTS + besides


def test_output_fits_on_a_screen(again):
    assert len(again[0].splitlines()) <= LINES


def test_nothing_changes(again):
    assert not [line for line in again[0].splitlines() if line.startswith("changed:")]


def test_lock_is_held_from_the_beginning_and_nothing_else_is_said_of_it(again):
    assert "This deploy has no lock" not in again[0]
