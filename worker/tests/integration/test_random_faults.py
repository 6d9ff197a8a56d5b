"""Workers whose ways to Redis break at random for a minute: nothing exits, nothing is stuck, nothing uncounted."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tests.integration.fault_judge import Judge, outcome_of
from tests.integration.fault_plan import KINDS, SIDES
from tests.integration.fault_run import FaultRun

# What happens in a run is drawn from its seed. To repeat one, or to see one kind of fault, or one worker alone:
#   FAULT_SEEDS=12 FAULT_KINDS=hold,stall FAULT_SIDES=left pytest tests/integration/test_random_faults.py
FAULT_SEEDS = os.environ.get("FAULT_SEEDS", "11,12,13,14")
FAULT_KINDS = os.environ.get("FAULT_KINDS", ",".join(KINDS))
FAULT_SIDES = os.environ.get("FAULT_SIDES", "")


def drawn_run(seed: int, directory: Path) -> FaultRun:
    """Return a run; every seventh seed has one worker: nobody takes over from it what it has forgotten."""
    sides = FAULT_SIDES.split(",") if FAULT_SIDES else SIDES if seed % 7 else SIDES[:1]
    return FaultRun(seed, directory, FAULT_KINDS.split(","), sides)


async def test_a_minute_of_random_faults_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """The seeds run side by side, as each of them mostly waits."""
    runs = [drawn_run(int(seed), tmp_path / seed) for seed in FAULT_SEEDS.split(",")]
    played = await asyncio.gather(*(play(run) for run in runs))
    right, report = outcome_of(played)
    print(f"FAULT_SEEDS={FAULT_SEEDS} FAULT_KINDS={FAULT_KINDS} FAULT_SIDES={FAULT_SIDES}\n{report}")
    assert right, [judge.headline() for _, judge in played]


async def play(run: FaultRun) -> tuple[FaultRun, Judge]:
    judge = Judge(run)
    async with run.played() as fleet:
        if not run.server_ended:
            await judge.look(fleet)
    judge.judge()
    return run, judge
