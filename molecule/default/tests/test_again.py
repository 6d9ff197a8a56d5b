"""A deploy that changes nothing costs each host few round trips: that is what bounds how large a fleet can be.

The first of all, when nothing has changed since molecule deployed.
"""

from __future__ import annotations

import pytest

MOST = 12


@pytest.fixture(scope="module")
def again(counted_play):
    """Deploy once more; return what Ansible said, and the tasks that ran on each host."""
    done, ran = counted_play("site.yml")
    assert done.returncode == 0
    return done.stdout, ran


def test_few_tasks_run_on_a_worker_host(again, workers):
    _, ran = again
    for name in workers:
        print(name, len(ran[name]), *ran[name], sep="\n  ")
        assert 3 < len(ran[name]) <= MOST  # it counts at all, and not too many


def test_nothing_changes(again):
    assert not [line for line in again[0].splitlines() if line.startswith("changed:")]
