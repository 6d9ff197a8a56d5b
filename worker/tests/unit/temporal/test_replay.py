"""Histories that earlier releases wrote are replayed: today's workflow code must decide as they did."""

from __future__ import annotations

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from orbiter.distributed.temporal import AgentExecutionWorkflow

HISTORIES = sorted((Path(__file__).parents[2] / "histories").glob("*.json"))


def test_there_is_a_history_of_every_way_a_task_can_go() -> None:
    assert {path.stem for path in HISTORIES} >= {
        "a_run_that_takes_too_long_counts_as_an_error",
        "a_task_completes_with_its_events_and_result",
        "a_task_that_fails_each_time_ends_failed_as_a_dead_letter",
        "a_task_that_waits_for_its_next_run_is_cancelled",
        "a_cancelled_run_ends_within_two_seconds[sleep]",
        "an_error_is_retried_and_counted",
        "finished_steps_of_an_agent_are_in_the_history",
        "temporal_away_in_mid_run_fails_nothing[8.0]",
        "what_outlives_a_drain_is_handed_back",
    }


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_todays_code_replays(path: Path) -> None:
    history = WorkflowHistory.from_json("orbiter-task-replayed", path.read_text())
    await Replayer(workflows=[AgentExecutionWorkflow]).replay_workflow(history)
