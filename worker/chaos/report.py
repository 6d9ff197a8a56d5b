"""What was found, as a table for people, as JSON for programs, and as the matrix of docs/reliability.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from chaos.checker import Verdict, summary
from chaos.plan import drawn_in

TOLD = 12
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
# Of each kind of fault: what may happen, and what holds.
MATRIX = {
    "kill worker": (
        "its runs end where they are, its executor processes with them",
        "they run again: at once where the same worker starts anew on that host, else when the lease has run out",
    ),
    "end worker": (
        "runs that do not end within `--drain-timeout` are handed back",
        "no run is lost; a hand-off charges nothing",
    ),
    "end worker twice": ("all runs are handed back at once", "no run is lost; a hand-off charges nothing"),
    "end deaf worker": (
        "claims are pending on it of which it was never told",
        "it finds them before it exits, and hands them back",
    ),
    "freeze worker": (
        "its leases run out; a run that is frozen with it may wake up beside its successor",
        "what it does after its lease changes nothing; its executor processes end themselves at the lease's end",
    ),
    "kill executor": (
        "the runs in that process are lost, and each runs alone next",
        "the worker and other processes go on; nobody is charged without proof",
    ),
    "freeze executor": (
        "what runs in it waits, and is killed after `--stall-timeout`",
        "the process is dead before its tasks run again",
    ),
    "freeze redis": (
        "everything waits",
        "nothing is lost; runs whose lease could not be renewed are stopped and run again",
    ),
    "restart redis": ("everything waits for the AOF to be read", "nothing is lost"),
    "kill redis": (
        "everything waits; with `appendfsync everysec` a power cut may lose the last second",
        "what had been written is there: the kernel keeps it when only the process dies",
    ),
    "pause clients": ("everything waits", "nothing is lost; runs whose lease could not be renewed run again"),
    "kill clients": (
        "a claim or an outcome whose answer was under way is in doubt",
        "outcomes are sent again and count once; claims are found in the own history",
    ),
    "fill redis": (
        "submit is refused with a clear error; progress events may be left out",
        "outcomes are recorded all the same; what was accepted runs",
    ),
    "delay": ("everything takes longer", "nothing is lost"),
    "drop": (
        "calls hang, and arrive late",
        "each call is given up after six seconds; what arrives late is refused by its fence",
    ),
    "reset": ("as by CLIENT KILL", "as by CLIENT KILL"),
    "half-open": (
        "a worker talks to nobody and is not told",
        "it notices after six seconds, and stops its runs before their leases end",
    ),
    "shift clock": (
        "logs and spans of that worker show wrong times",
        "nothing that workers or clients compare is by their clocks; no task runs early",
    ),
    "roll worker": (
        "both releases serve the queue at a time, each with its own scripts",
        "as where workers end: each runs what the other has begun or written",
    ),
    "kill master": (
        "what it had acknowledged a moment before may not have reached the replica",
        "everything else is there; workers and clients go on with the replica",
    ),
    "freeze master": (
        "the same; woken, and not told yet, it takes writes unless `redis_min_replicas_to_write` is set",
        "as where it is killed",
    ),
    "switch master": (
        "sentinels tell the old master some ten seconds later; in a cluster it waits for its replica to be in step",
        "an old master that nobody follows any more refuses writes, so that they go to the new one",
    ),
    "temporal away": ("durable tasks wait, begun ones go on", "nothing is lost, and nothing fails"),
}
# What is counted of runs, as the page says it.
COUNTED = {
    "faults": ("faults",),
    "accepted tasks": ("accepted",),
    "completed, failed, cancelled": ("completed", "failed", "cancelled"),
    "lost": ("lost",),
    "harmed by a failover": ("not replicated",),
    "stuck": ("stuck",),
    "doubled under live leases, after expiry": ("doubled under live leases", "doubled after expiry"),
    "innocents charged with a crash": ("innocents charged",),
    "subscribers, hung": ("subscribers", "hung subscribers"),
    "runs; after an error, lost, handed off": ("runs", "retries", "losses", "hand-offs"),
}
TOPOLOGIES = {"single": "one Redis", "sentinel": "three sentinels", "cluster": "cluster of six", "temporal": "Temporal"}
NAMES = {
    "kill worker": "SIGKILL of a worker",
    "end worker": "SIGTERM of a worker",
    "end worker twice": "SIGTERM of a worker, twice",
    "end deaf worker": "SIGTERM of a worker, the answer to its last read lost",
    "freeze worker": "SIGSTOP of a worker, for up to 6 s",
    "kill executor": "SIGKILL of an executor process",
    "freeze executor": "SIGSTOP of an executor process, for up to 9 s",
    "freeze redis": "SIGSTOP of Redis, for up to 5 s",
    "restart redis": "restart of Redis",
    "kill redis": "SIGKILL of Redis, away for up to 2 s",
    "pause clients": "CLIENT PAUSE, for up to 5 s",
    "kill clients": "CLIENT KILL of all connections",
    "fill redis": "`maxmemory` reached, for up to 4 s",
    "delay": "network: each packet up to 0.3 s late",
    "drop": "network: silence for up to 8 s, then all of it late",
    "reset": "network: connections reset",
    "half-open": "network: one side gone, the other not told for up to 10 s",
    "shift clock": 'a worker\'s clock jumps, by up to 10 min either way (`--faults "shift clock"`)',
    "roll worker": 'workers of this release and another in turn (`--faults "roll worker" --older TAG`)',
    "kill master": "SIGKILL of a master (`--topology sentinel`, `--topology cluster`)",
    "freeze master": "SIGSTOP of a master, for up to 4 s after its replica took over (the same)",
    "switch master": "planned failover (the same)",
    "temporal away": "SIGKILL of Temporal, away for up to 8 s (`--topology temporal`)",
}


def to_dict(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return all of it for JSON."""
    return {
        "seeds": [verdict.seed for verdict in verdicts],
        "topologies": [verdict.topology for verdict in verdicts],
        "seconds": sum(verdict.duration for verdict in verdicts),
        "counts": totals(verdicts),
        "recovery": {
            kind: {"times": len(times), "median": round(summary(times)[0], 2), "longest": round(summary(times)[1], 2)}
            for kind, times in recoveries(verdicts).items()
        },
        "findings": [
            {"seed": verdict.seed, "check": finding.check, "subject": finding.subject, "text": finding.text}
            for verdict in verdicts
            for finding in verdict.findings
        ],
    }


