"""The checker of fault runs finds each invariant violated: histories made by hand, each wrong in one way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from chaos import checker, report
from chaos.history import Claim, Event, Exit, Happened, History, Reader, Record, Run, Sample, Submitted
from chaos.plan import FAULTS, NAMED, draw_faults, draw_work, drawn_in
from chaos.topology import KINDS

LEASE = 3.0


def history() -> History:
    """A run in which all is well: one task of each kind, a worker lost on the way."""
    submitted = {
        "plain": Submitted("short", ["completed"], began=1.0, accepted=1.1),
        "again": Submitted("long", ["completed"], began=1.0, accepted=1.1),
        "guilty": Submitted("segfault", ["failed"], guilty=True, began=1.0, accepted=1.1),
        "later": Submitted("delayed", ["completed"], began=1.0, accepted=1.1, not_before=6.0),
        "refused": Submitted("short", ["completed"], began=1.0),
    }
    runs = [
        Run("plain", 1, "w0", 10, 1.2, 1.3, "ends"),
        Run("again", 1, "w0", 10, 1.2, None, "no end", alive_until=2.0),
        Run("again", 2, "w1", 11, 5.5, 6.0, "ends"),
        Run("guilty", 1, "w1", 12, 1.2, None, "no end", alive_until=1.4),
        Run("later", 1, "w1", 11, 6.1, 6.2, "ends"),
    ]
    records = {
        "plain": Record("completed", attempt=1, worker="w0", said_by=[1, "w0"]),
        "again": Record("completed", attempt=2, losses=1, worker="w1", said_by=[2, "w1"]),
        "guilty": Record("failed", attempt=1, losses=1, crashes=1, worker="w1", error_type="ExecutorDiedError"),
        "later": Record("completed", attempt=1, worker="w1"),
    }
    events = {
        "plain": [Event(1, 1, "status", final=True, status="completed")],
        "again": [Event(1, 1, "text"), Event(2, 1, "text"), Event(2, 2, "status", final=True, status="completed")],
        "guilty": [Event(1, 1, "status", final=True, status="error")],
        "later": [Event(1, 1, "status", final=True, status="completed")],
    }
    claims = {"again": [Claim("1-1", 1, "w0", 1.19, 2.1), Claim("1-1", 2, "w1", 5.4, 5.9)]}
    return History(
        seed=1,
        duration=10.0,
        lease=LEASE,
        began=1.0,
        over=11.0,
        healed=12.0,
        submitted=submitted,
        runs=runs,
        records=records,
        events=events,
        claims=claims,
        faults=[Happened("kill worker", 2.0, 2.0, "w0"), Happened("reset", 5.0, 5.0, "w1")],
        readers=[Reader("plain", 1.1, 1.4, "final")],
        exits=[Exit("w0", 2.0, -9, ["SIGKILL"]), Exit("w1", 13.0, 0, ["SIGTERM"]), Exit("w2", 3.0, -15, ["SIGTERM"])],
    )


def found(known: History) -> set[str]:
    return {finding.check for finding in checker.judge(known).findings}


def test_nothing_is_found_where_all_is_well() -> None:
    verdict = checker.judge(history())
    assert verdict.findings == []
    assert verdict.counts["accepted"] == 4
    assert verdict.counts["submitted"] == 5
    assert verdict.recovery == {"kill worker": [3.5]}


def struck_each_time(known: History) -> None:
    """Have a fault end each of five runs of a task that is innocent, and the task with the last."""
    times = [10.0 * number for number in range(1, 6)]
    known.runs = [run for run in known.runs if run.task != "again"]
    known.runs += [
        Run("again", number, "w0", 10, at, None, "no end", alive_until=at + 2) for number, at in enumerate(times, 1)
    ]
    known.faults += [Happened("kill worker", at + 2, at + 2, "w0") for at in times]
    error = {"error_type": "WorkerLostError", "error": "lost its worker 5 times"}
    known.records["again"] = Record("failed", attempt=5, losses=5, crashes=2, **error)
    known.events["again"] = [Event(5, 1, "status", final=True, status="error")]
    known.claims["again"] = []


def test_task_may_fail_that_a_fault_struck_in_each_run() -> None:
    known = history()
    struck_each_time(known)
    verdict = checker.judge(known)
    assert verdict.findings == []
    assert verdict.counts["given up after faults"] == 1
    known.submitted["again"].guilty = True
    assert checker.judge(known).counts["given up after faults"] == 0


def spared(known: History) -> None:
    """Let one of the runs be lost without a fault."""
    struck_each_time(known)
    known.faults.pop()


def struck_on_another_worker(known: History) -> None:
    struck_each_time(known)
    known.faults[-1].worker = "w1"


def struck_by_what_was_not_done(known: History) -> None:
    struck_each_time(known)
    known.faults[-1].text = "not done: it was away"


def struck_by_what_costs_no_run(known: History) -> None:
    struck_each_time(known)
    known.faults[-1].kind = "delay"


def struck_long_before_and_after(known: History) -> None:
    struck_each_time(known)
    known.faults[-1].at = known.faults[-1].until = 60.0


def has_noted_no_run(known: History) -> None:
    struck_each_time(known)
    known.runs = [run for run in known.runs if run.task != "again"]


def fails_by_itself(known: History) -> None:
    struck_each_time(known)
    known.records["again"].error_type = "ValueError"


def given_up_too_early(known: History) -> None:
    struck_each_time(known)
    known.records["again"].losses = 3
    known.records["again"].retries = 2


def no_record(known: History) -> None:
    del known.records["plain"]


def no_entry(known: History) -> None:
    known.records["plain"] = Record("running", attempt=1)


def waits_for_ever(known: History) -> None:
    known.records["plain"] = Record("pending", attempt=1, held=True)


def another_end(known: History) -> None:
    known.records["plain"].first_end = "failed"


def innocent_fails(known: History) -> None:
    known.records["again"].status = "failed"
    known.events["again"][-1].status = "error"


def entry_is_lost(known: History) -> None:
    innocent_fails(known)
    known.records["again"].error_type = "EntryLostError"


def guilty_completes(known: History) -> None:
    known.records["guilty"].status = "cancelled"
    known.events["guilty"][-1].status = "cancelled"


def innocent_charged(known: History) -> None:
    known.records["again"].crashes = 1


def uncounted_loss(known: History) -> None:
    known.records["again"].losses = 0


def attempt_used_twice(known: History) -> None:
    known.records["again"].losses = 2
    known.runs.append(Run("again", 2, "w2", 13, 6.5, 6.6, "ends"))


def later_attempt(known: History) -> None:
    known.records["again"].attempt = 1
    known.records["again"].worker = "w0"


def loss_without_cause(known: History) -> None:
    """Nothing was killed, and no task does harm; yet one lost a run."""
    known.faults = [Happened("reset", 5.0, 5.0, "w1")]
    known.submitted["guilty"].guilty = False
    known.submitted["guilty"].ends.append("failed")


def recorded_without_run(known: History) -> None:
    known.runs[0].how = "stopped"


def result_of_another(known: History) -> None:
    known.records["again"].said_by = [1, "w0"]


def before_its_time(known: History) -> None:
    known.runs[-1].began = 5.5


def renewed_meanwhile(known: History) -> None:
    """Its process lives on, and so does its lease."""
    known.runs[1] = replace(known.runs[1], alive_until=7.0)
    known.claims["again"][0].renewed = 4.5


def under_one_claim(known: History) -> None:
    """No look at the queue saw another claim than the first."""
    known.runs[1] = replace(known.runs[1], alive_until=None)
    known.claims["again"] = [Claim("1-1", 1, "w0", 1.19, 9.0)]


def never_claimed(known: History) -> None:
    """Both runs so short after each other that no look saw either claim."""
    known.runs[1] = replace(known.runs[1], alive_until=4.0)
    known.runs[2] = replace(known.runs[2], began=1.9)
    known.claims.clear()


def two_final_events(known: History) -> None:
    known.events["plain"].append(Event(1, 2, "status", final=True, status="completed"))


def no_final_event(known: History) -> None:
    known.events["plain"] = []


def another_final_event(known: History) -> None:
    known.events["plain"][-1].status = "error"


def gap(known: History) -> None:
    known.events["again"][1].seq = 3


def attempts_out_of_order(known: History) -> None:
    known.events["again"].insert(2, Event(1, 2, "text"))


def reader_hangs(known: History) -> None:
    known.readers.append(Reader("plain", 1.0))


def reader_without_final(known: History) -> None:
    known.readers.append(Reader("plain", 1.0, 2.0, "no final event"))


def never_healed(known: History) -> None:
    known.healed = None


def key_stays(known: History) -> None:
    known.leftovers.append("x never expires")


def worker_exits(known: History) -> None:
    known.exits.append(Exit("w0", 4.0, 1))


def worker_exits_badly(known: History) -> None:
    known.exits.append(Exit("w0", 4.0, 1, ["SIGTERM"]))


@pytest.mark.parametrize(
    ("violate", "check"),
    [
        (no_record, "lost"),
        (no_entry, "lost"),
        (waits_for_ever, "stuck"),
        (another_end, "an end changed"),
        (innocent_fails, "innocent failed"),
        (spared, "innocent failed"),
        (struck_on_another_worker, "innocent failed"),
        (struck_by_what_was_not_done, "innocent failed"),
        (struck_by_what_costs_no_run, "innocent failed"),
        (struck_long_before_and_after, "innocent failed"),
        (has_noted_no_run, "innocent failed"),
        (fails_by_itself, "innocent failed"),
        (given_up_too_early, "innocent failed"),
        (entry_is_lost, "entry lost"),
        (guilty_completes, "ends as it must"),
        (innocent_charged, "innocent charged"),
        (uncounted_loss, "counted"),
        (attempt_used_twice, "counted"),
        (later_attempt, "counted"),
        (loss_without_cause, "a loss without a cause"),
        (recorded_without_run, "recorded has run"),
        (result_of_another, "recorded has run"),
        (before_its_time, "early"),
        (renewed_meanwhile, "doubled under live leases"),
        (under_one_claim, "doubled under live leases"),
        (never_claimed, "doubled under live leases"),
        (two_final_events, "final event"),
        (no_final_event, "final event"),
        (another_final_event, "final event"),
        (gap, "gaps"),
        (attempts_out_of_order, "gaps"),
        (reader_hangs, "hung subscriber"),
        (reader_without_final, "subscriber"),
        (never_healed, "leftovers"),
        (key_stays, "leftovers"),
        (worker_exits, "exits"),
        (worker_exits_badly, "exits"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_each_violation_is_found(violate: Callable[[History], None], check: str) -> None:
    known = history()
    violate(known)
    assert check in found(known)


@pytest.mark.parametrize("what", ["workers", "children", "descriptors", "connections", "consumers"])
def test_growth_is_found_in_a_long_run(what: str) -> None:
    known = history()
    known.over = 1000.0
    known.samples = [
        Sample(float(at), [50_000_000] * 4, [40_000_000] * 6, 60, 30, 4, 100 + at) for at in range(2, 1000, 2)
    ]
    assert checker.judge(known).findings == []
    for sample in known.samples[-200:]:
        taken = getattr(sample, what)
        setattr(sample, what, [80_000_000] * len(taken) if isinstance(taken, list) else 2 * taken + 5)
    assert [finding.check for finding in checker.judge(known).findings] == ["growth"]


def test_a_run_that_outlives_its_lease_is_counted_and_allowed() -> None:
    """Its worker was frozen: the lease ran out at 5.1, another began at 5.4, and the first woke up at 7."""
    known = history()
    known.runs[1] = replace(known.runs[1], alive_until=7.0)
    verdict = checker.judge(known)
    assert verdict.findings == []
    assert verdict.counts["doubled after expiry"] == 1


@pytest.mark.parametrize("violate", [no_record, uncounted_loss, another_end, recorded_without_run, entry_is_lost])
def test_what_a_failover_can_cost_is_counted_and_no_fault_beside_it_alone(violate: Callable[[History], None]) -> None:
    known = history()
    violate(known)
    known.faults.append(Happened("kill master", 1.5, 2.0))
    verdict = checker.judge(known)
    assert (verdict.findings, verdict.counts["not replicated"]) == ([], 1)
    known.faults[-1] = Happened("kill master", 9.5, 10.0)
    assert len(checker.judge(known).findings) == 1


def test_what_no_failover_excuses_is_found_beside_one() -> None:
    known = history()
    waits_for_ever(known)
    known.faults.append(Happened("kill master", 1.5, 2.0))
    assert "stuck" in found(known)


def test_a_history_is_read_as_it_was_written() -> None:
    assert History.from_json(history().to_json()) == history()


def test_a_report_tells_of_every_seed_and_finding() -> None:
    known = history()
    key_stays(known)
    verdicts = [checker.judge(history()), checker.judge(known)]
    told = report.to_dict(verdicts)
    assert told["counts"]["accepted"] == 8
    assert told["recovery"]["kill worker"] == {"times": 2, "median": 3.5, "longest": 3.5}
    assert [row["check"] for row in told["findings"]] == ["leftovers"]
    assert "x never expires" in report.text(verdicts)


def test_figures_go_to_their_place_on_the_page() -> None:
    page = f"# Title\n{report.BEGIN}\nformer figures\n{report.END}\nend\n"
    written = report.with_figures(page, [checker.judge(history())])
    assert "former figures" not in written
    assert written.startswith("# Title\n")
    assert written.endswith(f"{report.END}\nend\n")
    assert "| lost | 0 |" in written
    assert "3.5 s, 3.5 s (1) |" in written
    durable = replace(history(), topology="temporal", faults=[Happened("temporal away", 5.0, 5.2)])
    written = report.with_figures(page, [checker.judge(history()), checker.judge(durable)])
    assert "| one Redis | Temporal |" in written
    assert "| lost | 0 | 0 |" in written
    assert "3.5 s, 3.5 s (1) |" in written
    assert set(report.MATRIX) == set(report.NAMES) == set(FAULTS)
    with pytest.raises(ValueError, match="needs the lines"):
        report.with_figures("# Title", [])


def test_a_seed_makes_the_same_run_each_time() -> None:
    seven, again, eight = (draw_faults(seed, 60, drawn_in("single")) for seed in (7, 7, 8))
    assert seven == again != eight
    assert draw_work(7, 20) == draw_work(7, 20) != draw_work(8, 20)


def test_every_kind_of_fault_is_drawn_or_only_some_as_often() -> None:
    for topology in KINDS:
        kinds = drawn_in(topology)
        drawn = [fault for seed in range(20) for fault in draw_faults(seed, 120, kinds)]
        assert {fault.kind for fault in drawn} == set(kinds)
    assert {*NAMED, *(kind for topology in KINDS for kind in drawn_in(topology))} == set(FAULTS)
    only = draw_faults(3, 120, kinds=["reset"])
    assert {fault.kind for fault in only} == {"reset"}
    assert len(only) > 30
    assert draw_faults(3, 120, kinds=["none"]) == []
