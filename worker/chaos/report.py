"""What was found, as a table for people, as JSON for programs, and as the matrix of docs/reliability.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from chaos.checker import Verdict, summary

TOLD = 12


def to_dict(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return all of it for JSON."""
    return {
        "seeds": [verdict.seed for verdict in verdicts],
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