def totals(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Return the counts of all runs together."""
    found: dict[str, int] = {}
    for verdict in verdicts:
        for name, number in verdict.counts.items():
            found[name] = found.get(name, 0) + number
    return found


def recoveries(verdicts: Iterable[Verdict]) -> dict[str, list[float]]:
    """Return the times of all runs together, by kind of fault."""
    found: dict[str, list[float]] = {}
    for verdict in verdicts:
        for kind, times in verdict.recovery.items():
            found.setdefault(kind, []).extend(times)
    return {kind: times for kind, times in sorted(found.items()) if times}


def text(verdicts: Sequence[Verdict]) -> str:
    """Return a table for people."""
    names = list(totals(verdicts))
    width = max(map(len, names)) + 2
    lines = [f"{'':{width}}" + "".join(f"{f'seed {verdict.seed}':>10}" for verdict in verdicts)]
    lines += [f"{name:{width}}" + "".join(f"{verdict.counts[name]:>10}" for verdict in verdicts) for name in names]
    lines.append("")
    lines.append(f"{'runs again after':{width}}{'times':>10}{'median':>10}{'longest':>10}  (seconds)")
    for kind, times in recoveries(verdicts).items():
        middle, longest = summary(times)
        lines.append(f"{kind:{width}}{len(times):>10}{middle:>10.2f}{longest:>10.2f}")
    for verdict in verdicts:
        if verdict.findings:
            seen = Counter(finding.check for finding in verdict.findings)
            lines += ["", f"seed {verdict.seed}: {len(verdict.findings)} findings: {dict(seen)}"]
            lines += [f"  {finding}" for finding in verdict.findings[:TOLD]]
    return "\n".join(lines)


def with_figures(page: str, verdicts: Sequence[Verdict]) -> str:
    """Return docs/reliability.md with the figures of these runs.

    Raises:
        ValueError: The page has no place for them.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{_figures(verdicts)}\n{END}{after}"


def _row(name: str, cells: Iterable[object]) -> str:
    return f"| {' | '.join([name, *map(str, cells)])} |"


def _seeds(seeds: Iterable[int]) -> str:
    """Return numbers, those that follow each other as a range."""
    numbers = sorted(set(seeds))
    parts = []
    while numbers:
        many = next((at for at, number in enumerate(numbers) if number != numbers[0] + at), len(numbers))
        parts.append(f"{numbers[0]} to {numbers[many - 1]}" if many > 2 else ", ".join(map(str, numbers[:many])))
        numbers = numbers[many:]
    return ", ".join(parts)


def _figures(verdicts: Sequence[Verdict]) -> str:
    # What a failover costs is no fault of the queue's: a column each, so that neither hides behind the other.
    kinds = list(dict.fromkeys(verdict.topology for verdict in verdicts))
    columns = [[verdict for verdict in verdicts if verdict.topology == kind] for kind in kinds]
    numbers = [totals(column) for column in columns]
    lines = [
        _row("", [TOPOLOGIES[kind] for kind in kinds]),
        _row("---", ["---" for _ in kinds]),
        _row("seeds", [_seeds(verdict.seed for verdict in column) for column in columns]),
        _row("findings", [sum(len(verdict.findings) for verdict in column) for column in columns]),
        *(
            _row(told, [", ".join(f"{number[name]}" for name in names) for number in numbers])
            for told, names in COUNTED.items()
        ),
        "",
        "| fault | what may happen | what holds | runs again after: median, longest (times) |",
        "| --- | --- | --- | --- |",
    ]
    # Durable tasks and failovers have times of their own: of those, what is drawn there alone.
    plain = recoveries(verdict for verdict in verdicts if verdict.topology == "single")
    times = {kind: times for kind, times in recoveries(verdicts).items() if kind not in drawn_in("single")} | plain
    for kind, (may, holds) in MATRIX.items():
        figure = (
            "{:.1f} s, {:.1f} s ({})".format(*summary(times[kind]), len(times[kind])) if kind in times else "not drawn"
        )
        lines.append(f"| {NAMES[kind]} | {may} | {holds} | {figure} |")
    return "\n".join(lines)
