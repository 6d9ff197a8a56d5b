"""Deploys: two rows of a run are one deploy, and who never said how it ended was interrupted."""

from __future__ import annotations

from orbiter.distributed.broker.deploys import Deploy, read


def row(second: int, token: str, outcome: str, release: str = "") -> tuple[str, dict[str, str]]:
    fields = {"token": token, "playbook": "site", "user": "anna", "controller": "laptop"}
    return f"{second * 1000}-0", fields | {"outcome": outcome, "release": release}


def test_a_beginning_and_its_end_are_one_deploy() -> None:
    assert read([row(10, "a", "began"), row(70, "a", "ended", "0.2.0")]) == [
        Deploy("a", "site", "anna", "laptop", "0.2.0", began=10, ended=70, outcome="ended")
    ]


def test_the_same_run_may_begin_again_after_a_failure_of_a_batch() -> None:
    found = read([row(1, "a", "began"), row(2, "a", "failed"), row(3, "a", "began"), row(4, "a", "ended")])
    assert [(deploy.began, deploy.ended, deploy.outcome) for deploy in found] == [(1, 2, "failed"), (3, 4, "ended")]


def test_who_never_ended_was_interrupted_once_another_began() -> None:
    found = read([row(1, "a", "began"), row(2, "b", "began")])
    assert [(deploy.token, deploy.ended, deploy.outcome) for deploy in found] == [
        ("a", None, "interrupted"),
        ("b", None, ""),
    ]


def test_an_end_whose_beginning_was_trimmed_stands_for_itself() -> None:
    [found] = read([row(5, "a", "failed")])
    assert (found.began, found.ended, found.outcome) == (None, 5, "failed")


def test_odd_rows_hide_no_other() -> None:
    found = read([("1000-0", {"x": "y"}), row(2, "b", "began"), row(3, "b", "ended")])
    assert [deploy.outcome for deploy in found] == ["ended", "ended"]
