"""``python -m chaos [--seed N]... [--duration SECONDS]``: progress on stderr, the table on stdout; 1 where it fails."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

import click

from chaos import plan, report, topology
from chaos.checker import Verdict, judge
from chaos.history import History
from chaos.play import LEASE, Play

# Each durable task is a workflow: some thirty a second keep a machine of two cores busy.
DURABLE_RATE = 3.0
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.option("--seed", "seeds", multiple=True, default=("1",), help="A number, or a range as 1-20; repeatable.")
@click.option("--duration", default=30.0, show_default=True, help="Seconds of tasks and faults for each seed.")
@click.option("--hours", type=float, help="Go on with the next seeds for so long.")
@click.option("--topology", "where", type=click.Choice(topology.KINDS), default="single", show_default=True)
@click.option("--faults", default="", help="Kinds of fault, with commas between; those of the topology unless given.")
@click.option("--older", default="", help="Commit or tag whose worker takes turns with this one, by `roll worker`.")
@click.option("--lease", default=LEASE, show_default=True, help="Lifetime of a lease, seconds.")
@click.option("--drain", default=2.0, show_default=True, help="Seconds that a worker which ends gives its tasks.")
@click.option("--rate", type=float, help="Tasks a second: 14, and with Temporal 3.")
@click.option("--no-poison", is_flag=True, help="Without tasks that kill, block or fill their process.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Where logs and histories stay.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write all to a file.")
@click.option("--again", type=FILE, multiple=True, help="Judge a history.json again, and play nothing; repeatable.")
@click.option("--docs", type=FILE, help="Write the figures into docs/reliability.md.")
def main(  # noqa: PLR0917 - click passes them by name
    seeds: tuple[str, ...],
    duration: float,
    hours: float | None,
    where: str,
    faults: str,
    older: str,
    lease: int,
    drain: float,
    rate: float | None,
    no_poison: bool,
    keep: Path | None,
    json_file: Path | None,
    again: tuple[Path, ...],
    docs: Path | None,
) -> None:
    """Throw faults that are drawn from seeds at a real fleet, and check what must hold all the same."""
    kinds = _kinds(faults, where)
    if ("roll worker" in kinds) != bool(older):
        raise click.BadParameter("--older COMMIT and --faults 'roll worker' go together: which release takes turns")
    verdicts: list[Verdict] = []
    if again:
        verdicts += [judge(History.from_json(path.read_text())) for path in again]
        if json_file:
            json_file.write_text(json.dumps(report.to_dict(verdicts), indent=1) + "\n")
    else:
        directory = keep or Path(tempfile.mkdtemp(prefix="chaos-"))
        until = time.monotonic() + 3600 * hours if hours else 0.0
        for seed in count(_numbers(seeds)[0]) if hours else _numbers(seeds):
            if hours and time.monotonic() > until:
                break
            place = directory / f"{seed}-{time.strftime('%H%M%S')}"
            played = Play(
                seed,
                duration,
                place,
                kinds=kinds,
                lease=lease,
                rate=rate or (DURABLE_RATE if where == "temporal" else plan.TASKS_A_SECOND),
                # A task that kills its process is killed again by each worker that Temporal gives it to.
                poison=not no_poison and where != "temporal",
                drain=drain,
                where=where,
                older=older,
            )
            verdicts.append(judge(asyncio.run(played.run())))
            found = verdicts[-1].findings
            click.echo(f"seed {seed}: {len(found)} findings; logs and history in {place}", err=True)
            if json_file:
                json_file.write_text(json.dumps(report.to_dict(verdicts), indent=1) + "\n")
    click.echo(report.text(verdicts))
    if docs:
        docs.write_text(report.with_figures(docs.read_text(), verdicts))
    sys.exit(any(verdict.findings for verdict in verdicts))


def _kinds(text: str, where: str) -> list[str]:
    known = [*plan.drawn_in(where), *plan.NAMED]
    kinds = [kind.strip() for kind in text.split(",") if kind.strip()] or list(plan.drawn_in(where))
    if unknown := sorted(set(kinds) - {*known, "none"}):
        raise click.BadParameter(f"--faults {', '.join(unknown)}: in {where} there are: {', '.join(known)}, none")
    return kinds


def _numbers(texts: tuple[str, ...]) -> list[int]:
    found: list[int] = []
    for text in texts:
        first, _, last = text.partition("-")
        try:
            found += range(int(first), int(last or first) + 1)
        except ValueError:
            raise click.BadParameter(f"--seed {text}: write a number, or two with a hyphen between") from None
    return found


if __name__ == "__main__":
    os.nice(5)
    main()
