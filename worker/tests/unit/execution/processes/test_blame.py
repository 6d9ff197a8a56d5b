"""Blame: who is charged where an executor process died."""

from __future__ import annotations

from itertools import permutations

import pytest

from orbiter.distributed.execution.processes.blame import ROW, Blame, Verdict


def test_death_on_a_host_where_nothing_ended_proves_nothing() -> None:
    assert Blame().died(["t1"]) == Verdict(works_well=False, host=False)


def test_death_after_a_task_ended_here_is_the_tasks_own() -> None:
    blame = Blame()
    blame.ended()
    assert blame.died(["t1"]) == Verdict(works_well=True, host=False)
    # An end counts for one death: what happens behind it is not known to be the task's.
    assert blame.died(["t1"]) == Verdict(works_well=False, host=False)


def test_host_is_bad_after_three_deaths_in_a_row_of_tasks_that_all_differ() -> None:
    blame = Blame()
    for number in range(ROW - 1):
        assert not blame.died([f"t{number}"]).host
        assert not blame.bad_host
    assert blame.died([f"t{ROW}"]) == Verdict(works_well=False, host=True)
    assert blame.bad_host


def test_task_that_ends_between_deaths_clears_the_host() -> None:
    blame = Blame()
    for number in range(ROW * 3):
        if number % 2:
            blame.ended()
        assert not blame.died([f"t{number}"]).host
    blame.died(["a"])
    blame.died(["b"])
    assert blame.bad_host
    blame.ended()
    assert not blame.bad_host


def test_poison_alone_never_makes_the_host_bad() -> None:
    blame = Blame()
    for _ in range(20):
        assert not blame.died(["poison"]).host


@pytest.mark.parametrize("order", list(permutations([("a",), ("a", "b"), ("a", "b", "c")])))
def test_poison_beside_others_never_makes_the_host_bad(order: tuple[tuple[str, ...], ...]) -> None:
    blame = Blame()
    for tasks in order * 4:
        assert not blame.died(tasks).host


@pytest.mark.parametrize("order", ["ab", "aab", "abb"])
def test_two_poisons_never_make_the_host_bad(order: str) -> None:
    """Nothing would be counted of them then, and where nothing else runs neither would ever end."""
    blame = Blame()
    for task in order * 10:
        assert not blame.died([task]).host


def test_three_poisons_in_turn_look_like_a_bad_host_until_a_task_ends() -> None:
    blame = Blame()
    verdicts = [blame.died([task]).host for task in "abcab"]
    assert verdicts == [False, False, True, True, True]
    blame.ended()
    assert blame.died(["a"]) == Verdict(works_well=True, host=False)


def test_process_that_died_without_a_task_is_nobodys() -> None:
    blame = Blame()
    for _ in range(ROW * 2):
        assert not blame.died([]).host


def test_only_the_last_deaths_count() -> None:
    blame = Blame()
    for task in ("a", "b", "c", "p"):
        blame.died([task])
    assert blame.bad_host
    assert not blame.died(["p"]).host
